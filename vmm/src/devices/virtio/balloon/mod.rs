//! The traditional memory balloon (virtio 1.2, 5.5): the host asks for memory back, the guest chooses which
//! pages it can spare.
//!
//! * `device.rs` – configuration space, queues, counters
//! * `reclaim.rs` – giving guest pages back to the host
//! * `stats.rs` – what the guest says about its memory
//!
//! Inflating and free page reporting drop pages with `MADV_DONTNEED`: on anonymous memory they read as zeros
//! afterwards, on memory restored from a snapshot as the snapshot's. Both are within the specification,
//! since a driver must not rely on the contents of pages in the balloon. A page the guest takes back needs no
//! action: its first use faults it in. So the device need not be told before a page is used again
//! (`VIRTIO_BALLOON_F_MUST_TELL_HOST` is not offered), nor is page poisoning.

mod device;
mod reclaim;
mod stats;
#[cfg(test)]
mod tests;

pub use device::{Balloon, BalloonConfig, BalloonError, BalloonState, PAGE_SIZE};
pub use stats::GuestStats;
