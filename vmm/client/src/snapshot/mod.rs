//! Snapshots as folders that appear completely or not at all.
//!
//! [`hearth_vmm_api::snapshot::folder`] lists the files of a folder. A chain is a full snapshot, or a diff and its base;
//! it is never longer. If a diff lies beside its base, its link is relative, so that both can be moved together.
//!
//! A snapshot is written into a temporary folder beside the final one (`.NAME.tmp-PID-N`), is synced to stable storage
//! there, and is then renamed to its final name:
//!
//! ```text
//!  make and lock the ──► the monitor ──► the folder ──► renamed to its name, or exchanged ──► the parent folder
//!  temporary folder      writes, syncs    is synced      with the one that has it             is synced
//! ```
//!
//! If a controller is killed on the way, either the old folder or the new one is there completely, and perhaps a
//! temporary one, which [`remove_leftovers`] finds. A controller that fails without being killed removes the temporary
//! folder itself and resumes the machine ([`Uncommitted`]).
//!
//! * [`take`](mod@take) – writes a machine into a folder, and optionally shuts it down afterwards
//! * [`open`](mod@open) – opens a folder for a monitor to restore
//! * [`working_set`] – writes the file of a working set
//! * [`temporary`] – folders and files that do not have their final names yet
//! * [`error`] – the reasons for which a snapshot could not be taken

pub mod error;
pub mod open;
pub mod take;
pub mod temporary;
pub mod working_set;

use std::path::Path;

use hearth_vmm_api::snapshot::folder::{BASE, MEMORY, STATE, WORKING_SET};
use hearth_vmm_api::snapshot::sums::SUMS;

pub use error::TakeError;
pub use open::{OpenError, Opened, open};
pub use take::{Overlay, Take, Taken, Uncommitted, suspend, take, write};
pub use temporary::remove_leftovers;
pub use working_set::write_working_set;

/// Whether a file called `name` may be part of a snapshot's folder.
fn belongs(name: &str) -> bool {
    let is_layer = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    matches!(name, STATE | MEMORY | BASE | WORKING_SET | SUMS)
        || name.strip_prefix("disk").is_some_and(is_layer)
        || temporary::is_temporary(name)
}

/// Returns the folder that contains `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
