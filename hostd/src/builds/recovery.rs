//! Continues what an earlier daemon has left unfinished.

use std::sync::Arc;

use hearth_proto::microvms::v1::{
    MicrovmImageState as State, build_state::Value as BuildState,
    microvm_image_version_state::Value as VersionState,
};
use hearth_proto::store::v1::ImageRecord;

use super::images::Images;
use super::key::Key;
use crate::lifecycle::image::Image;
use crate::store::{CommitError, StoreError, Table};

/// Numbers of what recovery found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Existing images.
    pub images: usize,
    /// Versions that are built again.
    pub builds: usize,
    /// Deletions of images and versions that are completed.
    pub deletions: usize,
    /// Builds whose files are removed.
    pub retired: usize,
}

impl Images {
    /// Continues everything that is under way according to the store. Called once, after the start and before all
    /// other operations. When this returns, the tasks have been started.
    ///
    /// # Errors
    /// [`StoreError`]: in that case the daemon cannot start.
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        let context = &self.context;
        let mut records: Vec<ImageRecord> = Vec::new();
        context.db.each(Table::Images, &[], |key, value| {
            records.push(context.db.decode(Table::Images, &key, &value)?);
            Ok(())
        })?;
        let mut recovered = Recovered { images: records.len(), ..Recovered::default() };
        let mut unbuilt = Vec::new();
        for record in records {
            let key = Key { account: record.account.clone(), name: record.name.clone() };
            match record.state() {
                State::Deleting => {
                    context.spawn(Arc::clone(context).finish_image(key));
                    recovered.deletions += 1;
                }
                State::Creating | State::Updating => {
                    let Some(image) = context.image(&key)? else { continue };
                    recovered.builds += image.unbuilt().count();
                    for number in image.versions.keys().copied() {
                        if image.version_state(number) == Some(VersionState::Deleting) {
                            context.spawn(Arc::clone(context).finish_version(key.clone(), number));
                            recovered.deletions += 1;
                        }
                    }
                    unbuilt.push((place(&image), key, image));
                }
                _ => {}
            }
        }
        unbuilt.sort_by_key(|(place, ..)| *place);
        for (_, key, image) in &unbuilt {
            context.begin_builds(key, image)?;
        }
        for record in context.artifact_records()?.into_iter().filter(|record| record.retired) {
            context.spawn(Arc::clone(context).collect(record.build_id));
            recovered.retired += 1;
        }
        let old = context.old_tombstones()?;
        if !old.writes.is_empty() {
            match context.db.commit(old).await {
                Err(CommitError::Store(error)) => return Err(error),
                Ok(()) | Err(CommitError::Conflict) => {}
            }
        }
        Ok(recovered)
    }
}

/// Where the unfinished build of an image stands in the order in which builds continue: those that had begun come first,
/// and then the oldest.
fn place(image: &Image) -> (bool, i64, i32) {
    let builds = image.unbuilt().flat_map(|version| &version.builds).filter_map(|build| build.build.as_ref());
    let places = builds.map(|build| {
        let created = build.created_at.unwrap_or_default();
        (build.build_state() != BuildState::InProgress, created.seconds, created.nanos)
    });
    places.min().unwrap_or_default()
}
