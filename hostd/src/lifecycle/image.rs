//! The lifecycle of an image and its versions.
//!
//! An image is CREATING while its first version is built, and UPDATING while a later version is built or a version is
//! deleted. In both states no other change is accepted; every accepted change ends in one of the other states
//! (docs/behaviour.md, "Builds", "Versions", "Deletion").
//!
//! ```text
//!  create ──► CREATING ──┬─ built ──► CREATED ──────┐
//!                        └─ failed ─► CREATE_FAILED ┤
//!                                                   ├── update ──► UPDATING ──┬─ built ──► UPDATED
//!                 ┌─────────────────────────────────┤                         └─ failed ─► UPDATE_FAILED
//!                 │                                 ├── delete a version ──► UPDATING ── gone ──► UPDATED
//!                 │                                 └── delete ──► DELETING ──► (nothing)
//!                 └── from UPDATED and UPDATE_FAILED likewise
//!
//!  version   PENDING ──► IN_PROGRESS ──┬──► SUCCESSFUL, ACTIVE ⇄ INACTIVE ──┐
//!                                      └──► FAILED, INACTIVE ───────────────┴──► DELETING ──► (nothing)
//! ```
//!
//! * A version has the next major number, whatever happened to those before it; no number is used twice in an image's
//!   life.
//! * `latest_active` is the newest version that is SUCCESSFUL and ACTIVE, `latest_failed` the newest that is FAILED.
//! * RunMicrovm may use every SUCCESSFUL and ACTIVE version while the image is not DELETING: also while it is UPDATING, and after a
//!   failed update, so that a broken deployment takes no launches down.
//!
//! All of it is pure: functions from an image with its versions and an event to the image and versions afterwards.

mod launch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{
    Architecture, Chipset, GetMicrovmImageBuildResponse, MicrovmImageState as State, MicrovmImageVersion,
    MicrovmImageVersionStatus as Status, SnapshotBuild, build_state::Value as Build,
    microvm_image_version_state::Value as VersionState,
};
use hearth_proto::store::v1::{BuildRecord, ImageRecord, VersionRecord};
use prost_types::Timestamp;

pub use launch::{NoActiveVersion, requested_version, resolve};

/// An image with all its versions.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The image.
    pub record: ImageRecord,
    /// Its versions by number: exactly those that the image names.
    pub versions: BTreeMap<u32, VersionRecord>,
}

/// A version to be built, and the build that does it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// Configuration of the version, with the image's ARN. Number, state, status and times are filled in here.
    pub config: MicrovmImageVersion,
    /// UUID of the build.
    pub build_id: String,
    /// Generation of the processor that the version is built for.
    pub generation: String,
}

/// The result of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The build produced an image of these sizes.
    Successful(SnapshotBuild),
    /// The build produced no image.
    Failed {
        /// The `stateReason` of the build.
        reason: String,
        /// Size of the container's files in bytes, if the build got so far that the app was started.
        code_install_bytes: Option<i64>,
    },
}

/// The result of a request to delete a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionDeletion {
    /// The version is DELETING; [`Image::version_gone`] comes next.
    Begun,
    /// The version had been deleted before.
    Gone,
}

/// Why a change is refused. The image is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another change is under way; contains the image's state.
    #[error("MicroVM Image is already in state: {}", .0.as_str_name())]
    Busy(State),
    /// The image cannot be deleted in its current state.
    #[error("Cannot delete MicroVM image in its current state: {0}")]
    Undeletable(String),
    /// The last version of an image cannot be deleted.
    #[error("This is the last version. Please delete the entire image")]
    LastVersion,
    /// The version does not exist and never did.
    #[error("MicroVMImage not found for MicroVMImage: {arn}, Version: {}", ImageVersion::from(*.number))]
    NoVersion {
        /// The image's ARN.
        arn: String,
        /// The version's number.
        number: u32,
    },
    /// A version that was not built successfully cannot be activated.
    #[error("Version {} of the MicroVM image cannot be activated in its current state: {}", ImageVersion::from(*.number), .state.as_str_name())]
    NotSuccessful {
        /// The version's number.
        number: u32,
        /// Its state.
        state: VersionState,
    },
}

