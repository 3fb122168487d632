//! A builder whose result depends on the artifact's URI, and a daemon on a double of the host.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hearth_image_builder::build::event::Sink;
use hearth_image_builder::build::settings::BuilderLimits;
use hearth_image_builder::build::{BuildError, Event, LogStream, Step};
use hearth_image_builder::failure::{FailureCode, StateReason};
use hearth_model::build::ImageBuild;
use hearth_model::hooks::{HookOutcome, ImageHook};
use hearth_model::shape::Burst;
use hearth_proto::guest::v1::LogSource;
use hearth_proto::microvms::v1::{CodeArtifact, MicrovmImageVersion, SnapshotBuild, code_artifact};
use hearth_proto::store::v1::{ArtifactRecord, ImageRecord, VersionRecord};
use tokio::sync::Notify;

use super::super::build::BuildLog;
use super::super::{Build, BuildFailure, BuildObserver, Images, Job, Parts, Settings};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::driver::Capacity;
use crate::driver::faults::Faults;
use crate::events::Events;
use crate::lifecycle::image::Image;
use crate::platform::LogTarget;
use crate::platform::double::Double;
use crate::records;
use crate::store::{Batch, Db, MemoryStore, Scan, Store, Table};

pub(crate) const ACCOUNT: &str = "123456789012";

/// The builder, and the builds that were requested. It outlives the daemon, like the host that holds the files.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    pub(crate) host: Double,
    pub(crate) built: Mutex<Vec<ImageBuild>>,
    pub(crate) lines: Arc<Mutex<Vec<(String, String)>>>,
    /// Builds of `s3://bucket/wait` wait for this notification.
    pub(crate) go_on: Notify,
    pub(crate) ended: Mutex<Vec<bool>>,
    /// The host's memory; much unless given.
    pub(crate) capacity: Option<Capacity>,
}

#[async_trait]
impl Build for Builder {
    async fn build(&self, job: &Job, sink: Sink) -> Result<SnapshotBuild, BuildFailure> {
        self.built.lock().unwrap().push(job.build.clone());
        let failed = |reason: StateReason| {
            let detail = "in detail".to_owned();
            Err(BuildFailure::Builder(BuildError::Failed { reason, detail }))
        };
        if self.host.world().builds.contains(&job.build) {
            return Err(BuildError::Occupied(job.build.build_id.as_str().into()).into());
        }
        sink.send(Event::Started(Step::Build));
        let line = b"Step 1/1 : FROM scratch".to_vec();
        sink.send(Event::Log { stream: LogStream::Build, source: LogSource::Stdout, line });
        match job.request.artifact.rsplit('/').next() {
            Some("fail") => return failed(FailureCode::ContainerBuildFailed.into()),
            Some("step") => {
                let detail = "Step 2/3 (RUN make) ended with exit status 2. Its last line: no rule";
                return failed(StateReason::Explained(FailureCode::ContainerBuildFailed, detail.into()));
            }
            Some("panic") => panic!("on purpose"),
            Some("wait") => self.go_on.notified().await,
            _ => {}
        }
        sink.send(Event::Finished(Step::Build, Duration::from_secs(7)));
        sink.send(Event::CodeInstalled { bytes: 77 });
        if job.request.artifact.ends_with("/unready") {
            return failed(StateReason::Hook {
                hook: ImageHook::Ready,
                outcome: HookOutcome::TimedOut,
                timeout: Duration::from_secs(300),
            });
        }
        self.host.world().builds.insert(job.build.clone());
        Ok(SnapshotBuild {
            memory_snapshot_size_in_bytes: Some(1),
            code_install_size_in_bytes: Some(77),
            disk_snapshot_size_in_bytes: Some(3),
        })
    }
}

struct Lines(String, Arc<Mutex<Vec<(String, String)>>>);

impl BuildLog for Lines {
    fn append(&self, _: SystemTime, _: bool, line: &[u8]) {
        let line = String::from_utf8(line.to_vec()).unwrap();
        self.1.lock().unwrap().push((self.0.clone(), line));
    }
}

impl BuildObserver for Builder {
    fn open_log(&self, _account: &str, target: &LogTarget) -> Option<Box<dyn BuildLog>> {
        Some(Box::new(Lines(target.group.clone(), Arc::clone(&self.lines))))
    }

    fn step_finished(&self, _step: Step, _took: Duration) {}

