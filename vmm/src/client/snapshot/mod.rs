//! Snapshots as folders that appear as a whole or not at all.
//!
//! ```text
//! FOLDER/state          the machine
//! FOLDER/memory         its memory
//! FOLDER/disk<N>        what disk N had over the disk (or over the base's layer), as a frozen layer
//! FOLDER/working-set    the pages that a clone needs first, if they were recorded
//! FOLDER/base           only in a diff: a symbolic link to the folder of the full snapshot that it builds on
//! ```
//!
//! A chain is a full snapshot, or a diff and its base; never longer. The link of a diff that lies beside its base is
//! relative, so that both can be moved together.
//!
//! What is written goes into a temporary folder beside the final one (`.NAME.tmp-PID-N`), is made durable there, and
//! then gets its name:
//!
//! ```text
//!  make and lock the ──► the monitor ──► the folder ──► renamed to its name, or exchanged ──► the parent folder
//!  temporary folder      writes, syncs    is synced      with the one that has it             is synced
//! ```
//!
//! Whoever is killed on the way leaves the old folder whole or the new one, and perhaps a temporary one, which
//! [`remove_leftovers`] finds. A controller that is not killed removes it itself, and lets the machine go on
//! ([`Uncommitted`]).
//!
//! * [`take`](mod@take) – a machine becomes a folder, and may end with that
//! * [`open`](mod@open) – a folder becomes what a monitor restores
//! * [`working_set`] – the working set's file
//! * [`temporary`] – folders and files that do not have their names yet
//! * [`error`] – why a snapshot could not be taken

pub mod error;
pub mod open;
pub mod take;
pub mod temporary;
pub mod working_set;

use std::path::Path;

pub use error::TakeError;
pub use open::{OpenError, Opened, open};
pub use take::{Overlay, Take, Taken, Uncommitted, suspend, take, write};
pub use temporary::remove_leftovers;
pub use working_set::{WORKING_SET, write_working_set};

/// The machine.
pub const STATE: &str = "state";
/// Its memory.
pub const MEMORY: &str = "memory";
/// The link to the folder that a diff builds on.
pub const BASE: &str = "base";

/// The layer of disk `index`.
#[must_use]
pub fn layer_name(index: usize) -> String {
    format!("disk{index}")
}

/// Whether a folder of a snapshot may hold `name`.
fn belongs(name: &str) -> bool {
    let is_layer = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    matches!(name, STATE | MEMORY | BASE | WORKING_SET)
        || name.strip_prefix("disk").is_some_and(is_layer)
        || temporary::is_temporary(name)
}

/// The folder that `path` lies in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
