//! The handle of all images: their operations.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use hearth_model::build::Artifact;
use hearth_model::shape::Burst;
use hearth_proto::microvms::v1::{MicrovmImageVersion, MicrovmImageVersionStatus};
use hearth_proto::store::v1::ImageRecord;
use tokio::sync::{Semaphore, oneshot, watch};
use uuid::Uuid;

use super::build::{Build, Report};
use super::progress::{Progress, Watch};
use super::state::{Change, Key, Locks};
use crate::clock::Clock;
use crate::driver::faults::Faults;
use crate::events::Events;
use crate::lifecycle::image::{Image, NewVersion, Refusal, VersionDeletion};
use crate::panics::poisoned;
use crate::platform::Platform;
use crate::records;
use crate::store::{Batch, Db, Scan, StoreError, Table};

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Images of an account.
    Images,
    /// Versions of an image.
    Versions,
    /// Builds of an account that are under way.
    Builds,
}

/// Why an operation failed. Nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImagesError {
    /// An image of that name exists.
    #[error("there is an image {0} already")]
    Exists(String),
    /// The image does not exist.
    #[error("there is no such image")]
    NotFound,
    /// The image was deleted less than a day ago.
    #[error("the image has been deleted")]
    Deleted,
    /// The state of the image does not allow the operation.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A quota is reached.
    #[error("the limit of {limit} is reached")]
    Quota {
        /// The quota.
        quota: Quota,
        /// The greatest allowed number.
        limit: u64,
    },
    /// An expectation of the accompanying batch did not hold: the client token was used meanwhile.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is shutting down.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Settings and limits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Region for apps' environments.
    pub region: String,
    /// How many times its memory class a guest gets.
    pub burst: Burst,
    /// The processor's generation: [`super::generation::of_host`].
    pub generation: String,
    /// Builds that run at a time on this host, at least 1; others wait, PENDING.
    pub concurrent_builds: usize,
    /// Images of an account; unlimited unless given.
    pub max_images: Option<u64>,
    /// Versions of an image; unlimited unless given.
    pub max_versions: Option<u64>,
    /// Builds of an account that run or wait; unlimited unless given.
    pub max_builds: Option<u64>,
}

/// The components that [`Images`] uses.
pub struct Parts {
    /// The store.
    pub db: Db,
    /// The source of the current time.
    pub clock: Clock,
    /// Receives events about changes.
    pub events: Events,
    /// Removes the files of builds.
    pub platform: Arc<dyn Platform>,
    /// Builds images.
    pub build: Arc<dyn Build>,
    /// Receives reports about builds.
    pub report: Arc<dyn Report>,
    /// Points at which tests simulate crashes.
    pub faults: Faults,
    /// Settings and limits.
    pub settings: Settings,
}

/// The images of this host. Clones are cheap and share the same images.
#[derive(Clone)]
pub struct Images {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) events: Events,
    pub(super) platform: Arc<dyn Platform>,
    pub(super) build: Arc<dyn Build>,
    pub(super) report: Arc<dyn Report>,
    pub(super) faults: Faults,
    pub(super) settings: Settings,
    pub(super) locks: Locks,
    /// Held from the check of a quota until the new image or version is stored.
    admission: tokio::sync::Mutex<()>,
    /// Slots for builds that may run at the same time.
    pub(super) slots: Semaphore,
    under_way: Mutex<HashMap<(Key, u32), UnderWay>>,
    /// Builds that were stopped after they had begun: with image, version and build id.
    interrupted: Mutex<Vec<(Key, u32, String)>>,
    /// Set to true to stop all tasks; each of them has a receiver.
    stop: watch::Sender<bool>,
}

/// A build that waits or runs.
struct UnderWay {
    progress: Arc<Progress>,
    artifact: Artifact,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").finish_non_exhaustive()
    }
}

// === impl Images ===

