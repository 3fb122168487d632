//! Snapshots: a paused machine is saved to files, and a machine is restored from such files.
//!
//! [`hearth_vmm_api::snapshot`] describes the files. A chain is never longer than a diff and the full snapshot on which
//! it builds, because a diff that is taken of a machine restored from a diff also contains what that diff contains. A
//! restored machine maps its snapshot's files privately. Pages that it has not written stay shared with every other
//! clone. To find the pages that it has written, a save requests from the kernel which pages are private copies
//! (`PAGEMAP_SCAN`), so tracking them costs a running machine nothing.
//!
//! Everything in this module works on descriptors. The client ([`hearth_vmm_client::snapshot`]) gives the files their
//! names, and renames them such that a snapshot appears completely or not at all.
//!
//! * [`runs`] – sets of pages
//! * [`pages`] – finds the pages of a mapping that are private copies; checks whether a page is zero
//! * [`layer_maps`] – checksums of layers' block maps in a saved state
//! * [`load`] – restores guest memory from files
//! * [`save`] – saves guest memory to files
//! * [`saver`] – the thread that saves a machine while the controller may still cancel the save
//! * [`verify`] – reads all of a snapshot's folder and finds what is damaged
//! * [`working_set`], [`record`] – the pages that a restored machine needs first

pub mod layer_maps;
pub mod load;
pub mod pages;
pub mod record;
pub mod runs;
pub mod save;
pub mod saver;
pub mod verify;
pub mod working_set;

/// Size of the pages in which memory is saved, in bytes.
pub const PAGE: u64 = 4096;

/// [`PAGE`] as a length in memory.
pub const PAGE_BYTES: usize = 4096;
