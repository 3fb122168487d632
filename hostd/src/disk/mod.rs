//! Room on the disk, and what each account takes of it.
//!
//! Disks of microVMs are sparse, and may become larger together than any host's: nothing is reserved for what they may grow
//! to. What counts is what there is, and what was promised. While the file system of `data` has less free than a *reserve*,
//! nothing new begins – no launch, no build, no upload – and what is there goes on, is suspended, ends and is deleted. An
//! account may take a *quota* and, where there are several, no more than a number of times what is then left for all: so a
//! part is always left for others ([`rule`]). What its builds, images and suspended microVMs take is measured now and then,
//! what it has in the bucket is counted as it comes and goes, and disks of running microVMs get their room in steps
//! ([`leases`]), within which their monitors keep them. Logs have bounds of their own ([`crate::logs`]), and so has the store
//! ([`crate::store::Reserved`]).
//!
//! * [`rule`] – what an account may take more; [`leases`] – room for running microVMs
//! * [`builds`] – builds under way and caches; [`measure`] – what there is; [`space`] – what the file system has

mod builds;
mod leases;
mod measure;
mod rule;
mod space;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use self::leases::Leases;
pub use self::leases::{Holder, Holding, Lease};
use self::rule::Balance;
pub(crate) use self::space::{Space, free};
use crate::driver::Microvms;
use crate::usage::{OverLimit, Share, Usage};

/// Greatest reserve unless one is configured, in bytes.
const RESERVE_MAX: u64 = 10 << 30;
/// The part of a file system that is the reserve unless one is configured: one in so many; of its files, too.
const RESERVE_PART: u64 = 20;
/// Greatest reserve of files.
const RESERVE_FILES: u64 = 50_000;
/// How many times what is left an account may have where there are several, unless configured otherwise.
const ACCOUNT_RATIO: u64 = 8;
/// Greatest time between two measurements of what accounts take.
const INTERVAL: Duration = Duration::from_secs(30);
/// Least time between them.
const PAUSE: Duration = Duration::from_secs(5);
/// Unit of a file's number of blocks, in bytes.
const BLOCK: u64 = 512;
/// What a file takes at least, in bytes: common file systems have one inode for as many.
const FILE: u64 = 16 << 10;
/// Unit in which file systems give room to files, in bytes.
const FILE_BLOCK: u64 = 4 << 10;

/// Room on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// What has to be free on the file system of `data` for a launch, a build or an upload to begin, in MiB. A twentieth of
    /// the file system unless given, 10 GiB at most. A twentieth of its inodes, 50,000 at most, has to be free as well.
    pub reserve_mib: Option<u64>,
    /// How many times the room that is left above the reserve an account may have on the disk. An account that has as much
    /// launches, builds and uploads nothing, its microVMs are not suspended, and their writes that need room wait, so that
    /// other accounts find room: with 8, a ninth of the disk where one account has all else. 0 is no such bound. 8 unless
    /// given where several accounts are configured, 0 where there is one.
    pub account_ratio: Option<u64>,
}

impl DiskConfig {
    /// With the default for that many accounts in place of what is not given.
    #[must_use]
    pub(crate) fn for_accounts(self, accounts: usize) -> Self {
        let ratio = if accounts > 1 { ACCOUNT_RATIO } else { 0 };
        Self { account_ratio: self.account_ratio.or(Some(ratio)), ..self }
    }
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
    /// Files that have to be free for something new to begin.
    reserve_files: u64,
    quota: Option<u64>,
    ratio: u64,
    usage: Usage,
    /// What was measured last.
    measured: Measured,
    /// What builds under way took last.
    building: Measured,
    leases: Leases,
    /// Something was given back, which a measurement finds.
    changed: Notify,
    /// Bytes that are being written for suspends.
    held: Usage,
}

/// What was measured, by account.
type Measured = Mutex<HashMap<String, Share>>;

/// What an account has on the disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountDisk {
    /// What it takes.
    pub taken: u64,
    /// What it may take more.
    pub room: u64,
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
    /// The disk has too few inodes left.
    #[error("the disk has {free} inodes free, and needs {needed} for this to begin")]
    Files {
        /// How many are free.
        free: u64,
        /// How many have to be free.
        needed: u64,
    },
    /// The account takes what it may; contains that, in MiB.
    #[error("the account may take {0} MiB of the disk")]
    Quota(u64),
    /// The account has so much that too little would be left for others.
    #[error(
        "the account has {used_mib} MiB of the disk, and others have to find room in the {left_mib} MiB that are left"
    )]
    Share {
        /// What counts for the account, in MiB.
        used_mib: u64,
        /// What is left for all, in MiB.
        left_mib: u64,
    },
}

impl From<OverLimit> for DiskError {
    fn from(OverLimit(bytes): OverLimit) -> Self {
        Self::Quota(mib(bytes))
    }
}