// === impl Image ===

impl Image {
    /// A new image, CREATING, with its version 1.0, PENDING. `record` has account, name, uid and tags.
    #[must_use]
    pub fn create(record: ImageRecord, version: NewVersion, now: Timestamp) -> Self {
        let record = ImageRecord {
            state: State::Creating.into(),
            created_at: Some(now),
            updated_at: Some(now),
            newest_version: 0,
            latest_active: 0,
            latest_failed: 0,
            settled_state: State::Creating.into(),
            versions: Vec::new(),
            ..record
        };
        let mut image = Self { record, versions: BTreeMap::new() };
        image.add(version, now);
        image
    }

    /// Begins to build another version; returns its number.
    ///
    /// # Errors
    /// [`Refusal::Busy`].
    pub fn update(&mut self, version: NewVersion, now: Timestamp) -> Result<u32, Refusal> {
        self.check_idle()?;
        self.record.settled_state = self.record.state;
        self.record.state = State::Updating.into();
        self.touch(now);
        Ok(self.add(version, now))
    }

    /// Marks a build as begun, for the first time or again; returns how often it was begun. Returns 0 and changes
    /// nothing if the build does not exist or has finished.
    pub fn build_started(&mut self, number: u32, build_id: &str, now: Timestamp) -> u32 {
        let Some(version) = self.versions.get_mut(&number) else { return 0 };
        let Some(record) = record_of(version, build_id) else { return 0 };
        let Some(build) = record.build.as_mut() else { return 0 };
        if !matches!(build.build_state(), Build::Pending | Build::InProgress) {
            return 0;
        }
        build.set_build_state(Build::InProgress);
        record.begun = record.begun.saturating_add(1);
        let begun = record.begun;
        if let Some(version) = version.version.as_mut()
            && version.state() == VersionState::Pending
        {
            version.set_state(VersionState::InProgress);
            version.updated_at = Some(now);
        }
        begun
    }

    /// A daemon that shuts down has abandoned a build: this attempt does not count.
    pub fn build_interrupted(&mut self, number: u32, build_id: &str) {
        let version = self.versions.get_mut(&number);
        if let Some(record) = version.and_then(|version| record_of(version, build_id)) {
            record.begun = record.begun.saturating_sub(1);
        }
    }

    /// Records the result of a build. When it was the last build of its version, the change of the version and of
    /// the image is complete. Changes nothing if the build had finished before.
    pub fn build_ended(&mut self, number: u32, build_id: &str, outcome: Outcome, now: Timestamp) {
        let Some(version) = self.versions.get_mut(&number) else { return };
        let Some(build) = build_of(version, build_id) else { return };
        if !matches!(build.build_state(), Build::Pending | Build::InProgress) {
            return;
        }
        match outcome {
            Outcome::Successful(sizes) => {
                build.set_build_state(Build::Successful);
                build.snapshot_build = Some(sizes);
            }
            Outcome::Failed { reason, code_install_bytes } => {
                build.set_build_state(Build::Failed);
                build.state_reason = Some(reason);
                build.snapshot_build = code_install_bytes.map(|bytes| SnapshotBuild {
                    code_install_size_in_bytes: Some(bytes),
                    ..SnapshotBuild::default()
                });
            }
        }
        let builds = version.builds.iter().filter_map(|build| build.build.as_ref());
        if builds.clone().any(|build| matches!(build.build_state(), Build::Pending | Build::InProgress)) {
            return;
        }
        let failed = builds.clone().find(|build| build.build_state() == Build::Failed);
        let reason = failed.map(|build| build.state_reason.clone().unwrap_or_default());
        let succeeded = reason.is_none();
        if let Some(version) = version.version.as_mut() {
            version.set_state(if succeeded { VersionState::Successful } else { VersionState::Failed });
            version.set_status(if succeeded { Status::Active } else { Status::Inactive });
            version.state_reason = reason;
            version.updated_at = Some(now);
        }
        let state = match (self.record.state(), succeeded) {
            (State::Creating, true) => State::Created,
            (State::Creating, false) => State::CreateFailed,
            (_, true) => State::Updated,
            (_, false) => State::UpdateFailed,
        };
        self.finish_change(state, now);
    }

