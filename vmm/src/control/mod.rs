//! The control protocol between a monitor and its controllers: `hearth.vmm.v1` over a named Unix socket.
//!
//! * [`socket`] – packets with descriptors over `SOCK_SEQPACKET`
//! * [`monitor`] – the machine's states and the effect of each request in each state
//! * [`error`] – the reasons for which requests are refused; `telling` – status and metrics
//! * `saving`, `restoring` – the requests that save a machine to files and restore one from them
//! * [`server`] – the control thread: accepts controllers, answers them, handles the machine's exit
//!
//! The client side of the protocol is [`crate::client`].

pub mod error;
pub mod monitor;
mod restoring;
mod saving;
pub mod server;
pub mod socket;
mod telling;

use hearth_proto::Versions;

/// The versions of the protocol that this program speaks. A change that an older program would misread increases the
/// newest version. The oldest version is that of Hearth 0.2, whose running monitors a newer daemon adopts.
pub const VERSIONS: Versions = Versions::new(2, 2);
/// Names of the features that this program supports in addition to its protocol versions.
pub const FEATURES: [&str; 0] = [];
/// The protocol version in which a controller sends its first request.
pub const PROTOCOL_VERSION: u32 = VERSIONS.newest();
