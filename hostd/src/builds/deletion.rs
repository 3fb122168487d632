//! Deletions, from the accepted request to the removal of the last file.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::microvms::v1::MicrovmImageState;
use hearth_proto::store::v1::ClientTokenRecord;

use super::context::{Context, RETRY_PAUSE};
use super::error::ImagesError;
use super::key::Key;
use super::state::Change;
use crate::clock::time;
use crate::driver::record::millis;
use crate::lifecycle::image::{Image, build_ids};
use crate::records::{self, Expiry};
use crate::store::{Batch, StoreError, Table};

/// Operations whose client tokens belong to an image.
const OPERATIONS: [&str; 2] = ["CreateMicrovmImage", "UpdateMicrovmImage"];
/// How long a deletion is remembered: a repeated request succeeds meanwhile.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

impl Context {
    /// Removes a version that is DELETING, then its files.
    pub(super) async fn finish_version(self: Arc<Self>, key: Key, number: u32) {
        let take_out = |mut image: Image| {
            let gone = image.version_gone(number, self.clock.timestamp());
            let builds: Vec<String> =
                gone.iter().flat_map(|version| build_ids(version)).map(str::to_owned).collect();
            Ok(Change { after: Some(image), with: self.retire(&builds)?, result: builds })
        };
        self.finish(&key, "version-gone", take_out).await;
    }

    /// Removes an image that is DELETING with everything that belongs to it, then its files.
    pub(super) async fn finish_image(self: Arc<Self>, key: Key) {
        let take_out = |image: Image| {
            if image.record.state() != MicrovmImageState::Deleting {
                return Ok(Change { after: Some(image), with: Batch::new(), result: Vec::new() });
            }
            let builds: Vec<String> =
                image.versions.values().flat_map(build_ids).map(str::to_owned).collect();
            let with = self.retire(&builds)?.and(self.forget_tokens(&key, &image.record.uid)?).put(
                Table::Meta,
                records::deleted_image(&key.account, &key.name),
                records::encode(&self.clock.timestamp()),
            );
            Ok(Change { after: None, with, result: builds })
        };
        self.finish(&key, "gone", take_out).await;
    }

    async fn finish(
        self: &Arc<Self>,
        key: &Key,
        name: &'static str,
        take_out: impl Fn(Image) -> Result<Change<Vec<String>>, ImagesError>,
    ) {
        let builds = loop {
            match self.change(key, name, &take_out).await {
                Ok(builds) => break builds,
                // Another task was faster.
                Err(ImagesError::NotFound) => return,
                Err(error) => {
                    tracing::error!(image = key.name, %error, "a deletion cannot be recorded; trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        };
        for build_id in builds {
            Arc::clone(self).collect(build_id).await;
        }
    }

    /// Whether the image was deleted less than [`REMEMBERED`] ago.
    pub(super) fn was_deleted(&self, key: &Key) -> Result<bool, StoreError> {
        let at = records::deleted_image(&key.account, &key.name);
        let deleted: Option<prost_types::Timestamp> = self.db.get(Table::Meta, &at)?;
        Ok(deleted.is_some_and(|deleted| self.is_remembered(&deleted)))
    }

    fn is_remembered(&self, deleted: &prost_types::Timestamp) -> bool {
        time(deleted) + REMEMBERED > self.clock.now()
    }

    /// A batch that forgets the deletions that are more than a day old.
    pub(super) fn old_tombstones(&self) -> Result<Batch, StoreError> {
        let mut batch = Batch::new().ending();
        let prefix = records::deleted_images();
        self.db.each(Table::Meta, &prefix, |key, value| {
            let deleted: prost_types::Timestamp = self.db.decode(Table::Meta, &key, &value)?;
            if !self.is_remembered(&deleted) {
                batch.writes.push(crate::store::Write::Delete(Table::Meta, key));
            }
            Ok(())
        })?;
        Ok(batch)
    }

    /// A batch that forgets an image's client tokens: they must not bring back the response for an image that no
    /// longer exists.
    fn forget_tokens(&self, key: &Key, uid: &str) -> Result<Batch, StoreError> {
        let mut batch = Batch::new();
        for operation in OPERATIONS {
            let prefix = records::client_tokens(&key.account, operation);
            self.db.each(Table::ClientTokens, &prefix, |at, value| {
                let token: ClientTokenRecord = self.db.decode(Table::ClientTokens, &at, &value)?;
                if token.image_uid == uid {
                    if let Some(expires) = &token.expires_at {
                        let expiry = records::expiry(millis(Some(expires)), Expiry::ClientToken, &at);
                        batch.writes.push(crate::store::Write::Delete(Table::Expiries, expiry));
                    }
                    batch.writes.push(crate::store::Write::Delete(Table::ClientTokens, at));
                }
                Ok(())
            })?;
        }
        Ok(batch)
    }
}
