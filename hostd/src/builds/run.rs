//! A build, from its turn to its outcome.
//!
//! A build that panics aborts the daemon ([`crate::panics`]), and the next daemon begins the build again. To bound
//! this, each attempt is counted in the build's record before it does anything; a daemon that is shut down undoes the
//! count, except during the instant in which it is stored. A build that has begun [`TRIES`] times and neither
//! finished nor was stopped is FAILED. A panic, a kill and a power failure cannot be distinguished afterwards, so
//! each of them counts.

use std::sync::Arc;

use hearth_image_builder::build::Event as BuilderEvent;
use hearth_image_builder::build::event::Sink;
use hearth_model::build::ImageBuild;
use hearth_model::shape::MemoryClass;
use hearth_proto::guest::v1::LogSource;
use hearth_proto::host::v1::{ArtifactProgress, BuildStep, LogEvent, build_event::Event};
use hearth_proto::microvms::v1::{GetMicrovmImageBuildResponse, build_state::Value as BuildState};
use hearth_proto::store::v1::{ArtifactRecord, VersionRecord};
use tokio::time::Instant;

use super::build::{BuildFailure, Job};
use super::context::{AREA, Context, RETRY_PAUSE};
use super::error::ImagesError;
use super::key::Key;
use super::log::{LogStreams, LogTargets};
use super::progress::Progress;
use super::request::{build_request, memory};
use super::state::Change;
use crate::clock::timestamp;
use crate::driver::capacity::Reservation;
use crate::lifecycle::image::{Image, Outcome};
use crate::records;
use crate::store::{Batch, StoreError, Table};
use crate::turns::{Turn, Waiting};

/// How often a build may begin.
pub(super) const TRIES: u32 = 3;

/// A build under way. Dropping this stops the build.
struct RunningBuild {
    images: Arc<Context>,
    key: Key,
    number: u32,
    record: VersionRecord,
    build: ImageBuild,
    progress: Arc<Progress>,
    /// Whether the build has begun and its result is not stored yet.
    begun: bool,
}

impl Drop for RunningBuild {
    fn drop(&mut self) {
        if self.begun {
            self.images.record_interruption(&self.key, self.number, self.build.build_id.as_str());
        }
        self.progress.close();
        self.images.unregister(&self.key, self.number);
    }
}

impl Context {
    /// Starts the unfinished builds of an image that are not under way.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the record of a version has a text that is no id.
    pub(super) fn begin_builds(self: &Arc<Self>, key: &Key, image: &Image) -> Result<(), StoreError> {
        for record in image.unbuilt() {
            let builds = record.builds.iter().filter_map(|build| build.build.as_ref());
            let to_do = |build: &&GetMicrovmImageBuildResponse| {
                matches!(build.build_state(), BuildState::Pending | BuildState::InProgress)
            };
            let Some(build) = builds.clone().find(to_do) else { continue };
            let VersionRecord { account, image_uid, number, .. } = record;
            let identity =
                ImageBuild::parse(account, image_uid, *number, &build.build_id).map_err(|error| {
                    let at = records::version(account, &key.name, *number);
                    self.db.damaged(Table::Versions, &at, &error)
                })?;
            let progress = Arc::new(Progress::default());
            if !self.register(key, record.number, Arc::clone(&progress), identity.clone()) {
                continue;
            }
            let run = RunningBuild {
                images: Arc::clone(self),
                key: key.clone(),
                number: record.number,
                record: record.clone(),
                build: identity,
                progress,
                begun: false,
            };
            // The order is that of these calls: the task may begin whenever it likes.
            let turn = self.turns.queue(&key.account);
            self.spawn(run.run(turn));
        }
        Ok(())
    }
}

// === impl RunningBuild ===

impl RunningBuild {
    async fn run(mut self, turn: Waiting) {
        let images = Arc::clone(&self.images);
        let (_turn, memory) = self.place(turn).await;
        let now = images.clock.timestamp();
        let id = self.build.build_id.to_string();
        let number = self.number;
        let start = |image: &mut Image| image.build_started(number, &id, now);
        let Some((_, tries)) = self.update_image("build-start", start, Batch::new()).await else { return };
        self.begun = true;
        let begun = Instant::now();
        // A killed daemon may have left a complete image without having stored the result.
        self.remove_files().await;
        images.faults.at(AREA, "build", "before").await;
        // It may have waited for long since it was accepted.
        let room = images.disk.admit(&self.key.account, 0);
        let built = match room {
            _ if tries > TRIES => Err((BuildFailure::GivenUp(TRIES), None)),
            Err(error) => Err((BuildFailure::Disk(error), None)),
            Ok(()) => match memory {
                Ok(_reserved) => self.build().await,
                Err(failure) => Err((failure, None)),
            },
        };
        let (outcome, with) = match built {
            Ok(sizes) => (Outcome::Successful(sizes), self.artifact_record()),
            Err((failure, code_install_bytes)) => {
                let arn = self.record.version.as_ref().map(|version| version.image_arn.as_str());
                let reason = failure.reason(images.settings.details);
                tracing::warn!(
                    image = arn,
                    version = self.number,
                    build = id,
                    reason,
                    detail = %failure,
                    "a build has failed"
                );
                self.remove_files().await;
                (Outcome::Failed { reason, code_install_bytes }, Batch::new())
            }
        };
        images.faults.at(AREA, "build", "after").await;
        let now = images.clock.timestamp();
        let successful = matches!(outcome, Outcome::Successful(_));
        let end = |image: &mut Image| image.build_ended(number, &id, outcome.clone(), now);
        let updated = self.update_image("build-end", end, with).await.map(|(image, ())| image);
        self.begun = false;
        images.observer.build_finished(successful, begun.elapsed());
        let version = updated.and_then(|image| image.versions.get(&self.number).cloned());
        let mut builds =
            version.into_iter().flat_map(|version| version.builds).filter_map(|build| build.build);
        if let Some(build) = builds.find(|build| build.build_id == id) {
            self.progress.publish(now, Event::Ended(build));
        }
    }

