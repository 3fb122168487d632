//! What a host and the agent inside a guest must agree on; the messages are `agent.proto`'s.
//!
//! * [`frame`] – messages on a connection
//! * [`version`] – which version of the protocol a connection is in
//! * [`seal`] – credentials that nobody can read once their key is gone
//!
//! An image holds the agent that it was built with, and is run by hosts that are older or newer. So host and agent agree on a version
//! for each connection, and what one of them has learned since is a *feature* that is asked for by name.

pub mod frame;
pub mod seal;
pub mod version;

/// The agent's vsock port. The host opens every connection; the guest opens none.
pub const PORT: u32 = 1024;