    fn build_finished(&self, successful: bool, _took: Duration) {
        self.ended.lock().unwrap().push(successful);
    }
}

/// A daemon for tests.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) db: Db,
    pub(crate) images: Images,
    pub(crate) events: Events,
}

pub(crate) fn settings() -> Settings {
    Settings {
        region: "eu-west-1".into(),
        burst: Burst::NONE,
        generation: "2".into(),
        concurrent_builds: 2,
        max_images: None,
        max_versions: None,
        max_builds: None,
        limits: BuilderLimits::default(),
        details: true,
    }
}

impl Daemon {
    pub(crate) fn start<S: Store + 'static>(
        store: &Arc<S>,
        builder: &Arc<Builder>,
        faults: Faults,
        settings: Settings,
    ) -> Self {
        let (db, events) = (Db::new(Arc::clone(store) as _), Events::default());
        let images = Images::new(Parts {
            disk: Disk::unlimited(),
            capacity: builder.capacity.clone().unwrap_or_else(|| Capacity::new(1 << 20)),
            db: db.clone(),
            clock: Clock::system(),
            events: events.clone(),
            platform: Arc::new(builder.host.clone()),
            build: Arc::clone(builder) as _,
            observer: Arc::clone(builder) as _,
            faults,
            settings,
        });
        Self { db, images, events }
    }

    /// A daemon with a new store and builder.
    pub(crate) fn new(settings: Settings) -> (Self, Arc<Builder>) {
        Self::on(&Arc::<MemoryStore>::default(), settings)
    }

    /// A daemon on this store, with a new builder.
    pub(crate) fn on<S: Store + 'static>(store: &Arc<S>, settings: Settings) -> (Self, Arc<Builder>) {
        let builder = Arc::new(Builder::default());
        (Self::start(store, &builder, Faults::none(), settings), builder)
    }

    /// Waits until all tasks have finished.
    pub(crate) async fn idle(&self) {
        self.images.idle().await;
    }

    pub(crate) async fn create(&self, name: &str, uri: &str) -> Image {
        let created = self.images.create(ACCOUNT, name, [].into(), config(name, uri), |_| Batch::new()).await;
        created.unwrap()
    }

    pub(crate) async fn update(&self, name: &str, uri: &str) -> Image {
        self.images.update(ACCOUNT, name, config(name, uri), |_| Batch::new()).await.unwrap()
    }

    pub(crate) fn image(&self, name: &str) -> Option<ImageRecord> {
        self.db.get(Table::Images, &records::image(ACCOUNT, name)).unwrap()
    }

    pub(crate) fn version(&self, name: &str, number: u32) -> Option<VersionRecord> {
        self.db.get(Table::Versions, &records::version(ACCOUNT, name, number)).unwrap()
    }

    /// All records of a table.
    pub(crate) fn all<M: prost::Message + Default>(&self, table: Table) -> Vec<M> {
        let entries = self.db.scan(&Scan { table, prefix: &[], after: None, limit: 1000 }).unwrap();
        entries.iter().map(|(key, value)| self.db.decode(table, key, value).unwrap()).collect()
    }

    /// The artifacts in the store: version numbers with build ids.
    pub(crate) fn artifacts(&self) -> BTreeSet<(u32, String)> {
        let records: Vec<ArtifactRecord> = self.all(Table::Artifacts);
        records.into_iter().map(|record| (record.version, record.build_id)).collect()
    }

    /// Stores whether a microVM uses the files of a version.
    pub(crate) async fn use_files(&self, build_id: &str, used: bool) {
        let at = records::artifact_use(build_id, "microvm-1");
        let batch = if used {
            Batch::new().put(Table::ArtifactUses, at, Vec::new())
        } else {
            Batch::new().delete(Table::ArtifactUses, at)
        };
        self.db.commit(batch).await.unwrap();
    }
}

/// The build id of a version.
pub(crate) fn build_id(record: &VersionRecord) -> String {
    record.builds[0].build.as_ref().unwrap().build_id.clone()
}

pub(crate) fn config(name: &str, uri: &str) -> MicrovmImageVersion {
    let artifact = code_artifact::Artifact::Uri(format!("s3://bucket/{uri}"));
    MicrovmImageVersion {
        image_arn: format!("arn:aws:lambda:eu-west-1:{ACCOUNT}:microvm-image:{name}"),
        code_artifact: Some(CodeArtifact { artifact: Some(artifact) }),
        ..Default::default()
    }
}
