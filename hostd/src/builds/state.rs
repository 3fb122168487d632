//! An image with its versions in the store, and changes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_proto::host::v1::Event;
use hearth_proto::microvms::v1::{
    MicrovmImageState, MicrovmImageVersion, microvm_image_version_state::Value as VersionState,
};
use hearth_proto::store::v1::{ImageRecord, VersionRecord};

use super::context::{AREA, Context};
use super::error::ImagesError;
use super::key::Key;
use crate::lifecycle::image::Image;
use crate::records;
use crate::store::{Batch, CommitError, StoreError, Table};

/// A change of an image.
#[derive(Debug)]
pub(super) struct Change<T> {
    /// The image after the change; none if it is deleted.
    pub(super) after: Option<Image>,
    /// Further writes of the same batch.
    pub(super) with: Batch,
    /// The result for the caller.
    pub(super) result: T,
}

/// An image as it was read from the store.
#[derive(Debug)]
struct Stored {
    image: Image,
    /// The bytes of the image's own record: other tasks change its tags.
    bytes: Vec<u8>,
}

/// The record of a version that its image lists is missing.
#[derive(Debug, thiserror::Error)]
#[error("it is missing, and its image lists it")]
struct Missing;

impl Context {
    /// Changes an image. `change` computes the change; it is called again if others have changed the image meanwhile.
    /// `name` names the fault points.
    ///
    /// # Errors
    /// The error of `change`; [`ImagesError::NotFound`]; [`ImagesError::Conflict`] if an expectation of the
    /// accompanying batch does not hold.
    pub(super) async fn change<T>(
        self: &Arc<Self>,
        key: &Key,
        name: &'static str,
        change: impl Fn(Image) -> Result<Change<T>, ImagesError>,
    ) -> Result<T, ImagesError> {
        let _lock = self.locks.lock(key).await;
        loop {
            let before = self.load(key)?.ok_or(ImagesError::NotFound)?;
            let Change { after, with, result } = change(before.image.clone())?;
            self.faults.at(AREA, name, "before-commit").await;
            match self.save(key, Some(&before), after.as_ref(), with).await {
                Ok(()) => {
                    self.faults.at(AREA, name, "after-commit").await;
                    return Ok(result);
                }
                Err(CommitError::Conflict) => {
                    let now = self.db.get_bytes(Table::Images, &records::image(&key.account, &key.name))?;
                    if now.as_ref() == Some(&before.bytes) {
                        return Err(ImagesError::Conflict);
                    }
                }
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// Stores a new image.
    ///
    /// # Errors
    /// [`ImagesError::Exists`]; [`ImagesError::Conflict`] if an expectation of `with` does not hold.
    pub(super) async fn add(
        &self,
        key: &Key,
        name: &'static str,
        image: &Image,
        with: Batch,
    ) -> Result<(), ImagesError> {
        let _lock = self.locks.lock(key).await;
        let exists = || self.db.get_bytes(Table::Images, &records::image(&key.account, &key.name));
        if exists()?.is_some() {
            return Err(ImagesError::Exists(key.name.clone()));
        }
        self.faults.at(AREA, name, "before-commit").await;
        match self.save(key, None, Some(image), with).await {
            Ok(()) => {
                self.faults.at(AREA, name, "after-commit").await;
                Ok(())
            }
            Err(CommitError::Conflict) if exists()?.is_some() => Err(ImagesError::Exists(key.name.clone())),
            Err(CommitError::Conflict) => Err(ImagesError::Conflict),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// The record of an image, for reading only.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn record(&self, key: &Key) -> Result<Option<ImageRecord>, StoreError> {
        self.db.get(Table::Images, &records::image(&key.account, &key.name))
    }

    /// An image with its versions, for callers that hold its lock or run alone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn image(&self, key: &Key) -> Result<Option<Image>, StoreError> {
        Ok(self.load(key)?.map(|stored| stored.image))
    }

    fn load(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        let at = records::image(&key.account, &key.name);
        let Some(bytes) = self.db.get_bytes(Table::Images, &at)? else { return Ok(None) };
        let record: ImageRecord = self.db.decode(Table::Images, &at, &bytes)?;
        let mut versions = BTreeMap::new();
        for number in &record.versions {
            let at = records::version(&key.account, &key.name, *number);
            let version: Option<VersionRecord> = self.db.get(Table::Versions, &at)?;
            let version = version.ok_or_else(|| self.db.damaged(Table::Versions, &at, &Missing))?;
            versions.insert(*number, version);
        }
        Ok(Some(Stored { image: Image { record, versions }, bytes }))
    }

    async fn save(
        &self,
        key: &Key,
        before: Option<&Stored>,
        after: Option<&Image>,
        with: Batch,
    ) -> Result<(), CommitError> {
        let at = records::image(&key.account, &key.name);
        let mut batch = match before {
            Some(before) => Batch::new().expect_value(Table::Images, at.clone(), before.bytes.clone()),
            None => Batch::new().expect_absent(Table::Images, at.clone()),
        };
        let previous = before.map(|before| &before.image);
        batch = match after {
            Some(image) if previous.is_none_or(|previous| previous.record != image.record) => {
                batch.put(Table::Images, at, records::encode(&image.record))
            }
            Some(_) => batch,
            None => batch.delete(Table::Images, at),
        };
        let (none, version_at) =
            (BTreeMap::new(), |number| records::version(&key.account, &key.name, number));
        let old = previous.map_or(&none, |image| &image.versions);
        let new = after.map_or(&none, |image| &image.versions);
        for number in old.keys().filter(|number| !new.contains_key(number)) {
            batch = batch.delete(Table::Versions, version_at(*number));
        }
        for (number, version) in new.iter().filter(|(number, version)| old.get(number) != Some(version)) {
            batch = batch.put(Table::Versions, version_at(*number), records::encode(version));
        }
        self.db.commit(batch.and(with)).await?;
        self.publish(key, previous, after);
        Ok(())
    }

    /// Sends events for the states that have changed.
    fn publish(&self, key: &Key, before: Option<&Image>, after: Option<&Image>) {
        let time = Some(self.clock.timestamp());
        let resource = before.or(after).map(|image| image.arn().to_owned()).unwrap_or_default();
        let state = |image: Option<&Image>, gone: bool| match image {
            Some(image) => image.record.state().as_str_name(),
            None if gone => MicrovmImageState::Deleted.as_str_name(),
            None => "",
        };
        let (from_state, to_state) = (state(before, false), state(after, true));
        let mut events = Vec::new();
        if from_state != to_state {
            events.push(Event {
                time,
                kind: "image".to_owned(),
                resource: resource.clone(),
                from_state: from_state.to_owned(),
                to_state: to_state.to_owned(),
                ..Event::default()
            });
        }
        let versions = |image: Option<&Image>| image.map(|image| image.versions.clone()).unwrap_or_default();
        let (old, mut new) = (versions(before), versions(after));
        for (number, version) in &old {
            new.entry(*number).or_insert_with(|| {
                let mut gone = version.clone();
                if let Some(version) = gone.version.as_mut() {
                    version.set_state(VersionState::Deleted);
                }
                gone
            });
        }
        for (number, version) in new {
            let Some(version) = version.version else { continue };
            let previous = old.get(&number).and_then(|record| record.version.as_ref());
            if previous.map(MicrovmImageVersion::state) == Some(version.state()) {
                continue;
            }
            events.push(Event {
                time,
                kind: "version".to_owned(),
                resource: resource.clone(),
                image_version: Some(version.image_version.clone()),
                from_state: previous
                    .map(|previous| previous.state().as_str_name())
                    .unwrap_or_default()
                    .to_owned(),
                to_state: version.state().as_str_name().to_owned(),
                reason: version.state_reason,
            });
        }
        for event in events {
            self.events.publish(&key.account, event);
        }
    }
}
