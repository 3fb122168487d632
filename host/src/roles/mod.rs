//! Which credentials a role ARN stands for.
