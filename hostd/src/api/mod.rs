//! Front ends: what is said over the wire becomes calls of [`crate::service`], and nothing else happens here.
//!
//! * [`grpc`] – `hearth.microvms.v1` and `hearth.host.v1`
//! * [`observer`] – who is told of calls; [`artifacts`] – the local bucket

pub mod artifacts;
pub mod grpc;
pub mod observer;
