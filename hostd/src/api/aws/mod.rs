//! Protocols of AWS: front ends for clients that sign their requests ([`crate::access::sigv4`]).
//!
//! * [`sts`] – temporary credentials, and who calls: the Query protocol

pub(crate) mod sts;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use hyper::http::request::Parts;

use crate::service::pipeline::Incoming;

/// A request whose signature was verified.
#[derive(Debug)]
pub(crate) struct Signed {
    /// The call; its caller is known.
    pub(crate) incoming: Incoming,
    /// The head of the request.
    pub(crate) parts: Parts,
    /// The whole body.
    pub(crate) body: Bytes,
}
