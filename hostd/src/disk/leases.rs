//! Room that is handed out to the disks of running microVMs.
//!
//! ```text
//!               what its file takes, twice a second
//!   microVM's file ──────────────► lease ──► a new bound ──► its monitor, which lets no write exceed it
//!                                    ╰────► counts for the account: the bound, not what is taken of it
//! ```
//!
//! A lease is counted before its monitor hears of it, and given back after its monitor has lowered the bound. So what
//! accounts are counted for is never less than what their guests can write before anybody looks again, and the disk is not
//! promised twice. A monitor that does not keep to bounds – one of an earlier release – counts for what its file takes.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::rule::{Decision, START, decide, step};
use super::{BLOCK, Disk};
use crate::panics::poisoned;
use crate::usage::Share;

/// Time between two looks at what microVMs have taken.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Who has a lease: a running microVM.
pub trait Holder: Send + Sync + fmt::Debug {
    /// Bounds the storage in bytes that its disk takes. Returns whether its monitor keeps to bounds. It may block.
    ///
    /// # Errors
    /// Why its monitor was not told.
    fn bound(&self, bytes: u64) -> Result<bool, String>;

    /// Its writes have begun to wait since the account may have no more room, or have stopped to wait. It does not block.
    fn waits(&self, waits: bool);
}

/// Room for the disk of a microVM, which its account is counted for. Dropped, what its file takes counts until files are
/// measured next.
#[derive(Debug)]
pub struct Lease {
    disk: Disk,
    number: u64,
}

/// Says who holds a lease when its monitor has answered.
#[derive(Debug)]
pub struct Holding {
    disk: Disk,
    number: u64,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    last: u64,
    /// What was given back since files were measured.
    settling: Vec<Share>,
}

#[derive(Debug)]
struct Entry {
    account: String,
    file: PathBuf,
    share: Share,
    /// Bytes that the file took when it was looked at.
    taken: u64,
    /// Bytes that it may take.
    bound: u64,
    /// Whether the monitor keeps to the bound.
    kept: bool,
    holder: Option<Arc<dyn Holder>>,
    /// Whether the monitor is being told a bound.
    busy: bool,
    /// Whether the monitor has taken over `bound` for certain.
    told: bool,
    waits: bool,
}

impl Entry {
    /// Bytes that the account is counted for.
    fn counted(&self) -> u64 {
        if self.kept { self.bound.max(self.taken) } else { self.taken }
    }

    fn count(&mut self) {
        self.share.set(self.counted());
    }

    /// Bytes that are counted and not taken.
    fn promised(&self) -> u64 {
        self.counted().saturating_sub(self.taken)
    }
}

/// A bound that a monitor is to be told.
struct Order {
    number: u64,
    bound: u64,
    holder: Arc<dyn Holder>,
}

impl Table {
    fn promised(&self) -> u64 {
        self.entries.values().fold(0, |sum, entry| sum.saturating_add(entry.promised()))
    }
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(poisoned)
    }

    /// Bytes that are promised to microVMs and not taken yet.
    pub(super) fn promised(&self) -> u64 {
        self.lock().promised()
    }

    /// Bytes of an account that are promised and not taken yet.
    pub(super) fn promised_to(&self, account: &str) -> u64 {
        let table = self.lock();
        let own = table.entries.values().filter(|entry| entry.account == account);
        own.fold(0, |sum, entry| sum.saturating_add(entry.promised()))
    }

    /// The number of microVMs whose writes wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().entries.values().filter(|entry| entry.waits).count()
    }

    /// The files that leases count.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.lock().entries.values().map(|entry| entry.file.clone()).collect()
    }

    /// What was given back and is to be measured from now on.
    pub(super) fn take_settling(&self) -> Vec<Share> {
        std::mem::take(&mut self.lock().settling)
    }

    /// Counts a share until files are measured next.
    pub(super) fn settle(&self, share: Share) {
        self.lock().settling.push(share);
    }
}

