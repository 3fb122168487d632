//! Removal of artifacts that nothing refers to, and of uploads that nobody finishes.
//!
//! An artifact is removed when it is older than the configured time and no version of an image of its account names it. A
//! version that exists keeps its artifact, since its build may have to fetch it again. Uploads in parts are removed a day
//! after they have begun. An artifact that is older than the last restoration of the store may be one that a forgotten version
//! names: it is set aside instead ([`crate::aside`]).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hearth_proto::microvms::v1::code_artifact;
use hearth_proto::store::v1::VersionRecord;

use super::error::ArtifactError;
use super::key::Key;
use super::object::About;
use super::upload::Condition;
use super::{Artifacts, sync_folder};
use crate::aside::Aside;
use crate::clock::Clock;
use crate::disk::footprint;
use crate::store::{Db, StoreError, Table};

/// Age from which on an unfinished upload in parts is removed.
const UPLOAD_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Time between two looks for what is to be removed.
const INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What images refer to: accounts and keys.
pub(crate) type Referred = HashSet<(String, String)>;

/// What was removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Collected {
    pub(crate) artifacts: usize,
    pub(crate) uploads: usize,
}

/// Why nothing is removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error("artifacts cannot be read or removed: {0}")]
    System(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl Artifacts {
    /// Looks every hour, for ever. Artifacts are kept for `kept`; for ever without it.
    pub(crate) async fn keep_collected(
        self,
        db: Db,
        clock: Clock,
        kept: Option<Duration>,
        aside: Option<Aside>,
    ) {
        loop {
            let (artifacts, db, aside) = (self.clone(), db.clone(), aside.clone());
            let collect = move || artifacts.collect(&db, clock.now(), kept, aside.as_ref());
            match tokio::task::spawn_blocking(collect).await {
                Ok(Ok(removed)) if removed != Collected::default() => {
                    let Collected { artifacts, uploads } = removed;
                    tracing::info!(
                        artifacts,
                        uploads,
                        "artifacts that nothing refers to were removed, or set aside"
                    );
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "artifacts cannot be collected; trying again in an hour")
                }
                Err(_) => return, // the daemon is stopping
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The artifacts in this bucket that versions of images name.
    pub(crate) fn referred(&self, db: &Db) -> Result<Referred, StoreError> {
        let prefix = self.uri("");
        let mut referred = Referred::new();
        db.each(Table::Versions, &[], |key, value| {
            let record: VersionRecord = db.decode(Table::Versions, &key, &value)?;
            let artifact = record.version.and_then(|version| version.code_artifact);
            if let Some(code_artifact::Artifact::Uri(uri)) = artifact.and_then(|artifact| artifact.artifact)
                && let Some(key) = uri.strip_prefix(&prefix)
            {
                referred.insert((record.account, key.to_owned()));
            }
            Ok(())
        })?;
        Ok(referred)
    }

    /// Removes what is too old and not referred to, or sets it aside if it is older than the store's restoration.
    ///
    /// # Errors
    /// Errors of the store and of the system.
    pub(crate) fn collect(
        &self,
        db: &Db,
        now: SystemTime,
        kept: Option<Duration>,
        aside: Option<&Aside>,
    ) -> Result<Collected, CollectError> {
        let mut removed = Collected::default();
        let mut old = Vec::new();
        for account in self.accounts()? {
            removed.uploads = removed.uploads.saturating_add(self.collect_uploads(&account, now)?);
            let Some(kept) = kept else { continue };
            let files = self.files(&account)?.into_iter();
            let files = files.filter(|(_, path)| is_older(path, now, kept).unwrap_or_default());
            old.extend(files.map(|(key, path)| ((account.clone(), key), path)));
        }
        let Some(kept) = kept.filter(|_| !old.is_empty()) else { return Ok(removed) };
        // Only now, so that versions that came during the walk count.
        let referred = self.referred(db)?;
        old.retain(|(named, _)| !referred.contains(named));
        let mut changed = HashSet::new();
        for ((account, _), path) in old {
            // Nobody replaces it between this look at its age and its removal.
            let _change = self.change();
            if is_older(&path, now, kept).unwrap_or_default() {
                let data = path.metadata()?;
                let modified = data.modified()?;
                match (aside.filter(|aside| modified <= aside.since()), path.file_name()) {
                    (Some(aside), Some(name)) => {
                        aside.take(&path, &Path::new("artifacts").join(&account).join(name))?;
                        self.usage().give_back(&account, footprint(data.len()));
                    }
                    _ => drop(self.remove_file(&account, &path)?),
                }
                removed.artifacts = removed.artifacts.saturating_add(1);
                changed.insert(account);
            }
        }
        for account in changed {
            sync_folder(&self.place(&account)?.objects)?;
        }
        Ok(removed)
    }

    /// Removes an account's old uploads in parts, and returns their number.
    fn collect_uploads(&self, account: &str, now: SystemTime) -> Result<usize, ArtifactError> {
        let mut removed = 0_usize;
        for entry in fs::read_dir(self.place(account)?.uploads)? {
            let path = entry?.path();
            match self.remove_old_upload(account, &path, now) {
                Ok(true) => removed = removed.saturating_add(1),
                Ok(false) => {}
                // It was completed or aborted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    }

    /// Removes the folder of an upload if it is old. Returns whether it was.
    fn remove_old_upload(&self, account: &str, folder: &Path, now: SystemTime) -> io::Result<bool> {
        let _change = self.change();
        let is_old = is_older(folder, now, UPLOAD_AGE)?;
        if is_old {
            self.remove_upload(account, folder)?;
        }
        Ok(is_old)
    }

    /// Gives artifacts of earlier releases, which all accounts shared, to the accounts whose images refer to them, and those that no image
    /// refers to to the only account there is. Without one, nobody knows whose they are: they are set aside after a restoration,
    /// and stay where they are otherwise.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) fn adopt(
        &self,
        referred: &Referred,
        only: Option<&str>,
        aside: Option<&Aside>,
    ) -> Result<Adopted, ArtifactError> {
        let mut adopted = Adopted::default();
        for entry in fs::read_dir(&self.shared.folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let users = referred.iter().filter(|(_, key)| *key == name).map(|(account, _)| account.as_str());
            let mut accounts: Vec<&str> = users.collect();
            if accounts.is_empty() {
                accounts.extend(only);
            }
            for account in &accounts {
                let key = Key::new(&name)?;
                let (mut file, temporary) = self.temporary(account)?;
                std::io::copy(&mut fs::File::open(entry.path())?, &mut file)?;
                // The key has the SHA-256 of its bytes.
                let etag = name.chars().take(64).collect();
                let about = About { key: name.clone(), etag, ..About::default() };
                let share = self.usage().nothing(account);
                match self.keep(account, &key, (file, temporary, share), &about, &Condition::Absent) {
                    Ok(()) => adopted.given = adopted.given.saturating_add(1),
                    Err(ArtifactError::Condition) => {} // by an attempt before this one
                    Err(error) => return Err(error),
                }
            }
            match aside {
                _ if !accounts.is_empty() => fs::remove_file(entry.path())?,
                Some(aside) => aside.take(&entry.path(), &Path::new("artifacts").join(&name))?,
                None => adopted.left = adopted.left.saturating_add(1),
            }
        }
        Ok(adopted)
    }
}

/// What has become of artifacts of earlier releases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Adopted {
    /// Number of those that were given to accounts; an artifact counts for each account.
    pub(crate) given: usize,
    /// Number of those whose account nobody knows, which stay where they are.
    pub(crate) left: usize,
}

/// Whether a file was changed longer than `age` ago.
fn is_older(path: &Path, now: SystemTime, age: Duration) -> io::Result<bool> {
    let modified = path.metadata()?.modified()?;
    Ok(now.duration_since(modified).is_ok_and(|is| is > age))
}