/// Room for something that is being written. Dropped, it counts for the account until files are measured next.
#[derive(Debug)]
pub(crate) struct Hold {
    disk: Disk,
    /// Bytes that are not free any more, whatever the file system says.
    _held: Share,
    share: Option<Share>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(share) = self.share.take() {
            self.disk.shared.leases.settle(share);
            self.disk.shared.changed.notify_one();
        }
    }
}

impl Disk {
    /// The disk of `folder`. `quota_mib` is what each account may take, unlimited unless given.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub fn of(folder: &Path, config: DiskConfig, quota_mib: Option<u64>) -> io::Result<Self> {
        let Space { size: all, files, .. } = Space::of(folder)?;
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
        let reserve_files = (files / RESERVE_PART).min(RESERVE_FILES);
        let ratio = config.account_ratio.unwrap_or_default();
        Ok(Self::new(Some(folder.to_owned()), (reserve, reserve_files), quota_mib, ratio))
    }

    /// A disk that has room for everything; for tests and benches.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(None, (0, 0), None, 0)
    }

    fn new(
        folder: Option<PathBuf>,
        (reserve, reserve_files): (u64, u64),
        quota_mib: Option<u64>,
        ratio: u64,
    ) -> Self {
        let quota = quota_mib.map(|mib| mib.saturating_mul(1 << 20));
        let shared = Shared {
            folder,
            reserve,
            reserve_files,
            quota,
            ratio,
            usage: Usage::new(quota),
            measured: Mutex::default(),
            building: Mutex::default(),
            leases: Leases::default(),
            changed: Notify::new(),
            held: Usage::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether something new may begin for which `account` needs so many bytes, as far as that is known.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn admit(&self, account: &str, bytes: u64) -> Result<(), DiskError> {
        self.has_free(self.shared.reserve.saturating_add(bytes))?;
        self.has_files()?;
        // Something new takes at least a byte.
        self.balance(account, self.left()).allows(bytes.max(1))
    }

    /// Whether something of `account` that has begun may go on to take room.
    ///
    /// # Errors
    /// [`DiskError`], but for [`DiskError::Quota`].
    pub(crate) fn may_go_on(&self, account: &str, bytes: u64) -> Result<(), DiskError> {
        self.has_free(self.shared.reserve)?;
        if self.shared.ratio == 0 { Ok(()) } else { self.balance(account, self.left()).shares(bytes) }
    }

    /// Room for the suspended state of a microVM of `account`, which may go into the reserve, unless the account has so much
    /// already that others would not find room.
    ///
    /// # Errors
    /// [`DiskError::Full`], [`DiskError::Share`].
    pub(crate) fn hold(&self, account: &str, bytes: u64) -> Result<Hold, DiskError> {
        self.has_free(bytes.saturating_add(self.shared.held.sum()))?;
        self.balance(account, self.left()).shares(bytes)?;
        let (held, share) = (self.shared.held.take(account, bytes), self.shared.usage.take(account, bytes));
        Ok(Hold { disk: self.clone(), _held: held, share: Some(share) })
    }

    /// Whether the disk has so many bytes free, of the reserve, too.
    ///
    /// # Errors
    /// [`DiskError::Full`].
    pub fn has_free(&self, bytes: u64) -> Result<(), DiskError> {
        match self.space() {
            Some(space) if space.free < bytes => {
                Err(DiskError::Full { free_mib: mib(space.free), needed_mib: bytes.div_ceil(1 << 20) })
            }
            _ => Ok(()),
        }
    }

    fn has_files(&self) -> Result<(), DiskError> {
        let needed = self.shared.reserve_files;
        match self.space() {
            Some(space) if space.files > 0 && space.free_files < needed => {
                Err(DiskError::Files { free: space.free_files, needed })
            }
            _ => Ok(()),
        }
    }

    /// Room on the disk, if it has an end and can be asked.
    fn space(&self) -> Option<Space> {
        let folder = self.shared.folder.as_ref()?;
        match Space::of(folder) {
            Ok(space) => Some(space).filter(|space| space.size > 0),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the disk cannot be asked for its free room");
                None
            }
        }
    }

    fn free_above_reserve(&self) -> u64 {
        let Some(space) = self.space() else { return u64::MAX };
        space.free.saturating_sub(self.shared.reserve).saturating_sub(self.shared.held.sum())
    }

    /// What is left for all: free above the reserve, and promised to nobody.
    fn left(&self) -> u64 {
        self.free_above_reserve().saturating_sub(self.shared.leases.promised())
    }

    fn balance(&self, account: &str, left: u64) -> Balance {
        let Shared { quota, ratio, ref usage, .. } = *self.shared;
        Balance { used: usage.of(account), quota, left, ratio }
    }

    /// What an account takes, and may take more.
    #[must_use]
    pub fn of_account(&self, account: &str) -> AccountDisk {
        let balance = self.balance(account, self.left());
        let promised = self.shared.leases.promised_to(account);
        AccountDisk {
            taken: balance.used.saturating_sub(promised),
            room: balance.headroom().saturating_add(promised),
        }
    }

    /// What each account that takes anything takes, and may take more.
    #[must_use]
    pub fn accounts(&self) -> BTreeMap<String, AccountDisk> {
        let accounts = self.shared.usage.accounts().into_iter();
        accounts
            .map(|account| (self.of_account(&account), account))
            .map(|(disk, account)| (account, disk))
            .collect()
    }

    /// What each account may take, in bytes, if it has a quota.
    #[must_use]
    pub fn quota(&self) -> Option<u64> {
        self.shared.quota
    }

    /// The number of microVMs whose writes wait for room.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.leases.waiting()
    }

    /// The counts of accounts, in bytes.
    pub(crate) fn usage(&self) -> &Usage {
        &self.shared.usage
    }

    /// Measures what microVMs, images and caches take, as long as the daemon runs. `data` is the folder of the first two,
    /// `work` that of builds.
    pub(crate) async fn keep_measured(self, data: PathBuf, work: PathBuf, microvms: Microvms) {
        let mut had_room = true;
        loop {
            had_room = self.tell_room(had_room);
            let (disk, data, work, owners) = (self.clone(), data.clone(), work.clone(), microvms.owners());
            let measured = tokio::task::spawn_blocking(move || disk.measure(&data, &work, &owners)).await;
            if measured.is_err_and(|error| error.is_cancelled()) {
                return; // the daemon is stopping
            }
            tokio::time::sleep(PAUSE).await;
            // When something was given back, it is measured again soon.
            let _ = tokio::time::timeout(INTERVAL - PAUSE, self.shared.changed.notified()).await;
        }
    }

    /// Says in the log when the disk has no room for what is new any more, and when it has again. Returns whether it has.
    fn tell_room(&self, had_room: bool) -> bool {
        match self.has_free(self.shared.reserve).and_then(|()| self.has_files()) {
            Err(error) if had_room => {
                tracing::warn!(
                    %error,
                    "launches, builds and uploads are refused: less is free than disk.reserve_mib, or than a part of the inodes"
                );
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

    /// Measures what microVMs – ids and accounts –, images and caches take. Blocks.
    fn measure(&self, data: &Path, work: &Path, owners: &[(String, String)]) {
        // What is given back from now on may be gone before it is measured: it counts until the next time.
        let settled = self.shared.leases.take_settling();
        let leased: HashSet<PathBuf> = self.shared.leases.files().into_iter().collect();
        let taken = measure::by_account(data, work, owners, &leased);
        self.count(&self.shared.measured, taken);
        drop(settled);
        self.drop_caches(work);
    }
}

/// What a file of that length takes of a disk, in bytes: whole blocks, and no less than the file system has for each file.
pub(crate) fn footprint(length: u64) -> u64 {
    length.checked_next_multiple_of(FILE_BLOCK).unwrap_or(u64::MAX).max(FILE)
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
        let of = |reserve_mib| {
            let config = DiskConfig { reserve_mib, ..DiskConfig::default() };
            Disk::of(folder.path(), config, None).unwrap()
        };
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
        let work = data.join("work");
        put(&format!("work/cache/{OTHER}-uid-512-0"), 100 << 10);
        put("work/builds/1/scratch", 200 << 10);
        std::fs::write(work.join("builds/1/account"), OTHER).unwrap();
        let owners = [("microvm-1", ACCOUNT), ("microvm-2", OTHER)];
        let owners = owners.map(|(id, account)| (id.to_owned(), account.to_owned()));
        let disk = Disk::new(None, (0, 0), Some(1), 0);
        disk.measure(data, &work, &owners);
        let near = |account: &str, bytes: u64| {
            let used = disk.usage().of(account);
            assert!((bytes..bytes + (64 << 10)).contains(&used), "{used} bytes instead of {bytes}");
        };
        near(ACCOUNT, 900 << 10);
        near(OTHER, 1000 << 10);
        disk.admit(ACCOUNT, 50 << 10).unwrap();
        assert_eq!(disk.admit(ACCOUNT, 150 << 10), Err(DiskError::Quota(1)));
        // A build counts while it is under way, and a cache goes when its account has no room for it.
        disk.measure_builds(&work);
        near(OTHER, 1200 << 10);
        let cache = work.join("cache").join(format!("{OTHER}-uid-512-0"));
        assert!(cache.exists());
        disk.measure(data, &work, &owners);
        assert!(!cache.exists());
        std::fs::remove_dir_all(work.join("builds")).unwrap();
        disk.measure_builds(&work);
        near(OTHER, 1200 << 10); // what it has made, and the cache, are measured next
        std::fs::remove_dir_all(data.join("microvms")).unwrap();
        disk.measure(data, &work, &owners);
        near(ACCOUNT, 600 << 10);
        assert_eq!(disk.usage().of(OTHER), 0);
    }
}
