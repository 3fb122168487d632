//! BackUpStore.
//!
//! One backup is made at a time, also if its client has gone. A backup is named by the time, `SECONDS-MILLISECONDS`; after each
//! new one the oldest are removed, so that the newest are kept. What has another name is not touched. The folder is this host's alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use hearth_proto::host::v1::{BackUpStoreRequest, BackUpStoreResponse};

use super::super::Service;
use super::super::error::{HostError, ServiceError};
use super::super::pipeline::{Admitted, Handler, NoImage};
use super::bytes;
use crate::access::Caller;
use crate::panics::{self, poisoned};
use crate::store::Db;

/// What follows a backup's name while it is removed.
const REMOVED: &str = "removed";

/// The store's backups. Clones are cheap and share all state.
#[derive(Debug, Clone)]
pub struct Backups {
    folder: PathBuf,
    kept: usize,
    under_way: Arc<Mutex<Option<String>>>,
}

/// The only backup that is being made.
struct Turn(Arc<Mutex<Option<String>>>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(poisoned) = None;
    }
}

impl Backups {
    /// The backups in `folder`, of which the newest `kept` are kept.
    #[must_use]
    pub fn new(folder: PathBuf, kept: u32) -> Self {
        Self { folder, kept: usize::try_from(kept).unwrap_or(usize::MAX).max(1), under_way: Arc::default() }
    }

    /// The name of a backup that is made now: its time in milliseconds, and later than all others whatever the clock says, since the
    /// newest are kept.
    fn name(&self, now: Duration) -> String {
        let newest = self.whole().unwrap_or_default().into_iter().max();
        let after = newest.map_or(Duration::ZERO, |(time, _)| time.saturating_add(Duration::from_millis(1)));
        let time = now.max(after);
        format!("{}-{:03}", time.as_secs(), time.subsec_millis())
    }

    /// All backups, with their times.
    fn whole(&self) -> io::Result<Vec<(Duration, String)>> {
        let mut whole = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(time) = time_of(&name).filter(|_| entry.path().is_dir()) {
                whole.push((time, name));
            }
        }
        Ok(whole)
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// [`HostError::BackupUnderWay`] with the name of the other one.
    fn begin(&self, name: &str) -> Result<Turn, HostError> {
        let mut under_way = self.under_way.lock().unwrap_or_else(poisoned);
        if let Some(other) = &*under_way {
            return Err(HostError::BackupUnderWay(other.clone()));
        }
        *under_way = Some(name.to_owned());
        Ok(Turn(Arc::clone(&self.under_way)))
    }

    /// Removes the oldest backups, and what removals and backups before have left half done. Failures are logged: the new backup
    /// is there.
    fn prune(&self) {
        if let Err(error) = self.try_prune() {
            let folder = self.folder.display();
            tracing::error!(%folder, %error, "old backups of the store cannot be removed; the next backup tries again");
        }
    }

    fn try_prune(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if is_remains(&entry.file_name().to_string_lossy()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let mut whole = self.whole()?;
        whole.sort_unstable();
        let excess = whole.len().saturating_sub(self.kept);
        for (_, name) in whole.into_iter().take(excess) {
            // A folder with a backup's name is a whole backup.
            let removed = self.folder.join(format!(".{name}.{REMOVED}"));
            fs::rename(self.folder.join(&name), &removed)?;
            fs::remove_dir_all(&removed)?;
            tracing::info!(backup = name, "an old backup of the store was removed");
        }
        Ok(())
    }
}

/// The time in the name of a backup: seconds and milliseconds.
fn time_of(name: &str) -> Option<Duration> {
    let (seconds, millis) = name.split_once('-').filter(|(_, millis)| millis.len() == 3)?;
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let (seconds, millis) =
        [seconds, millis].iter().all(|part| is_number(part)).then_some((seconds, millis))?;
    let seconds = Duration::from_secs(seconds.parse().ok()?);
    seconds.checked_add(Duration::from_millis(millis.parse().ok()?))
}

/// Whether a folder is what a backup or a removal has left that was killed.
fn is_remains(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
    let stages = ["checkpoint", "partial", REMOVED];
    parts.is_some_and(|(name, stage)| stages.contains(&stage) && time_of(name).is_some())
}

/// Writes a consistent copy of the store into a new folder, which is named by the time.
impl Handler for BackUpStoreRequest {
    type Response = BackUpStoreResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let service = call.service;
        let now = service.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let backups = &service.parts().host.backups;
        let name = backups.name(now);
        let size = back_up(backups, service.db(), &name).await?;
        Ok(BackUpStoreResponse { name, bytes: bytes(size) })
    }
}

