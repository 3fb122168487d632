//! What builds under way take of the disk, and what they leave for later ones.
//!
//! A build's scratch disk, its root disk and its snapshot grow with what a Dockerfile does. They are measured with the disks
//! of microVMs, and count for the account that builds; a build whose account has more than it may fails. Caches of layers
//! save time only: they go when room is needed.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use hearth_image_builder::build::{builds_in, caches_in};
use hearth_model::account::is_account;

use super::leases::TICK;
use super::{Disk, DiskError, measure};
use crate::panics::poisoned;

impl Disk {
    /// Waits until a build of `account` may not go on, and returns why: the account has more than it may, or less than half
    /// of the reserve is free.
    pub(crate) async fn ends_build(&self, account: &str) -> DiskError {
        loop {
            tokio::time::sleep(TICK).await;
            if let Err(error) = self.may_build_on(account) {
                return error;
            }
        }
    }

    fn may_build_on(&self, account: &str) -> Result<(), DiskError> {
        self.has_free(self.shared.reserve / 2)?;
        self.balance(account, self.left()).allows(0)
    }

    /// Measures the builds in the folder `work`. Blocks.
    pub(super) fn measure_builds(&self, work: &Path) {
        let mut taken: HashMap<String, u64> = HashMap::new();
        for (account, folder) in builds_in(work).into_iter().filter(|(account, _)| is_account(account)) {
            let sum = taken.entry(account).or_default();
            *sum = sum.saturating_add(measure::bytes(folder, &HashSet::new()));
        }
        self.settle_what_went(&taken);
        self.count(&self.shared.building, taken);
    }

    /// What a build has finished is elsewhere now, in its image and its cache, and counts on until files are measured next.
    fn settle_what_went(&self, taken: &HashMap<String, u64>) {
        let building = self.shared.building.lock().unwrap_or_else(poisoned);
        for (account, before) in building.iter() {
            let went = before.amount().saturating_sub(taken.get(account).copied().unwrap_or_default());
            if went > 0 {
                self.shared.leases.settle(self.shared.usage.take(account, went));
                self.shared.changed.notify_one();
            }
        }
    }

    /// Removes caches in the folder `work`: those of accounts that may take no more, and all when the disk has no more than
    /// its reserve. Blocks.
    pub(super) fn drop_caches(&self, work: &Path) {
        let full = self.has_free(self.shared.reserve).is_err();
        for (account, cache) in caches_in(work) {
            if !full && self.balance(&account, self.left()).allows(1).is_ok() {
                continue;
            }
            match std::fs::remove_file(&cache) {
                Ok(()) => {
                    tracing::info!(account, "a cache of layers of builds is removed: its room is needed")
                }
                // A build may have taken it.
                Err(error) => tracing::debug!(cache = %cache.display(), %error, "a cache stays"),
            }
        }
    }

    /// Counts what was measured in place of what was measured before.
    pub(super) fn count(&self, shares: &super::Measured, taken: HashMap<String, u64>) {
        let mut shares = shares.lock().unwrap_or_else(poisoned);
        shares.retain(|account, _| taken.contains_key(account));
        for (account, bytes) in taken {
            let usage = &self.shared.usage;
            shares.entry(account).or_insert_with_key(|account| usage.nothing(account)).set(bytes);
        }
    }
}
