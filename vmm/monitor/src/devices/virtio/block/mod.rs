//! The virtio block device (virtio 1.2, 5.2) with a copy-on-write overlay and layers, which are frozen overlays.
//!
//! The path of a request: [`device`] pops a chain, [`request`] parses it or determines why it is
//! refused, the rate limiter and the bound on storage ([`room`]) let it pass, and [`io`] turns it into operations on the disk's files. [`backend`]
//! finds the file in which a sector lies, using the overlay's [`map`]. [`engine`] hands operations to the
//! kernel's io_uring, directly from and to guest memory, and the completions wake the device thread. A flush
//! passes through the state machine in [`flush`], which defines in which order data and map become durable.
//! Nothing on this path blocks or allocates; all that a request needs is in its slot ([`slots`]).
//!
//! A snapshot freezes an overlay into a layer, which any number of disks may then read; [`merge()`] makes one
//! layer of several, so that a disk never has to search many of them.
//!
//! Invariants:
//! * a bit of the map in memory is set only after the sector's data was written to the overlay;
//! * a bit in the overlay file is set only after that data is durable;
//! * the base and the layers of a disk with an overlay are never written;
//! * a request's slot, and with it the mapping of its buffers, lives until the kernel has finished with it.

mod backend;
mod device;
mod engine;
mod flush;
mod io;
mod map;
mod merge;
mod overlay;
mod request;
mod room;
mod slots;

pub use backend::DiskError;
pub use device::{Block, BlockError};
pub use map::{MAP_PAGE_SIZE, OverlayMap, Run};
pub use merge::{LayerToMerge, MergeError, Merged, merge, merge_checked};
pub use overlay::{MAX_OVERLAY_DISK, Overlay, OverlayError, read_layer_map};

/// Size of a sector in bytes, the unit of all block requests (5.2.4).
pub const SECTOR_SIZE: u64 = 512;

/// Largest size of the device's queue.
pub const QUEUE_SIZE: u16 = 256;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
