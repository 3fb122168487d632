//! The monitor's side of the control protocol: `hearth.vmm.v1` over a named Unix socket.
//!
//! * [`monitor`] – the machine's states and the effect of each request in each state
//! * [`error`] – the reasons for which requests are refused; `status` – status and metrics
//! * `saving`, `restoring` – the requests that save a machine to files and restore one from them
//! * [`server`] – the control thread: accepts controllers, answers them, handles the machine's exit
//!
//! The protocol's packets and versions are in [`hearth_vmm_api`], the controllers' side is [`hearth_vmm_client`].

pub mod error;
pub mod monitor;
mod restoring;
mod saving;
pub mod server;
mod status;

use hearth_vmm_api::protocol::{LIMITS_FEATURE, ROOM_FEATURE};

/// Names of the features that this program supports in addition to its protocol versions.
pub const FEATURES: [&str; 2] = [LIMITS_FEATURE, ROOM_FEATURE];
