//! The control protocol between a monitor and its controllers: `hearth.vmm.v1` over a named Unix socket.
//!
//! * [`socket`] – packets with descriptors over `SOCK_SEQPACKET`
//! * [`monitor`] – the machine's states and what each request does in them
//! * [`error`] – why requests are refused; `telling` – status and metrics
//! * `saving`, `restoring` – the requests that make files of a machine, and a machine of files
//! * [`server`] – the control thread: accepts controllers, answers them, notices the machine's end
//!
//! The client's half is [`crate::client`].

pub mod error;
pub mod monitor;
mod restoring;
mod saving;
pub mod server;
pub mod socket;
mod telling;

use hearth_proto::Versions;

/// The versions of the protocol that this program speaks. A change that an older program would misread raises the newest; the oldest is
/// that of Hearth 0.2, whose monitors are adopted.
pub const VERSIONS: Versions = Versions::new(2, 2);
/// What this program has beyond these versions, by name.
pub const FEATURES: [&str; 0] = [];
/// The version that a controller begins with.
pub const PROTOCOL_VERSION: u32 = VERSIONS.newest();
