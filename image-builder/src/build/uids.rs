//! User ids of builds' monitors: no two processes of a host have the same.

use std::fmt::Debug;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_vmm_jail::config::DEFAULT_ID;

use super::error::{BuildError, file};
use super::identity::random;

/// Number of ids of [`OwnUserIds`].
const OWN_COUNT: u32 = 1 << 16;

/// Where user ids come from.
pub trait UserIds: Debug + Send + Sync {
    /// Takes a user id that no other process has until the result is dropped; none if all are in use.
    fn take(self: Arc<Self>) -> Option<Box<dyn UserId>>;
}

/// A user id in use; free again when it is dropped.
pub trait UserId: Debug + Send + Sync {
    /// The user id.
    fn number(&self) -> u32;
}

/// The user ids of builders that no daemon starts: 65,536 from 1,900,000,001 on, above the default one of monitors and below the
/// daemon's. A builder locks a file for each that it uses, so that others on the host take another one.
#[derive(Debug)]
pub struct OwnUserIds {
    folder: PathBuf,
}

#[derive(Debug)]
struct Locked {
    number: u32,
    _lock: File,
}

impl UserId for Locked {
    fn number(&self) -> u32 {
        self.number
    }
}

impl OwnUserIds {
    /// Uses `folder` for the locks: the same for all builders of the host.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(folder: &Path) -> Result<Self, BuildError> {
        fs::create_dir_all(folder).map_err(file("making the folder", folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn lock(&self, number: u32) -> Option<Locked> {
        let path = self.folder.join(number.to_string());
        let lock = File::options().create(true).truncate(false).write(true).open(path).ok()?;
        lock.try_lock().ok()?;
        Some(Locked { number, _lock: lock })
    }
}

impl UserIds for OwnUserIds {
    fn take(self: Arc<Self>) -> Option<Box<dyn UserId>> {
        // It begins at random: what a killed builder has left may run on with an id until the next builder removes it.
        let start = u32::from(u16::from_le_bytes(random().ok()?));
        let numbers = (0..OWN_COUNT).map(|step| DEFAULT_ID + 1 + (start + step) % OWN_COUNT);
        numbers.into_iter().find_map(|number| self.lock(number)).map(|locked| Box::new(locked) as _)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_builders_have_the_same_user_id_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let builders = [0; 2].map(|_| Arc::new(OwnUserIds::new(&folder.path().join("uids")).unwrap()));
        let taken: Vec<_> = (0..64).map(|turn| Arc::clone(&builders[turn % 2]).take().unwrap()).collect();
        let numbers: HashSet<u32> = taken.iter().map(|id| id.number()).collect();
        assert_eq!(numbers.len(), 64);
        assert!(numbers.iter().all(|number| (1_900_000_001..1_900_065_537).contains(number)), "{numbers:?}");
        let number = *numbers.iter().next().unwrap();
        assert!(builders[0].lock(number).is_none(), "others see that it is in use");
        drop(taken);
        assert!(builders[0].lock(number).is_some());
    }
}