    /// Sets whether RunMicrovm may use a version. Setting the status that it already has changes nothing.
    ///
    /// # Errors
    /// [`Refusal::Busy`], [`Refusal::NoVersion`], [`Refusal::NotSuccessful`].
    pub fn set_status(&mut self, number: u32, status: Status, now: Timestamp) -> Result<(), Refusal> {
        let unknown = self.unknown(number);
        let idle = self.check_idle();
        let version = self.versions.get_mut(&number).and_then(|version| version.version.as_mut());
        let version = version.ok_or(unknown)?;
        idle?;
        if status == Status::Active && version.state() != VersionState::Successful {
            return Err(Refusal::NotSuccessful { number, state: version.state() });
        }
        if version.status() != status {
            version.set_status(status);
            version.updated_at = Some(now);
            self.touch(now);
            self.update_latest();
        }
        Ok(())
    }

    /// Begins to delete a version.
    ///
    /// # Errors
    /// [`Refusal::Busy`], [`Refusal::NoVersion`], [`Refusal::LastVersion`].
    pub fn delete_version(&mut self, number: u32, now: Timestamp) -> Result<VersionDeletion, Refusal> {
        if !self.versions.contains_key(&number) {
            let was = (1..=self.record.newest_version).contains(&number);
            return if was { Ok(VersionDeletion::Gone) } else { Err(self.unknown(number)) };
        }
        self.check_idle()?;
        if self.versions.len() == 1 {
            return Err(Refusal::LastVersion);
        }
        if let Some(version) = self.versions.get_mut(&number).and_then(|version| version.version.as_mut()) {
            version.set_state(VersionState::Deleting);
            version.updated_at = Some(now);
        }
        // As measured at AWS: the image is UPDATED afterwards, whatever its state was.
        self.record.settled_state = State::Updated.into();
        self.record.state = State::Updating.into();
        self.touch(now);
        self.update_latest();
        Ok(VersionDeletion::Begun)
    }

    /// Removes a version that was DELETING, which completes the change of the image.
    pub fn version_gone(&mut self, number: u32, now: Timestamp) -> Option<VersionRecord> {
        if self.version_state(number) != Some(VersionState::Deleting) {
            return None;
        }
        let gone = self.versions.remove(&number)?;
        self.record.versions.retain(|other| *other != number);
        self.finish_change(self.record.settled_state(), now);
        Some(gone)
    }

    /// Begins to delete the image with all versions. An image that is DELETING already stays so: a repeated request
    /// gets the same response.
    ///
    /// # Errors
    /// [`Refusal::Undeletable`].
    pub fn delete(&mut self, now: Timestamp) -> Result<(), Refusal> {
        match self.record.state() {
            State::Deleting => return Ok(()),
            State::Created
            | State::CreateFailed
            | State::Updated
            | State::UpdateFailed
            | State::DeleteFailed => {}
            _ => return Err(Refusal::Undeletable(self.arn().to_owned())),
        }
        self.record.state = State::Deleting.into();
        self.touch(now);
        for version in self.versions.values_mut().filter_map(|version| version.version.as_mut()) {
            version.set_state(VersionState::Deleting);
            version.updated_at = Some(now);
        }
        self.update_latest();
        Ok(())
    }

    /// The image's ARN.
    #[must_use]
    pub fn arn(&self) -> &str {
        let version = self.versions.values().next().and_then(|version| version.version.as_ref());
        version.map(|version| version.image_arn.as_str()).unwrap_or_default()
    }

