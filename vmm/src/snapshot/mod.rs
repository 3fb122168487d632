//! Snapshots: a paused machine is saved to files, and a machine is restored from such files.
//!
//! ```text
//! state      magic, version, architecture, length, checksum; then a `SavedMachine` (proto/…/state.proto)
//! memory     guest memory in guest-physical layout, holes where it is zero; a trailer that names the snapshot
//! disk<N>    the contents of disk N's overlay, as a frozen layer
//! ```
//!
//! A *full* snapshot is complete by itself. A *diff* contains only what differs from the full snapshot on which it
//! builds. The chain is never longer than that, because a diff that is taken of a machine restored from a diff also
//! contains what that diff contains. A restored machine maps its snapshot's files privately. Pages that it has not
//! written stay shared with every other clone. To find the pages that it has written, a save requests from the kernel
//! which pages are private copies (`PAGEMAP_SCAN`), so tracking them costs a running machine nothing.
//!
//! Everything in this module works on descriptors. The client ([`crate::client::snapshot`]) gives the files their
//! names, and renames them such that a snapshot appears completely or not at all.
//!
//! * [`state_file`] – the file `state`
//! * [`memory_file`] – the trailer of the file `memory`
//! * [`runs`] – sets of pages
//! * [`pages`] – finds the pages of a mapping that are private copies; checks whether a page is zero
//! * [`load`] – restores guest memory from files
//! * [`save`] – saves guest memory to files
//! * [`saver`] – the thread that saves a machine while the controller may still cancel the save
//! * [`working_set`], [`record`] – the pages that a restored machine needs first
//! * [`steps`] – measures the duration of each step

pub mod load;
pub mod memory_file;
pub mod pages;
pub mod record;
pub mod runs;
pub mod save;
pub mod saver;
pub mod state_file;
pub mod steps;
pub mod working_set;

/// Size of the pages in which memory is saved, in bytes.
pub const PAGE: u64 = 4096;

/// [`PAGE`] as a length in memory.
pub const PAGE_BYTES: usize = 4096;

/// Length of a snapshot's id in bytes.
pub const ID_LEN: usize = 16;

/// The random bytes that the files of one snapshot have in common.
pub type SnapshotId = [u8; ID_LEN];

/// Formats an id as hexadecimal text.
#[must_use]
pub fn id_text(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
