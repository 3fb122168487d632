//! Signatures of AWS's clients: Signature Version 4 in the header `Authorization`, and in the query of presigned URLs.
//!
//! ```text
//!  head of the request ─► Claim::read ─► Access::known ─► KnownKey ─► body is read ─► Access::verified ─► Caller
//! ```
//!
//! What a request says about its signature is a [`Claim`], which is read from the head of the request alone. The key, the
//! scope and the time are checked before anything of the body is read, so that nobody without a key makes the daemon
//! receive a body. The signature covers path and query as they were received: nothing is decoded or normalised first.
//!
//! The project has its own verification because the crate for it, `scratchstack-aws-signature`, decodes and normalises
//! paths and encodes them once, whereas clients of every service but S3 sign the received path encoded once more.
//!
//! * [`claim`] – what a request says about its signature
//! * [`error`] – why a request is refused: names, sentences and HTTP status as AWS has them, for each protocol
//! * [`stamp`] – the times in requests
//! * `canonical` – the canonical request
//! * `signing` – signing keys
//! * `verify` – the steps above
//!
//! Source: AWS's "Signature Version 4 signing process"; `botocore/auth.py` for what clients do where that is vague.

mod canonical;
pub mod claim;
pub mod error;
mod signing;
pub mod stamp;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

pub use claim::Claim;
pub use error::{Protocol, SignatureError};
pub(super) use signing::SigningKeys;
pub use verify::KnownKey;
pub(super) use verify::Scope;

/// The only algorithm: HMAC with SHA-256.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The last element of each scope.
const TERMINATOR: &str = "aws4_request";
/// The service whose requests the S3 front end verifies, which knows signatures of streams.
pub const S3: &str = "s3";
