//! Room on the disk, and what each account takes of it.
//!
//! Disks of microVMs are sparse, and may become larger together than any host's: nothing is reserved for what they may grow
//! to. What counts is what there is. While the file system of `data` has less free than a *reserve*, nothing new begins – no
//! launch, no build, no upload – and what is there goes on, is suspended, ends and is deleted. An account may take a
//! *quota*: what its microVMs, their suspended states and its images take is measured now and then, what it has in the
//! bucket is counted as it comes and goes. Logs have bounds of their own ([`crate::logs`]), and so has the store
//! ([`crate::store::Reserved`]).

mod measure;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::statvfs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::driver::Microvms;
use crate::panics::poisoned;
use crate::usage::{OverLimit, Share, Usage};

/// Greatest reserve unless one is configured, in bytes.
const RESERVE_MAX: u64 = 10 << 30;
/// The part of a file system that is the reserve unless one is configured: one in so many.
const RESERVE_PART: u64 = 20;
/// Time between two measurements of what accounts take.
const INTERVAL: Duration = Duration::from_secs(30);

/// Room on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// What has to be free on the file system of `data` for a launch, a build or an upload to begin, in MiB. A twentieth of
    /// the file system unless given, 10 GiB at most.
    pub reserve_mib: Option<u64>,
}

/// Room on the disk. Clones are cheap and share the same counts.
#[derive(Debug, Clone)]
pub struct Disk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// A folder on the disk; none: there is always room.
    folder: Option<PathBuf>,
    reserve: u64,
    usage: Usage,
    /// What was measured last, by account.
    measured: Mutex<HashMap<String, Share>>,
}

/// Why something new does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The disk is too full.
    #[error("the disk has {free_mib} MiB free, and needs {needed_mib} MiB for this to begin")]
    Full {
        /// What is free, in MiB.
        free_mib: u64,
        /// What has to be free, in MiB.
        needed_mib: u64,
    },
    /// The account takes what it may; contains that, in MiB.
    #[error("the account may take {0} MiB of the disk")]
    Quota(u64),
}

impl From<OverLimit> for DiskError {
    fn from(OverLimit(bytes): OverLimit) -> Self {
        Self::Quota(mib(bytes))
    }
}

