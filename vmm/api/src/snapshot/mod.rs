//! The files of a snapshot.
//!
//! ```text
//! state      magic, version, architecture, length, checksum; then a `SavedMachine` (proto/…/state.proto)
//! memory     guest memory in guest-physical layout, holes where it is zero; checksums of its pages; a trailer that
//!            names the snapshot
//! disk<N>    the contents of disk N's overlay, as a frozen layer
//! ```
//!
//! A *full* snapshot is complete by itself. A *diff* contains only what differs from the full snapshot on which it
//! builds. The chain is never longer than that.
//!
//! * [`bulk`] – reading all of a file
//! * [`checksums`] – checksums of the pages of the file `memory`
//! * [`folder`] – the names of the files in a snapshot's folder
//! * [`state_file`] – the file `state`
//! * [`memory_file`] – the trailer of the file `memory`
//! * [`sums`] – checksums of files that have none of their own

pub mod bulk;
pub mod checksums;
pub mod folder;
pub mod memory_file;
pub mod state_file;
pub mod sums;

/// Length of a snapshot's id in bytes.
pub const ID_LEN: usize = 16;

/// The random bytes that the files of one snapshot have in common.
pub type SnapshotId = [u8; ID_LEN];

/// Formats an id as hexadecimal text.
#[must_use]
pub fn id_text(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
