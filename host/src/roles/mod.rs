//! Which credentials a role ARN stands for.

mod credentials;

pub use credentials::{Credentials, Secret, StaticKeys, VALIDITY};
