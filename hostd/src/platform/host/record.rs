//! What is written down in a run directory, for a daemon that comes later.
//!
//! * `monitor.json` – the process, as soon as it was started
//! * `microvm.json` – what it is to run, before it gets the microVM's run directory
//! * `identified` – an empty file: the guest knows who it is. Without it, a guest is half made, and of no use
//!
//! A run directory does not outlive a reboot, so nothing here is made durable; a file is there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use hearth_host::microvm::process::Identity;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest record in bytes.
const MAX: u64 = 64 << 10;
/// The mark of a guest that knows who it is.
const IDENTIFIED: &str = "identified";

/// A monitor process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MonitorRecord {
    /// Which process.
    pub(super) process: Identity,
    /// Its user and group id.
    pub(super) uid: u32,
}

/// A microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MicrovmRecord {
    /// Its network, if it has any.
    pub(super) network: Option<String>,
    /// The number of the suspended state it was made from; 0: its image.
    pub(super) from: u64,
}

/// A record with a file of its own.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// Name of the file.
    const FILE: &'static str;

    /// Writes it.
    fn write(&self, folder: &Path) -> io::Result<()> {
        let hidden = folder.join(format!(".{}", Self::FILE));
        fs::write(&hidden, serde_json::to_vec(self)?)?;
        fs::rename(hidden, folder.join(Self::FILE))
    }

    /// Reads it; none if it is not there, or makes no sense.
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

impl Record for MicrovmRecord {
    const FILE: &'static str = "microvm.json";
}

/// Notes that the guest knows who it is.
pub(super) fn set_identified(folder: &Path) -> io::Result<()> {
    File::create(folder.join(IDENTIFIED)).map(drop)
}

/// Whether the guest knows who it is.
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
        let microvm = MicrovmRecord { network: None, from: 3 };
        microvm.write(folder.path()).unwrap();
        assert_eq!(MicrovmRecord::read(folder.path()).unwrap(), Some(microvm));
        assert!(!is_identified(folder.path()));
        set_identified(folder.path()).unwrap();
        assert!(is_identified(folder.path()));
    }

    #[test]
    fn a_record_that_makes_no_sense_is_none() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", "{\"from\": -1}", "\0\0\0"] {
            fs::write(folder.path().join(MicrovmRecord::FILE), text).unwrap();
            assert_eq!(MicrovmRecord::read(folder.path()).unwrap(), None, "{text:?}");
        }
        assert_eq!(MicrovmRecord::read(&folder.path().join("microvm.json/x")).unwrap(), None);
    }
}
