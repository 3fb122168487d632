//! The traditional memory balloon (virtio 1.2, 5.5): the host requests memory back, and the guest chooses which
//! pages it can spare.
//!
//! * `device.rs` – configuration space, queues, counters
//! * `reclaim.rs` – returns guest pages to the host
//! * `stats.rs` – the statistics that the guest reports about its memory
//!
//! Inflating and free page reporting drop pages with `MADV_DONTNEED`. In anonymous memory such pages read as zeros
//! afterwards; in memory restored from a snapshot they have the snapshot's contents again. The specification allows
//! both, since a driver must not rely on the contents of pages in the balloon. A page that the guest takes back needs
//! no action: its first use faults it in. So the guest need not notify the device before it uses a page again
//! (`VIRTIO_BALLOON_F_MUST_TELL_HOST` is not offered). Page poisoning is not offered either.

mod device;
mod reclaim;
mod stats;
#[cfg(test)]
mod tests;

pub use device::{Balloon, BalloonError, BalloonState};
pub use reclaim::PAGE_SIZE;
pub use stats::GuestStats;
