//! The handle of all images: their operations.

use std::collections::HashSet;
use std::sync::Arc;

use hearth_model::build::ImageBuild;
use hearth_proto::microvms::v1::{MicrovmImageVersion, MicrovmImageVersionStatus};
use hearth_proto::store::v1::ImageRecord;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::context::{Context, Parts};
use super::error::{ImageQuota, ImagesError};
use super::key::Key;
use super::progress::Watch;
use super::state::Change;
use crate::lifecycle::image::{Image, NewVersion, VersionDeletion};
use crate::panics::poisoned;
use crate::records;
use crate::store::{Batch, Scan, StoreError, Table};

/// The images of this host. Clones are cheap and share the same images.
#[derive(Clone)]
pub struct Images {
    pub(super) context: Arc<Context>,
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
        Self { context: Arc::new(Context::new(parts)) }
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
        let (context, key) =
            (Arc::clone(&self.context), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let record = ImageRecord {
                account: key.account.clone(),
                name: key.name.clone(),
                uid: Uuid::new_v4().to_string(),
                tags,
                ..ImageRecord::default()
            };
            let _admission = context.admission.lock().await;
            // A client that has the image already gets that error, not one about a quota.
            if context.record(&key)?.is_some() {
                return Err(ImagesError::Exists(key.name));
            }
            context.check_images(&key.account)?;
            context.check_builds(&key.account)?;
            let image = Image::create(record, context.new_version(config)?, context.clock.timestamp());
            let with = with(&image).delete(Table::Meta, records::deleted_image(&key.account, &key.name));
            context.add(&key, "create", &image, with).await?;
            context.begin_builds(&key, &image)?;
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
        let (context, key) =
            (Arc::clone(&self.context), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let _admission = context.admission.lock().await;
            let new = context.new_version(config)?;
            let update = |mut image: Image| {
                let versions = u64::try_from(image.versions.len()).unwrap_or(u64::MAX);
                image.update(new.clone(), context.clock.timestamp())?;
                below(ImageQuota::Versions, context.settings.max_versions, versions)?;
                context.check_builds(&key.account)?;
                Ok(Change { with: with(&image), result: image.clone(), after: Some(image) })
            };
            let image = context.change(&key, "update", update).await?;
            context.begin_builds(&key, &image)?;
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
        let (context, key) =
            (Arc::clone(&self.context), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let set = |mut image: Image| {
                image.set_status(number, status, context.clock.timestamp())?;
                Ok(Change { with: Batch::new(), result: image.clone(), after: Some(image) })
            };
            context.change(&key, "set-status", set).await
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
        let (context, key) =
            (Arc::clone(&self.context), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let delete = |mut image: Image| {
                let result = image.delete_version(number, context.clock.timestamp())?;
                Ok(Change { with: Batch::new().ending(), result, after: Some(image) })
            };
            let deletion = context.change(&key, "delete-version", delete).await?;
            if deletion == VersionDeletion::Begun {
                context.spawn(Arc::clone(&context).finish_version(key, number));
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
        let (context, key) =
            (Arc::clone(&self.context), Key { account: account.to_owned(), name: name.to_owned() });
        self.detached(async move {
            let delete = |mut image: Image| {
                image.delete(context.clock.timestamp())?;
                Ok(Change { with: Batch::new().ending(), result: (), after: Some(image) })
            };
            match context.change(&key, "delete", delete).await {
                Ok(()) => context.spawn(Arc::clone(&context).finish_image(key)),
                Err(ImagesError::NotFound) if context.was_deleted(&key)? => return Err(ImagesError::Deleted),
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
        let Some(image) = self.context.record(&key)? else { return Ok(None) };
        let Some(number) = number.or_else(|| image.versions.iter().max().copied()) else { return Ok(None) };
        if let Some(active) = self.context.active().get(&(key, number)) {
            return Ok(Some(active.progress.watch()));
        }
        let at = records::version(account, name, number);
        let version: Option<hearth_proto::store::v1::VersionRecord> =
            self.context.db.get(Table::Versions, &at)?;
        let build = version.and_then(|version| version.builds.into_iter().next()?.build);
        Ok(build.map(|build| Watch::finished(self.context.clock.timestamp(), build)))
    }

    /// Called after a microVM has given up its use of a build's files in the store. The files are removed in the
    /// background if no other microVM uses them and their version is deleted.
    pub fn released(&self, build_id: &str) {
        self.context.spawn(Arc::clone(&self.context).collect(build_id.to_owned()));
    }

    /// All builds that may have files, for the platform's sweep.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stored_builds(&self) -> Result<HashSet<ImageBuild>, StoreError> {
        let mut all: HashSet<ImageBuild> =
            self.context.active().values().map(|active| active.build.clone()).collect();
        all.extend(self.context.stored_builds()?);
        Ok(all)
    }

    /// Number of builds of all accounts that run or wait.
    #[must_use]
    pub fn builds_under_way(&self) -> usize {
        self.context.active().len()
    }

    /// Stops all tasks, builds included; the next daemon continues their work.
    pub async fn stop(&self) {
        self.context.stop.send_replace(true);
        self.context.stop.closed().await;
        let interrupted = std::mem::take(&mut *self.context.interrupted.lock().unwrap_or_else(poisoned));
        for (key, number, build_id) in interrupted {
            let undo = |mut image: Image| {
                image.build_interrupted(number, &build_id);
                Ok(Change { after: Some(image), with: Batch::new(), result: () })
            };
            if let Err(error) = self.context.change(&key, "build-interrupted", undo).await {
                tracing::warn!(image = key.name, version = number, %error, "that a build was stopped cannot be recorded: it counts as a try");
            }
        }
    }

    /// Waits until all tasks have finished.
    #[cfg(test)]
    pub(super) async fn idle(&self) {
        self.context.stop.closed().await;
    }

    /// Runs an operation to its end, even if its caller stops waiting.
    async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ImagesError>> + Send + 'static,
    ) -> Result<T, ImagesError> {
        let (sender, receiver) = oneshot::channel();
        self.context.spawn(async move {
            let _ = sender.send(work.await); // the caller may have stopped waiting
        });
        receiver.await.unwrap_or(Err(ImagesError::Stopping))
    }
}

// === impl Context ===

impl Context {
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
        below(ImageQuota::Images, Some(limit), count)
    }

    fn check_builds(&self, account: &str) -> Result<(), ImagesError> {
        let count = self.active().keys().filter(|(key, _)| key.account == account).count();
        below(ImageQuota::Builds, self.settings.max_builds, u64::try_from(count).unwrap_or(u64::MAX))
    }
}

/// Checks that one more than `count` is allowed.
fn below(quota: ImageQuota, limit: Option<u64>, count: u64) -> Result<(), ImagesError> {
    match limit {
        Some(limit) if count >= limit => Err(ImagesError::Quota { quota, limit }),
        _ => Ok(()),
    }
}
