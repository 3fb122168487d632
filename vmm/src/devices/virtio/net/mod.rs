//! The network card (virtio 1.2, 5.1): one receive and one transmit queue on a tap interface.
//!
//! * `device.rs` – configuration, features, events
//! * `receive.rs`, `transmit.rs` – the two directions
//! * `backend.rs` – the descriptor that packets come from and go to
//! * `throttle.rs` – a rate limiter with its timer
//!
//! Packets move between the tap and the guest's buffers in one system call, without a copy in between; the
//! header that the tap speaks (`IFF_VNET_HDR`) is virtio's own, so checksum and segmentation offloads go
//! straight through, and the host's kernel checks what the guest claims in it.

mod backend;
mod device;
mod receive;
#[cfg(test)]
mod tests;
mod throttle;
mod transmit;

pub use device::{Net, NetConfig, NetError};

/// Bytes of the header in front of each packet, `num_buffers` included (5.1.6).
pub const HEADER_LEN: usize = 12;
/// Bytes of the largest packet with its header: a 64 KiB segment, an Ethernet header and a VLAN tag are less.
pub const MAX_PACKET_LEN: usize = 65_562;
/// Entries of each queue.
pub const QUEUE_SIZE: u16 = 256;
