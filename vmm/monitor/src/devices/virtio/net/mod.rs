//! The network card (virtio 1.2, 5.1): one receive and one transmit queue on a tap interface.
//!
//! * `device.rs` – configuration, features, events; `error.rs` – why a card could not be set up
//! * `receive.rs`, `transmit.rs` – the two directions
//! * `backend.rs` – the descriptor through which packets are received and sent
//! * `throttle.rs` – a rate limiter with its timer
//!
//! Packets move between the tap and the guest's buffers in one system call, without a copy in between. The
//! header that the tap uses (`IFF_VNET_HDR`) is virtio's own, so checksum and segmentation offloads pass
//! through unchanged, and the host's kernel checks the contents of the header.

mod backend;
mod device;
mod error;
mod receive;
#[cfg(test)]
mod tests;
mod throttle;
mod transmit;

pub use device::Net;
pub use error::NetError;

/// Size in bytes of the header in front of each packet, including `num_buffers` (5.1.6).
pub const HEADER_LEN: usize = 12;
/// Size limit in bytes of a packet with its header: a 64 KiB segment, an Ethernet header and a VLAN tag take less.
pub const MAX_PACKET_LEN: usize = 65_562;
/// Largest size of each queue.
pub const QUEUE_SIZE: u16 = 256;

/// Counters of one direction.
#[derive(Debug, Default)]
struct Counters {
    packets: u64,
    bytes: u64,
    /// Packets that were discarded: too long, or without room.
    drops: u64,
    /// Failures of the backend.
    errors: u64,
}
