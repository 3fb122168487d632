//! Records in a run directory, for a later daemon.
//!
//! * `monitor.json` – the process, written as soon as it was started
//! * `microvm.json` – the microVM that it will run, written before the run directory is renamed
//! * `identified` – an empty file: the guest has received its identity. A guest without it is half made, and of no
//!   use
//!
//! A run directory does not outlive a reboot, so no file is synced; a file is complete or does not exist.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use hearth_host::microvm::process::Identity;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest record in bytes.
const MAX: u64 = 64 << 10;
/// Name of the file that marks a guest with an identity.
const IDENTIFIED: &str = "identified";

/// The record of a monitor process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MonitorRecord {
    /// Identity of the process.
    pub(super) process: Identity,
    /// User and group id of the process.
    pub(super) uid: u32,
}

/// The record of a microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    /// Name of its network, if it has one.
    pub(super) network: Option<String>,
    /// Number of the suspended state that it was made from; 0 stands for the image.
    pub(super) from: u64,
}

/// A record in a file of its own.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// Name of the file.
    const FILE: &'static str;

    /// Writes the record into a run directory.
    fn write(&self, folder: &Path) -> io::Result<()> {
        let hidden = folder.join(format!(".{}", Self::FILE));
        fs::write(&hidden, serde_json::to_vec(self)?)?;
        fs::rename(hidden, folder.join(Self::FILE))
    }

    /// Reads the record; none if it does not exist or cannot be decoded.
    fn read(folder: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(folder.join(Self::FILE)) {
            Err(error) if is_absent(&error) => return Ok(None),
            file => file?,
        };
        let mut text = Vec::new();
        file.take(MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text).ok())
    }
}

impl Record for MonitorRecord {
    const FILE: &'static str = "monitor.json";
}

impl Record for RunRecord {
    const FILE: &'static str = "microvm.json";
}

/// Marks the guest as having received its identity.
pub(super) fn set_identified(folder: &Path) -> io::Result<()> {
    File::create(folder.join(IDENTIFIED)).map(drop)
}

/// Whether the guest has received its identity.
pub(super) fn is_identified(folder: &Path) -> bool {
    folder.join(IDENTIFIED).exists()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let process = Identity { pid: 7, start_time: u64::MAX, boot_id: "b".into() };
        let monitor = MonitorRecord { process, uid: 1_901_000_000 };
        assert_eq!(MonitorRecord::read(folder.path()).unwrap(), None);
        monitor.write(folder.path()).unwrap();
        monitor.write(folder.path()).unwrap();
        assert_eq!(MonitorRecord::read(folder.path()).unwrap(), Some(monitor));
        let microvm = RunRecord { network: None, from: 3 };
        microvm.write(folder.path()).unwrap();
        assert_eq!(RunRecord::read(folder.path()).unwrap(), Some(microvm));
        assert!(!is_identified(folder.path()));
        set_identified(folder.path()).unwrap();
        assert!(is_identified(folder.path()));
    }

    #[test]
    fn a_record_that_makes_no_sense_is_none() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", "{\"from\": -1}", "\0\0\0"] {
            fs::write(folder.path().join(RunRecord::FILE), text).unwrap();
            assert_eq!(RunRecord::read(folder.path()).unwrap(), None, "{text:?}");
        }
        assert_eq!(RunRecord::read(&folder.path().join("microvm.json/x")).unwrap(), None);
    }
}
