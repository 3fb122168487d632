//! Front ends of [`crate::service`]: requests become calls of the service, and its results become responses.
//!
//! * [`listen`] – Unix socket and TCP with TLS, for gRPC
//! * [`grpc`] – the services, who calls them, reflection and health
//! * [`aws`] – the protocols of AWS's services, on an address of their own
//! * [`connections`] – connections of all listeners, and what they may take up; [`tls`] – their certificates
//! * `timer` – the time that a body has
// This module computes with values that clients send: arithmetic must not overflow, and indices must not be out of
// range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod aws;
pub mod connections;
pub mod grpc;
pub mod listen;
mod timer;
pub mod tls;

pub use listen::{ListenConfig, ListenError, Listeners};
