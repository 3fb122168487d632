//! What comes over gRPC becomes calls of [`crate::service`], and what they answer goes back. Hearth's own operations are done here, in
//! `grpc/host.rs`.
//!
//! * [`listen`] – Unix socket and TCP with TLS
//! * [`grpc`] – the services, reflection and health
//! * [`calls`] – who is told of each call
//! * [`artifacts`] – zips that are uploaded into the local bucket
//! * [`json`] – messages as JSON with AWS's names
// What clients send is reckoned with here: nothing may overflow, and no index be out of range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod artifacts;
pub mod calls;
pub mod grpc;
pub mod json;
pub mod listen;

pub use listen::{ListenConfig, ListenError, Listeners};
