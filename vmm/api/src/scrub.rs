//! What a daemon and the process that verifies files for it (`hearth-vmm scrub`) say to each other: packets of text, with
//! descriptors beside the first.
//!
//! ```text
//! daemon:  rate BYTES, make 0|1, sums N, then file NAME for each file      descriptors: N files of checksums,
//!                                                                         where new ones go if `make`, the files
//! process: read BYTES, uncovered NAME, damage NAME\tTEXT …, done
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::snapshot::folder::IMAGE_SNAPSHOT;

/// Longest text of a report in bytes.
const TEXT_MAX: usize = 1000;

/// What is to be verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubTask {
    /// Bytes that are read in a second, at most; 0 is no limit.
    pub rate: u64,
    /// Whether checksums are made of files that have none.
    pub make: bool,
    /// Number of files of checksums.
    pub sums: usize,
    /// Names of the files, in the order of their descriptors.
    pub names: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrubReport {
    /// So many bytes were read since the last one.
    Read(u64),
    /// The file has no checksums, or some of it.
    Uncovered(String),
    /// The file is damaged.
    Damage {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        text: String,
    },
    /// All was read.
    Done,
}

impl ScrubTask {
    /// The packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("rate {}\nmake {}\nsums {}\n", self.rate, u8::from(self.make), self.sums);
        for name in &self.names {
            text = text + "file " + name + "\n";
        }
        text.into_bytes()
    }

    /// Parses a packet; `None` if it is something else.
    #[must_use]
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let mut task = Self::default();
        for line in std::str::from_utf8(packet).ok()?.lines() {
            match line.split_once(' ')? {
                ("rate", rate) => task.rate = rate.parse().ok()?,
                ("make", make) => task.make = make == "1",
                ("sums", sums) => task.sums = sums.parse().ok()?,
                ("file", name) => task.names.push(name.to_owned()),
                _ => return None,
            }
        }
        Some(task)
    }
}

impl ScrubReport {
    /// The packet. Texts are shortened, and have no control characters.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = match self {
            Self::Read(bytes) => format!("read {bytes}"),
            Self::Uncovered(name) => format!("uncovered {}", shown(name)),
            Self::Damage { file, text } => format!("damage {}\t{}", shown(file), shown(text)),
            Self::Done => "done ".to_owned(),
        };
        text.into_bytes()
    }

    /// Parses a packet; `None` if it is something else. Whoever has sent it, the texts are short and have no control characters.
    #[must_use]
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let (kind, rest) = std::str::from_utf8(packet).ok()?.split_once(' ')?;
        Some(match kind {
            "read" => Self::Read(rest.parse().ok()?),
            "uncovered" => Self::Uncovered(shown(rest)),
            "damage" => {
                let (file, text) = rest.split_once('\t')?;
                Self::Damage { file: shown(file), text: shown(text) }
            }
            "done" => Self::Done,
            _ => return None,
        })
    }
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shown.truncate(shown.floor_char_boundary(TEXT_MAX));
    shown
}

/// Opens the files of an image or a snapshot for reading, by their names: those of an image's snapshot begin with the name of
/// its folder. Links, files without their final names and other folders are left out.
///
/// # Errors
/// The error that the host returned.
pub fn files_of(folder: &Path) -> io::Result<BTreeMap<String, File>> {
    let mut files = BTreeMap::new();
    let snapshot = folder.join(IMAGE_SNAPSHOT);
    for (folder, prefix) in [(folder, ""), (&snapshot, IMAGE_SNAPSHOT)] {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !prefix.is_empty() => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_file() && !name.starts_with('.') {
                files.insert(format!("{prefix}{name}"), File::open(entry.path())?);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_survives_its_packet() {
        let names = ["state", "snapshot/disk0"].map(str::to_owned).to_vec();
        let task = ScrubTask { rate: 5 << 20, make: true, sums: 1, names };
        assert_eq!(ScrubTask::decode(&task.encode()), Some(task));
        for bad in ["rate x", "what 1", "rate", "\u{ff}"] {
            assert_eq!(ScrubTask::decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn reports_survive_their_packets_and_are_bounded() {
        let damage = |text: &str| ScrubReport::Damage { file: "disk".to_owned(), text: text.to_owned() };
        for report in
            [ScrubReport::Read(7), ScrubReport::Uncovered("disk0".into()), damage("bad"), ScrubReport::Done]
        {
            assert_eq!(ScrubReport::decode(&report.encode()), Some(report));
        }
        let long = format!("damage disk\t\u{1b}[2J{}", "ä".repeat(5000));
        let Some(ScrubReport::Damage { text, .. }) = ScrubReport::decode(long.as_bytes()) else { panic!() };
        assert!(text.starts_with(" [2Jä") && text.len() <= TEXT_MAX);
        for bad in ["", "read", "read x", "damage disk", "more 1"] {
            assert_eq!(ScrubReport::decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn files_of_an_image_and_its_snapshot_are_opened_by_their_names() {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir_all(image.path().join("snapshot/.disk0.tmp-1-0")).unwrap();
        for name in ["image.json", "disk", "snapshot/state", "snapshot/.x.tmp-1-0"] {
            fs::write(image.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", image.path().join("base")).unwrap();
        let names =
            |folder: &str| files_of(&image.path().join(folder)).unwrap().into_keys().collect::<Vec<_>>();
        assert_eq!(names(""), ["disk", "image.json", "snapshot/state"]);
        assert_eq!(names("snapshot"), ["state"]);
        assert!(files_of(&image.path().join("nothing")).is_err());
    }
}