impl Images {
    /// Creates the handle. Nothing happens until [`Self::recover`], which must be called before everything else.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { db, clock, events, platform, build, report, faults, settings } = parts;
        let inner = Inner {
            slots: Semaphore::new(settings.concurrent_builds.max(1)),
            db,
            clock,
            events,
            platform,
            build,
            report,
            faults,
            settings,
            locks: Locks::default(),
            admission: tokio::sync::Mutex::default(),
            under_way: Mutex::default(),
            interrupted: Mutex::default(),
            stop: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Creates an image and begins to build its version 1.0. `config` has the image's ARN and the client's settings;
    /// `with` makes a batch that is stored together with the image, for instance the client token with the response.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub async fn create(
        &self,
        account: &str,
        name: &str,
        tags: std::collections::BTreeMap<String, String>,
        config: MicrovmImageVersion,
        with: impl Fn(&Image) -> Batch + Send + Sync + 'static,
    ) -> Result<Image, ImagesError> {
        let (inner, key) =
            (Arc::clone(&self.inner), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let record = ImageRecord {
                account: key.account.clone(),
                name: key.name.clone(),
                uid: Uuid::new_v4().to_string(),
                tags,
                ..ImageRecord::default()
            };
            let _admission = inner.admission.lock().await;
            // A client that has the image already gets that error, not one about a quota.
            if inner.record(&key)?.is_some() {
                return Err(ImagesError::Exists(key.name));
            }
            inner.check_images(&key.account)?;
            inner.check_builds(&key.account)?;
            let image = Image::create(record, inner.new_version(config)?, inner.clock.timestamp());
            let with = with(&image).delete(Table::Meta, super::end::tombstone(&key));
            inner.add(&key, "create", &image, with).await?;
            inner.begin_builds(&key, &image);
            Ok(image)
        })
        .await
    }

    /// Begins to build the next version of an image. Its number is the image's newest.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub async fn update(
        &self,
        account: &str,
        name: &str,
        config: MicrovmImageVersion,
        with: impl Fn(&Image) -> Batch + Send + Sync + 'static,
    ) -> Result<Image, ImagesError> {
        let (inner, key) =
            (Arc::clone(&self.inner), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let _admission = inner.admission.lock().await;
            let new = inner.new_version(config)?;
            let update = |mut image: Image| {
                let versions = u64::try_from(image.versions.len()).unwrap_or(u64::MAX);
                image.update(new.clone(), inner.clock.timestamp())?;
                below(Quota::Versions, inner.settings.max_versions, versions)?;
                inner.check_builds(&key.account)?;
                Ok(Change { with: with(&image), answer: image.clone(), after: Some(image) })
            };
            let image = inner.change(&key, "update", update).await?;
            inner.begin_builds(&key, &image);
            Ok(image)
        })
        .await
    }

    /// Sets whether RunMicrovm may use a version.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub async fn set_status(
        &self,
        account: &str,
        name: &str,
        number: u32,
        status: MicrovmImageVersionStatus,
    ) -> Result<Image, ImagesError> {
        let (inner, key) =
            (Arc::clone(&self.inner), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let set = |mut image: Image| {
                image.set_status(number, status, inner.clock.timestamp())?;
                Ok(Change { with: Batch::new(), answer: image.clone(), after: Some(image) })
            };
            inner.change(&key, "set-status", set).await
        })
        .await
    }

    /// Begins to delete a version.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub async fn delete_version(
        &self,
        account: &str,
        name: &str,
        number: u32,
    ) -> Result<VersionDeletion, ImagesError> {
        let (inner, key) =
            (Arc::clone(&self.inner), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let delete = |mut image: Image| {
                let answer = image.delete_version(number, inner.clock.timestamp())?;
                Ok(Change { with: Batch::new(), answer, after: Some(image) })
            };
            let deletion = inner.change(&key, "delete-version", delete).await?;
            if deletion == VersionDeletion::Begun {
                inner.spawn(Arc::clone(&inner).finish_version(key, number));
            }
            Ok(deletion)
        })
        .await
    }

    /// Begins to delete an image with all its versions.
    ///
    /// # Errors
    /// [`ImagesError`]; [`ImagesError::Deleted`] if the image was deleted before.
    pub async fn delete(&self, account: &str, name: &str) -> Result<(), ImagesError> {
        let (inner, key) =
            (Arc::clone(&self.inner), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let delete = |mut image: Image| {
                image.delete(inner.clock.timestamp())?;
                Ok(Change { with: Batch::new(), answer: (), after: Some(image) })
            };
            match inner.change(&key, "delete", delete).await {
                Ok(()) => inner.spawn(Arc::clone(&inner).finish_image(key)),
                Err(ImagesError::NotFound) if inner.was_deleted(&key)? => return Err(ImagesError::Deleted),
                Err(error) => return Err(error),
            }
            Ok(())
        })
        .await
    }

    /// The past and future events of the build of a version; none if the version does not exist. Without a number: of
    /// the image's newest version.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn watch(&self, account: &str, name: &str, number: Option<u32>) -> Result<Option<Watch>, StoreError> {
        let key = Key { account: account.to_owned(), name: name.to_owned() };
        let Some(image) = self.inner.record(&key)? else { return Ok(None) };
        let Some(number) = number.or_else(|| image.versions.iter().max().copied()) else { return Ok(None) };
        if let Some(under_way) = self.inner.under_way().get(&(key, number)) {
            return Ok(Some(under_way.progress.watch()));
        }
        let at = records::version(account, name, number);
        let version: Option<hearth_proto::store::v1::VersionRecord> =
            self.inner.db.get(Table::Versions, &at)?;
        let build = version.and_then(|version| version.builds.into_iter().next()?.build);
        Ok(build.map(|build| Watch::ended(self.inner.clock.timestamp(), build)))
    }

    /// Called after a microVM has given up its use of a build's files in the store. The files are removed in the
    /// background if no other microVM uses them and their version is deleted.
    pub fn released(&self, build_id: &str) {
        self.inner.spawn(Arc::clone(&self.inner).collect(build_id.to_owned()));
    }

    /// All artifacts that may have files, for the platform's sweep.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn artifacts(&self) -> Result<HashSet<Artifact>, StoreError> {
        let mut all: HashSet<Artifact> =
            self.inner.under_way().values().map(|build| build.artifact.clone()).collect();
        all.extend(self.inner.stored_artifacts()?.into_iter().map(|record| Artifact {
            account: record.account.into(),
            image_uid: record.image_uid.into(),
            version: record.version,
            build_id: record.build_id.into(),
        }));
        Ok(all)
    }

    /// Number of builds of all accounts that run or wait.
    #[must_use]
    pub fn builds_under_way(&self) -> usize {
        self.inner.under_way().len()
    }

    /// Stops all tasks, builds included; the next daemon continues their work.
    pub async fn stop(&self) {
        self.inner.stop.send_replace(true);
        self.inner.stop.closed().await;
        let interrupted = std::mem::take(&mut *self.inner.interrupted.lock().unwrap_or_else(poisoned));
        for (key, number, build_id) in interrupted {
            let undo = |mut image: Image| {
                image.build_interrupted(number, &build_id);
                Ok(Change { after: Some(image), with: Batch::new(), answer: () })
            };
            if let Err(error) = self.inner.change(&key, "build-interrupted", undo).await {
                tracing::warn!(image = key.name, version = number, %error, "that a build was stopped cannot be recorded: it counts as a try");
            }
        }
    }

    /// Waits until all tasks have finished.
    #[cfg(test)]
    pub(super) async fn idle(&self) {
        self.inner.stop.closed().await;
    }

    /// Runs an operation to its end, even if its caller stops waiting.
    async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ImagesError>> + Send + 'static,
    ) -> Result<T, ImagesError> {
        let (answer, answered) = oneshot::channel();
        self.inner.spawn(async move {
            let _ = answer.send(work.await); // the caller may have stopped waiting
        });
        answered.await.unwrap_or(Err(ImagesError::Stopping))
    }
}

