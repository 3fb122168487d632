//! The instance metadata service (IMDSv2).
