//! The protocol between a host and the agent inside a guest; the messages are in `agent.proto`.
//!
//! * [`frame`] – messages on a connection
//! * [`version`] – negotiation of the protocol's version on a connection
//! * [`kernel_log`] – records of a guest's kernel
//! * [`seal`] – sealed credentials, which are unreadable once their key is gone
//!
//! An image holds the agent that it was built with, and is run by hosts that are older or newer. So host and agent agree on a version
//! for each connection, and later additions are *features* that are requested by name.

#![forbid(unsafe_code)]

pub mod frame;
pub mod kernel_log;
pub mod seal;
pub mod version;

/// The agent's vsock port. The host opens every connection; the guest opens none.
pub const PORT: u32 = 1024;
