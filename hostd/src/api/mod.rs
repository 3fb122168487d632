//! Front end of [`crate::service`] over gRPC: requests become calls of the service, and its results become responses.
//!
//! * [`listen`] – Unix socket and TCP with TLS
//! * [`grpc`] – the services, who calls them, reflection and health
//! * `aws` – protocols of AWS
// This module computes with values that clients send: arithmetic must not overflow, and indices must not be out of
// range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

#[cfg_attr(not(test), expect(dead_code, reason = "its listener is to come"))]
pub(crate) mod aws;
pub mod grpc;
pub mod listen;

pub use listen::{ListenConfig, ListenError, Listeners};
