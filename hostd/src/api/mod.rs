//! Wire mapping: what comes over gRPC becomes calls of [`crate::service`], and what they answer goes back.
//!
//! * [`listen`] – Unix socket and TCP with TLS
//! * [`grpc`] – the services, reflection and health
//! * [`calls`] – who is told of each call
//! * [`artifacts`] – zips that are uploaded into the local bucket
//! * [`json`] – messages as JSON with AWS's names

pub mod artifacts;
pub mod calls;
pub mod grpc;
pub mod json;
pub mod listen;

pub use listen::{ListenConfig, ListenError, Listeners};