    /// Waits for a turn, and until the host has the memory that the build takes beyond what every build has, which is not of
    /// `capacity_mib`. It is PENDING meanwhile. While there is too little memory it has no turn, so that it delays no other build.
    async fn place(&self, turn: Waiting) -> (Turn, Result<Reservation, BuildFailure>) {
        let (images, limits) = (&self.images, self.images.settings.limits);
        let class = self.record.version.as_ref().map_or(MemoryClass::DEFAULT, memory);
        let beyond = limits.memory_of_build(class).saturating_sub(limits.memory_mib);
        let mut turn = turn.await;
        let since = Instant::now();
        loop {
            let full = match images.capacity.reserve_most(beyond) {
                Ok(reserved) => return (turn, Ok(reserved)),
                Err(full) => full,
            };
            let waited = since.elapsed();
            let left = limits.time.saturating_sub(waited);
            if left.is_zero() {
                return (turn, Err(BuildFailure::Memory { waited, full }));
            }
            tracing::info!(build = %self.build.build_id, %full, "a build waits for memory of the host");
            drop(turn);
            // Whether it came in time or not is looked at with the next turn.
            drop(images.capacity.wait(beyond, left).await);
            turn = images.turns.queue(&self.key.account).await;
        }
    }

    /// Runs the build and forwards its events. A failure comes with the size of the code in bytes, if that is known.
    async fn build(&self) -> Result<hearth_proto::microvms::v1::SnapshotBuild, (BuildFailure, Option<i64>)> {
        let settings = &self.images.settings;
        let request = build_request(&self.record, &settings.region, settings.burst);
        let job = Job { build: self.build.clone(), request };
        let code_bytes = Arc::new(std::sync::OnceLock::new());
        let sink = self.sink(Arc::clone(&code_bytes));
        let built = tokio::select! {
            built = self.images.build.build(&job, sink) => built,
            error = self.images.disk.ends_build(&self.key.account) => Err(BuildFailure::Disk(error)),
        };
        built.map_err(|failure| (failure, code_bytes.get().copied()))
    }

    /// Forwards the events of a build to watches, logs and metrics.
    fn sink(&self, code_bytes: Arc<std::sync::OnceLock<i64>>) -> Sink {
        let (images, progress) = (Arc::clone(&self.images), Arc::clone(&self.progress));
        let build_id = self.build.build_id.as_str();
        let targets = self.record.version.as_ref().and_then(|version| {
            LogTargets::of(version, &self.record.image_name, build_id, images.clock.now())
        });
        let streams = LogStreams::new(&self.key.account, targets, Arc::clone(&images.observer));
        Sink::new(move |event| {
            let now = images.clock.now();
            let event = match event {
                BuilderEvent::Started(step) => Event::StepStarted(step.to_string()),
                BuilderEvent::Finished(step, took) => {
                    images.observer.step_finished(step, took);
                    let duration_ns = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
                    Event::StepFinished(BuildStep { name: step.to_string(), duration_ns })
                }
                BuilderEvent::Log { stream, source, line } => {
                    let stderr = matches!(source, LogSource::Stderr | LogSource::Agent);
                    let name = streams.append(stream, now, stderr, &line);
                    Event::Log(LogEvent {
                        log_stream: name.unwrap_or_default().to_owned(),
                        timestamp: Some(timestamp(now)),
                        source: if stderr { "stderr" } else { "stdout" }.to_owned(),
                        message: String::from_utf8_lossy(&line).into_owned(),
                        id: String::new(),
                    })
                }
                BuilderEvent::Fetched { bytes, total } => Event::Fetched(ArtifactProgress {
                    bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
                    total: total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)),
                }),
                BuilderEvent::CodeInstalled { bytes } => {
                    let _ = code_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX)); // sent once
                    return;
                }
            };
            progress.publish(timestamp(now), event);
        })
    }

    /// Removes the files of the build, if they exist.
    async fn remove_files(&self) {
        if let Err(error) = self.images.platform.remove_build(&self.build).await {
            tracing::warn!(build = self.build.build_id.as_str(), %error, "files of an earlier try cannot be removed");
        }
    }

    fn artifact_record(&self) -> Batch {
        let record = ArtifactRecord {
            account: self.build.account.to_string(),
            image_uid: self.build.image_uid.to_string(),
            version: self.build.version,
            build_id: self.build.build_id.to_string(),
            retired: false,
        };
        let at = records::artifact(self.build.build_id.as_str());
        Batch::new().put(Table::Artifacts, at, records::encode(&record))
    }

    /// Changes the image, retrying while the store fails. None if the image no longer exists.
    async fn update_image<T>(
        &self,
        name: &'static str,
        change: impl Fn(&mut Image) -> T,
        with: Batch,
    ) -> Option<(Image, T)> {
        loop {
            let changed = self.images.change(&self.key, name, |mut image| {
                let result = change(&mut image);
                Ok(Change { result: (image.clone(), result), after: Some(image), with: with.clone() })
            });
            match changed.await {
                Ok(changed) => return Some(changed),
                Err(ImagesError::NotFound) => return None,
                Err(error) => {
                    tracing::error!(image = self.key.name, version = self.number, %error, "a build cannot be recorded; trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}
