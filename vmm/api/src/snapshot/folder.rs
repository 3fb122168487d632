//! The names of the files in a snapshot's folder.
//!
//! ```text
//! FOLDER/state          the machine's state
//! FOLDER/memory         guest memory
//! FOLDER/disk<N>        contents of disk N's overlay (over the disk or over the base's layer), as a frozen layer
//! FOLDER/working-set    the pages that a clone needs first, if they were recorded
//! FOLDER/sums           checksums of the disks' layers, if they were made
//! FOLDER/base           only in a diff: a symbolic link to the folder of the full snapshot on which it builds
//! ```

/// Name of the file with the machine's state.
pub const STATE: &str = "state";
/// Name of the file with guest memory.
pub const MEMORY: &str = "memory";
/// Name of the link to the folder on which a diff builds.
pub const BASE: &str = "base";
/// Name of the working set's file in the folder of the snapshot for which it was recorded.
pub const WORKING_SET: &str = "working-set";

/// What the names of a snapshot's files begin with in the folder of an image.
pub const IMAGE_SNAPSHOT: &str = "snapshot/";

/// Returns the name of the file with the layer of disk `index`.
#[must_use]
pub fn layer_name(index: usize) -> String {
    format!("disk{index}")
}
