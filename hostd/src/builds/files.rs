//! The files of builds. They exist while their version does, or while a microVM uses them.
//!
//! When a version is deleted, the same batch *retires* its artifact record. From then on no use of the build is added,
//! since a launch expects the unchanged record. The task that removes the last use, or retires an unused build,
//! removes the files and then the record.

use std::collections::HashSet;
use std::sync::Arc;

use hearth_model::build::ImageBuild;
use hearth_proto::store::v1::ArtifactRecord;

use super::context::{AREA, Context};
use crate::platform::PlatformError;
use crate::records;
use crate::store::{Batch, CommitError, Scan, StoreError, Table};

/// Why the files of a build were not removed.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    /// The record of the build could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The removal could not be recorded.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The platform did not remove the files.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

impl Context {
    /// A batch that retires the artifact records of these builds, as far as they exist.
    pub(super) fn retire(&self, build_ids: &[String]) -> Result<Batch, StoreError> {
        let mut batch = Batch::new().ending();
        for id in build_ids {
            let at = records::artifact(id);
            if let Some(record) = self.db.get::<ArtifactRecord>(Table::Artifacts, &at)? {
                let retired = ArtifactRecord { retired: true, ..record };
                batch = batch.put(Table::Artifacts, at, records::encode(&retired));
            }
        }
        Ok(batch)
    }

    /// Removes the files of a build that is retired and unused. If that fails, the next daemon does it.
    pub(super) async fn collect(self: Arc<Self>, build_id: String) {
        if let Err(error) = self.try_collect(&build_id).await {
            tracing::error!(
                build = build_id,
                %error,
                "files of a deleted version cannot be removed; they stay until the next start"
            );
        }
    }

    async fn try_collect(&self, build_id: &str) -> Result<(), CollectError> {
        let at = records::artifact(build_id);
        let record: Option<ArtifactRecord> = self.db.get(Table::Artifacts, &at)?;
        let Some(record) = record.filter(|record| record.retired) else { return Ok(()) };
        let prefix = records::artifact_uses(build_id);
        let uses = Scan { table: Table::ArtifactUses, prefix: &prefix, after: None, limit: 1 };
        if !self.db.scan(&uses)?.is_empty() {
            return Ok(());
        }
        let build = self.build_of(&at, &record)?;
        self.faults.at(AREA, "files", "before").await;
        self.platform.remove_build(&build).await?;
        self.faults.at(AREA, "files", "after").await;
        self.db.commit(Batch::new().ending().delete(Table::Artifacts, at)).await?;
        self.faults.at(AREA, "files", "after-commit").await;
        Ok(())
    }

    /// The build that an artifact record names; `at` is the record's key.
    fn build_of(&self, at: &[u8], record: &ArtifactRecord) -> Result<ImageBuild, StoreError> {
        let build = ImageBuild::parse(&record.account, &record.image_uid, record.version, &record.build_id);
        build.map_err(|error| self.db.damaged(Table::Artifacts, at, &error))
    }

    /// The builds of all artifact records.
    pub(super) fn stored_builds(&self) -> Result<HashSet<ImageBuild>, StoreError> {
        let mut builds = HashSet::new();
        self.db.each(Table::Artifacts, &[], |key, value| {
            builds.insert(self.build_of(&key, &self.db.decode(Table::Artifacts, &key, &value)?)?);
            Ok(())
        })?;
        Ok(builds)
    }

    /// The artifact records of all builds.
    pub(super) fn artifact_records(&self) -> Result<Vec<ArtifactRecord>, StoreError> {
        let mut all = Vec::new();
        self.db.each(Table::Artifacts, &[], |key, value| {
            all.push(self.db.decode(Table::Artifacts, &key, &value)?);
            Ok(())
        })?;
        Ok(all)
    }
}