    /// The state of a version.
    #[must_use]
    pub fn version_state(&self, number: u32) -> Option<VersionState> {
        Some(self.versions.get(&number)?.version.as_ref()?.state())
    }

    /// Versions that are waiting to be built or being built.
    pub fn unbuilt(&self) -> impl Iterator<Item = &VersionRecord> {
        let unbuilt = |version: &&VersionRecord| {
            let state = version.version.as_ref().map(MicrovmImageVersion::state);
            matches!(state, Some(VersionState::Pending | VersionState::InProgress))
        };
        self.versions.values().filter(unbuilt)
    }

    /// Fails with [`Refusal::Busy`] while another change of the image is under way.
    fn check_idle(&self) -> Result<(), Refusal> {
        match self.record.state() {
            State::Created | State::CreateFailed | State::Updated | State::UpdateFailed => Ok(()),
            state => Err(Refusal::Busy(state)),
        }
    }

    fn unknown(&self, number: u32) -> Refusal {
        Refusal::NoVersion { arn: self.arn().to_owned(), number }
    }

    /// Adds the next version, PENDING; returns its number.
    fn add(&mut self, new: NewVersion, now: Timestamp) -> u32 {
        let number = self.record.newest_version + 1;
        self.record.newest_version = number;
        self.record.versions.push(number);
        let NewVersion { config, build_id, generation } = new;
        let build = GetMicrovmImageBuildResponse {
            image_arn: config.image_arn.clone(),
            image_version: ImageVersion::from(number).to_string(),
            build_id,
            build_state: Build::Pending.into(),
            architecture: Architecture::Arm64.into(),
            chipset: Chipset::Graviton.into(),
            chipset_generation: generation,
            state_reason: None,
            created_at: Some(now),
            snapshot_build: None,
        };
        let version = MicrovmImageVersion {
            image_version: ImageVersion::from(number).to_string(),
            state: VersionState::Pending.into(),
            status: Status::Inactive.into(),
            state_reason: None,
            created_at: Some(now),
            updated_at: Some(now),
            tags: BTreeMap::new(),
            ..config
        };
        let record = VersionRecord {
            account: self.record.account.clone(),
            image_name: self.record.name.clone(),
            image_uid: self.record.uid.clone(),
            number,
            version: Some(version),
            builds: vec![BuildRecord { build: Some(build), begun: 0 }],
        };
        self.versions.insert(number, record);
        number
    }

    fn finish_change(&mut self, state: State, now: Timestamp) {
        self.record.state = state.into();
        self.record.settled_state = state.into();
        self.touch(now);
        self.update_latest();
    }

    fn touch(&mut self, now: Timestamp) {
        self.record.updated_at = Some(now);
    }

    fn update_latest(&mut self) {
        let newest = |matches: &dyn Fn(&MicrovmImageVersion) -> bool| {
            let of = |record: &VersionRecord| record.version.as_ref().is_some_and(matches);
            self.versions.iter().rev().find(|(_, record)| of(record)).map_or(0, |(number, _)| *number)
        };
        let active = newest(&launch::is_active);
        let failed = newest(&|version| version.state() == VersionState::Failed);
        (self.record.latest_active, self.record.latest_failed) = (active, failed);
    }
}

/// The ids of a version's builds.
#[must_use]
pub fn build_ids(version: &VersionRecord) -> BTreeSet<&str> {
    version.builds.iter().filter_map(|build| Some(build.build.as_ref()?.build_id.as_str())).collect()
}

fn record_of<'a>(version: &'a mut VersionRecord, build_id: &str) -> Option<&'a mut BuildRecord> {
    let is_it =
        |build: &&mut BuildRecord| build.build.as_ref().is_some_and(|build| build.build_id == build_id);
    version.builds.iter_mut().find(is_it)
}

fn build_of<'a>(
    version: &'a mut VersionRecord,
    build_id: &str,
) -> Option<&'a mut GetMicrovmImageBuildResponse> {
    record_of(version, build_id)?.build.as_mut()
}