impl Disk {
    /// Room for the disk of a microVM of `account`, whose file is `file`; it need not exist yet.
    #[must_use]
    pub fn lease(&self, account: &str, file: &Path) -> Lease {
        let (free, taken) = (self.free_above_reserve(), taken(file).unwrap_or_default());
        let mut table = self.shared.leases.lock();
        let headroom = self.balance(account, free.saturating_sub(table.promised())).headroom();
        let bound = taken.saturating_add(step(headroom).min(headroom).max(START));
        table.last = table.last.wrapping_add(1);
        let number = table.last;
        let mut entry = Entry {
            account: account.to_owned(),
            file: file.to_owned(),
            share: self.shared.usage.nothing(account),
            taken,
            bound,
            kept: true,
            holder: None,
            busy: false,
            told: true,
            waits: false,
        };
        entry.count();
        table.entries.insert(number, entry);
        Lease { disk: self.clone(), number }
    }

    /// Hands out room to microVMs as they use it, and measures the builds in the folder `work`, as long as the daemon runs.
    pub(crate) async fn keep_leases(self, work: PathBuf) {
        if self.shared.folder.is_none() {
            return;
        }
        loop {
            tokio::time::sleep(TICK).await;
            let (disk, work) = (self.clone(), work.clone());
            let look = move || {
                disk.measure_builds(&work);
                disk.look()
            };
            match tokio::task::spawn_blocking(look).await {
                // A monitor may be silent: each has a thread of its own, one at a time.
                Ok(orders) => orders.into_iter().for_each(|order| {
                    let disk = self.clone();
                    drop(tokio::task::spawn_blocking(move || disk.carry_out(&order)));
                }),
                Err(error) if error.is_cancelled() => return, // the daemon is stopping
                Err(_) => {}
            }
        }
    }

    /// Looks at what microVMs have taken and decides about their bounds. Blocks.
    fn look(&self) -> Vec<Order> {
        let files: Vec<(u64, PathBuf)> = {
            let table = self.shared.leases.lock();
            table.entries.iter().map(|(number, entry)| (*number, entry.file.clone())).collect()
        };
        let taken: Vec<(u64, u64)> =
            files.into_iter().filter_map(|(number, file)| Some((number, taken(&file)?))).collect();
        let free = self.free_above_reserve();
        let mut table = self.shared.leases.lock();
        let mut numbers = Vec::with_capacity(taken.len());
        for (number, taken) in taken {
            let Some(entry) = table.entries.get_mut(&number) else { continue };
            entry.taken = taken;
            entry.count();
            numbers.push((self.shared.usage.of(&entry.account), number));
        }
        // Accounts that have least come first.
        numbers.sort_unstable();
        let mut promised = table.promised();
        let mut orders = Vec::new();
        for (_, number) in numbers {
            let Some(entry) = table.entries.get_mut(&number) else { continue };
            let Some(holder) = entry.holder.clone().filter(|_| entry.kept && !entry.busy) else { continue };
            let headroom = self.balance(&entry.account, free.saturating_sub(promised)).headroom();
            let before = entry.promised();
            let decision = decide(entry.taken, entry.bound, headroom);
            let waits = decision == Decision::Refuse;
            if std::mem::replace(&mut entry.waits, waits) != waits {
                holder.waits(waits);
            }
            let bound = match decision {
                Decision::Set(bound) => Some(bound),
                // The guest may have less than it is counted for, and would wait for what is there already.
                Decision::Keep | Decision::Refuse => (!entry.told).then_some(entry.bound),
            };
            if let Some(bound) = bound {
                entry.busy = true;
                // A lower bound counts once the monitor keeps to it.
                entry.bound = entry.bound.max(bound);
                entry.count();
                promised = promised.saturating_sub(before).saturating_add(entry.promised());
                orders.push(Order { number, bound, holder });
            }
        }
        orders
    }

    /// Tells a monitor its bound. Blocks.
    fn carry_out(&self, order: &Order) {
        let told = order.holder.bound(order.bound);
        let mut table = self.shared.leases.lock();
        let Some(entry) = table.entries.get_mut(&order.number) else { return };
        entry.busy = false;
        match told {
            Ok(kept) => {
                (entry.kept, entry.bound, entry.told) = (kept, order.bound, true);
                entry.count();
            }
            // It may have heard of it or not: the larger bound counts, and is told again.
            Err(error) => {
                entry.told = false;
                tracing::debug!(holder = ?order.holder, error, "a bound was not taken over");
            }
        }
    }
}