impl Disk {
    /// The disk of `folder`. `quota_mib` is what each account may take, unlimited unless given.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub fn of(folder: &Path, config: DiskConfig, quota_mib: Option<u64>) -> io::Result<Self> {
        let all = Space::of(folder)?.size;
        let reserve = match config.reserve_mib {
            Some(mib) => mib.saturating_mul(1 << 20),
            None => (all / RESERVE_PART).min(RESERVE_MAX),
        };
        if all > 0 && reserve >= all {
            tracing::warn!(
                reserve_mib = mib(reserve),
                all_mib = mib(all),
                "disk.reserve_mib is more than the disk has: nothing can be launched, built or uploaded"
            );
        }
        Ok(Self::new(Some(folder.to_owned()), reserve, quota_mib))
    }

    /// A disk that has room for everything; for tests and benches.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(None, 0, None)
    }

    fn new(folder: Option<PathBuf>, reserve: u64, quota_mib: Option<u64>) -> Self {
        let usage = Usage::new(quota_mib.map(|mib| mib.saturating_mul(1 << 20)));
        Self { shared: Arc::new(Shared { folder, reserve, usage, measured: Mutex::default() }) }
    }

    /// Whether something new may begin for which `account` needs so many bytes, as far as that is known.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn admit(&self, account: &str, bytes: u64) -> Result<(), DiskError> {
        self.has_free(self.shared.reserve.saturating_add(bytes))?;
        // Something new takes at least a byte.
        Ok(self.shared.usage.allows(account, bytes.max(1))?)
    }

    /// Whether something that has begun may go on to take room.
    ///
    /// # Errors
    /// [`DiskError::Full`].
    pub(crate) fn has_reserve(&self) -> Result<(), DiskError> {
        self.has_free(self.shared.reserve)
    }

    /// Whether the disk has so many bytes free, of the reserve, too.
    ///
    /// # Errors
    /// [`DiskError::Full`].
    pub fn has_free(&self, bytes: u64) -> Result<(), DiskError> {
        let Some(folder) = &self.shared.folder else { return Ok(()) };
        match free(folder) {
            Ok(free) if free < bytes => {
                Err(DiskError::Full { free_mib: mib(free), needed_mib: bytes.div_ceil(1 << 20) })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the disk cannot be asked for its free room");
                Ok(())
            }
        }
    }

    /// The counts of accounts, in bytes.
    pub(crate) fn usage(&self) -> &Usage {
        &self.shared.usage
    }

    /// Measures what microVMs and images take, as long as the daemon runs. `data` is the folder of both.
    pub(crate) async fn keep_measured(self, data: PathBuf, microvms: Microvms) {
        let mut had_room = true;
        loop {
            had_room = self.tell_room(had_room);
            let (disk, data, owners) = (self.clone(), data.clone(), microvms.owners());
            let measured = tokio::task::spawn_blocking(move || disk.measure(&data, &owners)).await;
            if measured.is_err_and(|error| error.is_cancelled()) {
                return; // the daemon is stopping
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Says in the log when the disk has no room for what is new any more, and when it has again. Returns whether it has.
    fn tell_room(&self, had_room: bool) -> bool {
        match self.has_reserve() {
            Err(error) if had_room => {
                tracing::warn!(%error, "launches, builds and uploads are refused: less is free than disk.reserve_mib");
                false
            }
            Err(_) => false,
            Ok(()) => {
                if !had_room {
                    tracing::info!("the disk has room for launches, builds and uploads again");
                }
                true
            }
        }
    }

    /// Measures what microVMs – ids and accounts – and images take. Blocks.
    fn measure(&self, data: &Path, owners: &[(String, String)]) {
        let taken = measure::by_account(data, owners);
        let mut measured = self.shared.measured.lock().unwrap_or_else(poisoned);
        measured.retain(|account, _| taken.contains_key(account));
        for (account, bytes) in taken {
            let usage = &self.shared.usage;
            measured.entry(account).or_insert_with_key(|account| usage.nothing(account)).set(bytes);
        }
    }
}

/// Bytes that are free for everybody on the file system of a folder; no end of them on a file system without a size, like
/// ramfs.
///
/// # Errors
/// The system's error.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    let space = Space::of(folder)?;
    Ok(if space.size == 0 { u64::MAX } else { space.free })
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Space {
    /// Its size; none on a file system without a size, like ramfs.
    pub(crate) size: u64,
    /// What is free for everybody.
    pub(crate) free: u64,
}

impl Space {
    /// That of a folder's file system.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn of(folder: &Path) -> io::Result<Self> {
        let found = statvfs(folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self { size: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }
}

fn mib(bytes: u64) -> u64 {
    bytes / (1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "111122223333";
    const OTHER: &str = "444455556666";

    #[test]
    fn below_the_reserve_nothing_new_begins() {
        let folder = tempfile::tempdir().unwrap();
        let of = |reserve_mib| Disk::of(folder.path(), DiskConfig { reserve_mib }, None).unwrap();
        of(Some(0)).admit(ACCOUNT, 0).unwrap();
        let most = of(Some(u64::MAX / (1 << 20) - 1));
        assert!(matches!(most.admit(ACCOUNT, 0), Err(DiskError::Full { .. })));
        most.has_free(0).unwrap();
        assert!(matches!(of(Some(0)).admit(ACCOUNT, u64::MAX / 2), Err(DiskError::Full { .. })));
        assert!(of(None).shared.reserve <= RESERVE_MAX);
    }

    #[test]
    fn an_account_takes_no_more_than_its_quota_of_what_was_measured() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let put = |at: &str, bytes: usize| {
            let path = data.join(at);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![7; bytes]).unwrap();
        };
        put(&format!("images/{ACCOUNT}/uid/1/build/disk"), 600 << 10);
        put("microvms/microvm-1/overlay-1", 300 << 10);
        put("microvms/microvm-2/suspended-1/memory", 900 << 10);
        std::fs::hard_link(
            data.join("microvms/microvm-2/suspended-1/memory"),
            data.join("microvms/microvm-2/layer"),
        )
        .unwrap();
        put("microvms/microvm-nobodys/overlay-1", 4 << 20);
        let owners = [("microvm-1", ACCOUNT), ("microvm-2", OTHER)];
        let owners = owners.map(|(id, account)| (id.to_owned(), account.to_owned()));
        let disk = Disk::new(None, 0, Some(1));
        disk.measure(data, &owners);
        let near = |account: &str, bytes: u64| {
            let used = disk.usage().of(account);
            assert!((bytes..bytes + (64 << 10)).contains(&used), "{used} bytes instead of {bytes}");
        };
        near(ACCOUNT, 900 << 10);
        near(OTHER, 900 << 10);
        disk.admit(ACCOUNT, 50 << 10).unwrap();
        assert_eq!(disk.admit(ACCOUNT, 150 << 10), Err(DiskError::Quota(1)));
        std::fs::remove_dir_all(data.join("microvms")).unwrap();
        disk.measure(data, &owners);
        near(ACCOUNT, 600 << 10);
        assert_eq!(disk.usage().of(OTHER), 0);
    }
}
