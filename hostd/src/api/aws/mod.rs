//! The protocols of AWS's services, on one address: what AWS's SDKs and its command line speak.
//!
//! ```text
//!  accept, TLS ─► request id ─► what the head says about its signature: an unknown key is refused before any body
//!     ─► body, bounded ─► signature ─► caller ─► the front end of the service in the signature's scope
//! ```
//!
//! The scope of a signature ([`crate::access::sigv4`]) says which service is meant, never the path. Every front end maps
//! its protocol to calls of [`crate::service`], and has no other way to the operations.
//!
//! * [`config`] – the section `[aws]`
//! * [`listen`] – the listener
//! * [`dispatch`] – from a request to a front end
//! * [`protocol`] – what a refusal looks like in each protocol
//! * [`reply`] – what responses of all protocols have in common
//! * [`rest`] – REST-JSON: the 24 operations
//! * [`sts`] – temporary credentials, and who calls: the Query protocol
//! * [`logs`] – CloudWatch Logs: AWS JSON; [`s3`] – the local bucket, whose front end verifies signatures by itself

pub mod config;
pub(crate) mod dispatch;
pub mod listen;
pub(crate) mod logs;
mod protocol;
pub(crate) mod reply;
pub(crate) mod rest;
pub(crate) mod s3;
pub(crate) mod sts;
#[cfg(test)]
mod tests;

pub use config::{AwsConfig, AwsConfigError};
pub(crate) use dispatch::Signed;
pub use listen::{AwsListenError, AwsListener};
