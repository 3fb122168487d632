//! What of a microVM of a build lies outside the build's folder, and whose: recorded before it is made, for the builder that cleans
//! up after a killed one.
//!
//! The record is in the run directory of the microVM, where its monitor cannot write. The process has a record of its own there
//! (`hearth_vmm_client::launch::PROCESS_RECORD`), and the network is named after the build.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hearth_host::groups;
use hearth_host::microvm::files::head;
use hearth_host::microvm::orphans;

use super::error::{BuildError, file};

/// File in the run directory: the path of the control group.
const GROUP: &str = "group";
/// Longest path in bytes.
const GROUP_BYTES: u64 = 4096;

/// The record of a microVM's control group. Dropping it removes it: the group is gone then, and its name may be another's.
#[derive(Debug)]
pub(super) struct GroupRecord(PathBuf);

impl GroupRecord {
    /// Records that the microVM whose run directory is `run` will have the control group at `group`.
    pub(super) fn write(run: &Path, group: &Path) -> Result<Self, BuildError> {
        let path = run.join(GROUP);
        let hidden = run.join(format!(".{GROUP}"));
        let written = fs::write(&hidden, group.as_os_str().as_encoded_bytes());
        written.and_then(|()| fs::rename(&hidden, &path)).map_err(file("writing", &path))?;
        Ok(Self(path))
    }
}

impl Drop for GroupRecord {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // the folder may be gone already
    }
}

/// Ends whatever a killed builder has left running with the run directory `run`: the recorded process, and all that is in the
/// recorded control group. Nothing is asked of a monitor.
pub(super) fn end(run: &Path) -> Result<(), BuildError> {
    orphans::end_monitor(run).map_err(file("ending the monitor in", run))?;
    let Some(group) = head(&run.join(GROUP), GROUP_BYTES) else { return Ok(()) };
    let removed = groups::remove_recorded(Path::new(&group));
    removed.map_err(|error| file("removing the control group of", run)(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lives_as_long_as_the_group() {
        let run = tempfile::tempdir().unwrap();
        end(run.path()).unwrap();
        let group = run.path().join("no-control-group");
        fs::create_dir(&group).unwrap();
        let record = GroupRecord::write(run.path(), &group).unwrap();
        assert_eq!(head(&run.path().join(GROUP), GROUP_BYTES).unwrap(), group.to_str().unwrap());
        end(run.path()).unwrap();
        assert!(group.exists(), "it is no control group");
        drop(record);
        assert!(!run.path().join(GROUP).exists());
    }
}