/// Makes a backup, and returns its size in bytes. It goes on if this future is dropped, and no other one begins until it has ended.
async fn back_up(backups: &Backups, db: &Db, name: &str) -> Result<u64, ServiceError> {
    let turn = backups.begin(name)?;
    let (backups, db, to) = (backups.clone(), db.clone(), backups.folder.join(name));
    let made = panics::blocking(move || {
        let _turn = turn;
        make(&backups.folder)?;
        let size = db.back_up_here(&to)?;
        backups.prune();
        Ok(size)
    });
    made.await
}

fn make(folder: &Path) -> Result<(), ServiceError> {
    let made = fs::create_dir_all(folder);
    made.map_err(|error| ServiceError::internal(format!("making {}: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use super::*;
    use crate::store::{MemoryStore, Over, Store, StoreError};

    /// A store whose backups wait until they may go on.
    #[derive(Debug, Default)]
    struct Slow {
        store: MemoryStore,
        open: Mutex<bool>,
        opened: Condvar,
    }

    impl Slow {
        fn open(&self) {
            *self.open.lock().unwrap() = true;
            self.opened.notify_all();
        }
    }

    impl Over for Slow {
        fn below(&self) -> &dyn Store {
            &self.store
        }

        fn copies(&self, to: &Path) -> Result<u64, StoreError> {
            let mut open = self.open.lock().unwrap();
            while !*open {
                open = self.opened.wait(open).unwrap();
            }
            fs::create_dir(to).unwrap();
            Ok(7)
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_newest_backups_are_kept_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "999-000",
            "1000-999",
            "1001-000",
            "1001-001",
            "by-hand",
            "1000-1",
            "x-000",
            ".1000-000.partial",
            ".999-001.removed",
            ".999-002.checkpoint",
            ".other.partial",
        ] {
            fs::create_dir_all(folder.path().join(name).join("inside")).unwrap();
        }
        fs::write(folder.path().join("1-000"), "a file").unwrap();
        Backups::new(folder.path().to_owned(), 2).prune();
        assert_eq!(
            names(folder.path()),
            [".other.partial", "1-000", "1000-1", "1001-000", "1001-001", "by-hand", "x-000"]
        );
    }

    #[test]
    fn a_new_backup_is_the_newest_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let backups = Backups::new(folder.path().join("backups"), 2);
        let now = Duration::from_millis(1_234_005);
        assert_eq!(backups.name(now), "1234-005");
        // The clock was ahead once.
        for name in ["9000-999", "8999-000"] {
            fs::create_dir_all(folder.path().join("backups").join(name)).unwrap();
        }
        assert_eq!(backups.name(now), "9001-000");
        fs::create_dir(folder.path().join("backups/9001-000")).unwrap();
        backups.prune();
        assert_eq!(names(&folder.path().join("backups")), ["9000-999", "9001-000"]);
    }

    #[tokio::test]
    async fn one_backup_is_made_at_a_time_also_if_its_client_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Slow::default());
        let db = Db::direct(Arc::clone(&store) as _);
        let backups = Backups::new(folder.path().to_owned(), 1);
        {
            let mut first = Box::pin(back_up(&backups, &db, "1-000"));
            assert!(futures_util::poll!(&mut first).is_pending());
        }
        let refused = back_up(&backups, &db, "2-000").await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "The back-up 1-000 of the store is being made. Wait until it has ended, then try again."
        );
        assert_eq!(refused.exception().name, "ConflictException");
        store.open();
        let mut again = back_up(&backups, &db, "3-000").await;
        while again.as_ref().is_err_and(|error| error.to_string() == refused.to_string()) {
            tokio::task::yield_now().await;
            again = back_up(&backups, &db, "3-000").await;
        }
        assert_eq!(again.unwrap(), 7);
        assert_eq!(names(folder.path()), ["3-000"], "one is kept");
    }
}
