//! Front end of [`crate::service`] over gRPC: requests become calls of the service, and its results become responses.
//! Hearth's own operations are implemented here, in `grpc/host.rs`.
//!
//! * [`listen`] – Unix socket and TCP with TLS
//! * [`grpc`] – the services, reflection and health
//! * [`calls`] – observation of calls
//! * [`artifacts`] – zip files that clients upload into the local bucket
//! * [`json`] – messages as JSON with AWS's names
// This module computes with values that clients send: arithmetic must not overflow, and indices must not be out of
// range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod artifacts;
pub mod calls;
pub mod grpc;
pub mod json;
pub mod listen;

pub use listen::{ListenConfig, ListenError, Listeners};