// === impl Inner ===

impl Inner {
    /// Runs a task until it is done or the daemon stops.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = work => {}
            }
        });
    }

    /// Registers a build as under way; returns false if it was registered before.
    pub(super) fn note(&self, key: &Key, number: u32, progress: Arc<Progress>, artifact: Artifact) -> bool {
        let mut under_way = self.under_way();
        let free = !under_way.contains_key(&(key.clone(), number));
        if free {
            under_way.insert((key.clone(), number), UnderWay { progress, artifact });
        }
        free
    }

    /// Called when a build that had begun is dropped. If the daemon is being stopped, the build is noted as
    /// interrupted; otherwise the daemon is crashing.
    pub(super) fn interrupted(&self, key: &Key, number: u32, build_id: &str) {
        if *self.stop.borrow() {
            let mut interrupted = self.interrupted.lock().unwrap_or_else(poisoned);
            interrupted.push((key.clone(), number, build_id.to_owned()));
        }
    }

    /// Removes a finished build from those under way.
    pub(super) fn forget(&self, key: &Key, number: u32) {
        self.under_way().remove(&(key.clone(), number));
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<(Key, u32), UnderWay>> {
        self.under_way.lock().unwrap_or_else(poisoned)
    }

    fn new_version(&self, config: MicrovmImageVersion) -> Result<NewVersion, ImagesError> {
        Ok(NewVersion {
            config,
            build_id: Uuid::new_v4().to_string(),
            generation: self.settings.generation.clone(),
        })
    }

    fn check_images(&self, account: &str) -> Result<(), ImagesError> {
        let Some(limit) = self.settings.max_images else { return Ok(()) };
        let prefix = records::account(account);
        let enough = usize::try_from(limit).unwrap_or(usize::MAX);
        let scan = Scan { table: Table::Images, prefix: &prefix, after: None, limit: enough };
        let count = u64::try_from(self.db.scan(&scan)?.len()).unwrap_or(u64::MAX);
        below(Quota::Images, Some(limit), count)
    }

    fn check_builds(&self, account: &str) -> Result<(), ImagesError> {
        let count = self.under_way().keys().filter(|(key, _)| key.account == account).count();
        below(Quota::Builds, self.settings.max_builds, u64::try_from(count).unwrap_or(u64::MAX))
    }
}

/// Checks that one more than `count` is allowed.
fn below(quota: Quota, limit: Option<u64>, count: u64) -> Result<(), ImagesError> {
    match limit {
        Some(limit) if count >= limit => Err(ImagesError::Quota { quota, limit }),
        _ => Ok(()),
    }
}
