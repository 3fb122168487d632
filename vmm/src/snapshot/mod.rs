//! Snapshots: a machine that stands still as files, and a machine made of such files.
//!
//! ```text
//! state      magic, version, architecture, length, checksum; then a `SavedMachine` (proto/…/state.proto)
//! memory     guest memory in guest-physical layout, holes where it is zero; a trailer that names the snapshot
//! disk<N>    what disk N's overlay holds, as a frozen layer
//! ```
//!
//! A *full* snapshot stands for itself. A *diff* holds what is not as in the full snapshot that it builds on; the
//! chain is never longer than that, since a diff taken of a machine that was restored from a diff holds what that
//! one held, too. A restored machine maps its snapshot's files privately: what is not written stays shared with
//! every other clone, and what was written is found by asking the kernel which pages are private copies
//! (`PAGEMAP_SCAN`), so running costs nothing.
//!
//! Everything here works on descriptors. Names, and the renaming that makes a snapshot appear as a whole or not at
//! all, are the client's ([`crate::client::snapshot`]).
//!
//! * [`state_file`] – the file `state`
//! * [`memory_file`] – the trailer of the file `memory`
//! * [`runs`] – sets of pages
//! * [`pages`] – which pages of a mapping are private copies; whether a page is zero
//! * [`load`] – files become guest memory
//! * [`save`] – guest memory becomes files
//! * [`saver`] – the thread that does so while the controller may change its mind
//! * [`working_set`], [`record`] – the pages that a restored machine needs first
//! * [`steps`] – how long each step takes

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

/// Bytes of the pages in which memory is saved.
pub const PAGE: u64 = 4096;

/// [`PAGE`] as a length in memory.
pub const PAGE_BYTES: usize = 4096;

/// Bytes of a snapshot's id.
pub const ID_LEN: usize = 16;

/// The random bytes that the files of one snapshot have in common.
pub type SnapshotId = [u8; ID_LEN];

/// An id as text.
#[must_use]
pub fn id_text(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
