//! `/run/hearth/generation`: a number that apps can watch, which is another one after each restore.
//!
//! An app that keeps what must not be the same in two microVMs – the state of a generator, a token, a lease – reads the number again
//! before it uses that, or watches it: with inotify (`IN_MODIFY`), or mapped into its memory. It is written in place, while the app is
//! frozen, so that no reader sees half of it.
//!
//! The file is in a file system of its own, which the app's container has read-only: whoever gets behind that finds no other file
//! of the agent.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use libc::{MS_NODEV, MS_NOEXEC, MS_NOSUID};

use crate::system::mounts;

/// Where the agent has the file system of the file.
pub const FOLDER: &str = "/run/generation";
/// Name of the file.
const FILE: &str = "generation";
/// Digits of the number: as many as the largest one has.
const DIGITS: usize = 20;

/// The number, and the file that says it.
#[derive(Debug)]
pub struct Generation {
    file: File,
    number: u64,
}

impl Generation {
    /// Makes the file system and the file.
    ///
    /// # Errors
    /// A system call failed.
    pub fn mount() -> io::Result<Self> {
        fs::create_dir_all(FOLDER)?;
        let flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
        mounts::mount("generation", FOLDER, "tmpfs", flags, "mode=755,size=64k,nr_inodes=16")?;
        Self::make(Path::new(FOLDER))
    }

    /// Makes the file in a folder; the first generation is 1.
    fn make(folder: &Path) -> io::Result<Self> {
        let generation = Self { file: File::create(folder.join(FILE))?, number: 1 };
        generation.write()?;
        Ok(generation)
    }

    /// Goes on to the next generation.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn advance(&mut self) -> io::Result<()> {
        self.number += 1;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(format!("{:0DIGITS$}\n", self.number).as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_changes_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let mut generation = Generation::make(folder.path()).unwrap();
        let reader = File::open(folder.path().join(FILE)).unwrap();
        let read = || {
            let mut text = [0; DIGITS + 1];
            reader.read_exact_at(&mut text, 0).unwrap();
            assert_eq!(reader.metadata().unwrap().len(), 21);
            String::from_utf8(text.to_vec()).unwrap()
        };
        assert_eq!(read(), "00000000000000000001\n");
        generation.advance().unwrap();
        assert_eq!(read(), "00000000000000000002\n");
        generation.number = u64::MAX - 1;
        generation.advance().unwrap();
        assert_eq!(read(), "18446744073709551615\n");
    }
}