impl Lease {
    /// Bytes that the file may take; none where the disk has no end.
    #[must_use]
    pub fn bound(&self) -> Option<u64> {
        self.disk.shared.folder.as_ref()?;
        self.disk.shared.leases.lock().entries.get(&self.number).map(|entry| entry.bound)
    }

    /// Names the holder of this lease, now or later.
    #[must_use]
    pub fn holding(&self) -> Holding {
        Holding { disk: self.disk.clone(), number: self.number }
    }

    /// From now on the holder gets more room as it needs it. `kept`: whether its monitor keeps to bounds and has this one; none where
    /// it did not answer, and is told again.
    pub fn held_by(&self, holder: Arc<dyn Holder>, kept: Option<bool>) {
        self.holding().held_by(holder, kept);
    }
}

impl Holding {
    /// [`Lease::held_by`]; the lease may have been given back.
    pub fn held_by(self, holder: Arc<dyn Holder>, kept: Option<bool>) {
        if let Some(entry) = self.disk.shared.leases.lock().entries.get_mut(&self.number) {
            (entry.holder, entry.kept, entry.told) = (Some(holder), kept.unwrap_or(true), kept.is_some());
            entry.count();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let leases = &self.disk.shared.leases;
        let Some(file) = leases.lock().entries.get(&self.number).map(|entry| entry.file.clone()) else {
            return;
        };
        // A disk that hangs holds up nobody else.
        let taken = taken(&file);
        let mut table = leases.lock();
        if let Some(mut entry) = table.entries.remove(&self.number) {
            entry.share.set(taken.unwrap_or(entry.taken));
            table.settling.push(entry.share);
            self.disk.shared.changed.notify_one();
        }
    }
}

/// Bytes that a file takes on the disk; none if it cannot be found out.
fn taken(file: &Path) -> Option<u64> {
    Some(file.symlink_metadata().ok()?.blocks().saturating_mul(BLOCK))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::DiskError;

    const ACCOUNT: &str = "111122223333";
    const OTHER: &str = "444455556666";
    const MIB: u64 = 1 << 20;

    /// A monitor that notes what it is told, or is silent.
    #[derive(Debug, Default)]
    struct Monitor {
        bounds: Mutex<Vec<u64>>,
        waits: Mutex<Vec<bool>>,
        silent: Mutex<bool>,
    }

    impl Holder for Monitor {
        fn bound(&self, bytes: u64) -> Result<bool, String> {
            if *self.silent.lock().unwrap() {
                return Err("silent".into());
            }
            self.bounds.lock().unwrap().push(bytes);
            Ok(true)
        }

        fn waits(&self, waits: bool) {
            self.waits.lock().unwrap().push(waits);
        }
    }

    struct Site {
        folder: tempfile::TempDir,
        disk: Disk,
    }

    impl Site {
        fn new(quota_mib: Option<u64>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let disk = Disk::new(Some(folder.path().to_owned()), (0, 0), quota_mib, 0);
            Self { folder, disk }
        }

        fn lease(&self, account: &str, name: &str) -> (Lease, Arc<Monitor>, PathBuf) {
            let (file, monitor) = (self.folder.path().join(name), Arc::new(Monitor::default()));
            let lease = self.disk.lease(account, &file);
            fs::write(&file, "").unwrap();
            lease.held_by(Arc::clone(&monitor) as _, Some(true));
            (lease, monitor, file)
        }

        /// Looks once, and tells monitors what follows.
        fn tick(&self) {
            self.disk.look().iter().for_each(|order| self.disk.carry_out(order));
        }
    }

    fn write(file: &Path, mib: u64) {
        fs::write(file, vec![1; usize::try_from(mib * MIB).unwrap()]).unwrap();
    }

    #[test]
    fn a_microvm_gets_room_in_steps_until_its_account_may_have_no_more() {
        let site = Site::new(Some(20));
        let (lease, monitor, file) = site.lease(ACCOUNT, "overlay");
        assert_eq!((lease.bound(), site.disk.usage().of(ACCOUNT)), (Some(8 * MIB), 8 * MIB));
        site.tick();
        write(&file, 3);
        site.tick();
        assert!(monitor.bounds.lock().unwrap().is_empty(), "more than half of a step is left");
        write(&file, 6);
        site.tick();
        assert_eq!((lease.bound(), site.disk.usage().of(ACCOUNT)), (Some(14 * MIB), 14 * MIB));
        write(&file, 13);
        site.tick();
        assert_eq!((lease.bound(), site.disk.usage().of(ACCOUNT)), (Some(20 * MIB), 20 * MIB));
        assert_eq!(site.disk.of_account(ACCOUNT).taken, 13 * MIB);
        assert_eq!(site.disk.admit(ACCOUNT, 0), Err(DiskError::Quota(20)));
        site.disk.admit(OTHER, 0).unwrap();
        write(&file, 20);
        site.tick();
        site.tick();
        assert_eq!((monitor.waits.lock().unwrap().as_slice(), site.disk.waiting()), (&[true][..], 1));
        assert_eq!(*monitor.bounds.lock().unwrap(), [14 * MIB, 20 * MIB]);
        // The guest discards, and needs no more.
        write(&file, 15);
        site.tick();
        assert_eq!((monitor.waits.lock().unwrap().as_slice(), site.disk.waiting()), (&[true, false][..], 0));
        // What is given back counts as what is there, until it is measured.
        drop(lease);
        assert_eq!(site.disk.usage().of(ACCOUNT), 15 * MIB);
        site.disk.measure(site.folder.path(), site.folder.path(), &[]);
        assert_eq!(site.disk.usage().of(ACCOUNT), 0);
    }

    #[test]
    fn what_is_promised_in_vain_goes_to_others_when_room_becomes_scarce() {
        let site = Site::new(Some(6400));
        let (idle, monitor, _) = site.lease(ACCOUNT, "idle");
        assert_eq!(idle.bound(), Some(100 * MIB));
        let rest = site.disk.usage().take(ACCOUNT, 6290 * MIB);
        *monitor.silent.lock().unwrap() = true;
        site.tick();
        assert_eq!(site.disk.usage().of(ACCOUNT), 6390 * MIB, "it has not heard of it");
        *monitor.silent.lock().unwrap() = false;
        site.tick();
        assert_eq!((idle.bound(), site.disk.usage().of(ACCOUNT)), (Some(8 * MIB), 6298 * MIB));
        let (busy, _, file) = site.lease(ACCOUNT, "busy");
        write(&file, 7);
        site.tick();
        assert_eq!(busy.bound(), Some(15 * MIB));
        drop(rest);
        site.tick();
        assert!(busy.bound() > Some(100 * MIB), "there is plenty again");
    }

    #[test]
    fn a_monitor_that_was_silent_is_told_again() {
        let site = Site::new(Some(6400));
        let (lease, monitor, file) = site.lease(ACCOUNT, "overlay");
        write(&file, 90);
        *monitor.silent.lock().unwrap() = true;
        site.tick();
        let bound = lease.bound().unwrap();
        assert!(bound > 180 * MIB, "it counts before the monitor hears of it");
        // The guest fills what its monitor allows.
        write(&file, 100);
        site.tick();
        assert!(monitor.bounds.lock().unwrap().is_empty());
        *monitor.silent.lock().unwrap() = false;
        site.tick();
        site.tick();
        assert_eq!(*monitor.bounds.lock().unwrap(), [bound]);
    }

    #[test]
    fn a_monitor_without_bounds_counts_for_what_it_has_taken() {
        let site = Site::new(Some(20));
        let file = site.folder.path().join("overlay");
        write(&file, 30);
        let lease = site.disk.lease(ACCOUNT, &file);
        let monitor = Arc::new(Monitor::default());
        lease.held_by(Arc::clone(&monitor) as _, Some(false));
        assert_eq!(Some(site.disk.usage().of(ACCOUNT)), taken(&file));
        write(&file, 40);
        site.tick();
        assert_eq!(Some(site.disk.usage().of(ACCOUNT)), taken(&file));
        assert!(monitor.bounds.lock().unwrap().is_empty());
        assert_eq!(Disk::unlimited().lease(ACCOUNT, &file).bound(), None);
    }
}
