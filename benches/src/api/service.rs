//! The daemon's service over the store, in this process, with the listeners of the daemon. No microVMs are made.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use hearth_base::Catalogue;
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_hostd::access::{Access, AccessConfig};
use hearth_hostd::api::aws::{AwsConfig, AwsListener};
use hearth_hostd::api::grpc::Grpc;
use hearth_hostd::api::{ListenConfig, Listeners};
use hearth_hostd::builds::{self, Build, BuildFailure, BuildLog, BuildObserver, Images, Job};
use hearth_hostd::clock::Clock;
use hearth_hostd::disk::Disk;
use hearth_hostd::driver::context::NoObserver;
use hearth_hostd::driver::deadlines::Deadlines;
use hearth_hostd::driver::faults::Faults;
use hearth_hostd::driver::{Capacity, DriverConfig, Microvms};
use hearth_hostd::events::Events;
use hearth_hostd::lifecycle::microvm::Rules;
use hearth_hostd::logs::{Logs, LogsConfig};
use hearth_hostd::platform::double::Double;
use hearth_hostd::platform::{LogTarget, Platform};
use hearth_hostd::service::host::HostParts;
use hearth_hostd::service::host::artifacts::Artifacts;
use hearth_hostd::service::host::backup::Backups;
use hearth_hostd::service::observe::Silent;
use hearth_hostd::service::{self, Profile, Service, ServiceConfig};
use hearth_hostd::store::rocks::{RocksOptions, RocksStore};
use hearth_hostd::store::{Db, Store};
use hearth_hostd::tokens::Tokens;
use hearth_image_builder::artifact::ArtifactConfig;
use hearth_image_builder::build::Step;
use hearth_image_builder::build::event::Sink;
use hearth_proto::host::v1::HostStatus;
use hearth_proto::microvms::v1::SnapshotBuild;
use tokio::sync::watch;

/// Id of the access key of clients that come over TCP, and its secret.
pub(crate) const KEY: (&str, &str) = ("HKBENCH", "a secret of the bench alone");
/// The region of signatures.
pub(crate) const REGION: &str = "us-east-1";

/// A service that is served until this is dropped.
pub(crate) struct Served {
    /// The socket for gRPC.
    pub(crate) socket: PathBuf,
    /// The address for gRPC.
    pub(crate) grpc: SocketAddr,
    /// The address for AWS's protocols.
    pub(crate) aws: SocketAddr,
    _end: watch::Sender<bool>,
}

/// Serves the store in `data`, with a socket in `folder`. The service has nothing but the store.
pub(crate) async fn serve(folder: &Path, data: &Path) -> Result<Served> {
    let (end, ended) = watch::channel(false);
    let options = RocksOptions { verify: false, ..RocksOptions::default() };
    let store = Arc::new(RocksStore::open(&data.join("store"), &options)?);
    let db = Db::new(store as Arc<dyn Store>);
    let (clock, events) = (Clock::system(), Events::default());
    let platform: Arc<dyn Platform> = Arc::new(Double::default());
    let images = Images::new(builds::Parts {
        db: db.clone(),
        clock,
        events: events.clone(),
        platform: Arc::clone(&platform),
        build: Arc::new(Nothing),
        observer: Arc::new(Nothing),
        faults: Faults::none(),
        settings: builds::Settings {
            region: REGION.into(),
            burst: hearth_model::shape::Burst::NONE,
            generation: "unknown".into(),
            concurrent_builds: 1,
            max_images: None,
            max_versions: None,
            max_builds: None,
        },
    });
    let driver = DriverConfig {
        max_memory_mib: None,
        rules: Rules::default(),
        retention: Duration::from_secs(86_400),
        drain: Duration::ZERO,
        deadlines: Deadlines::default(),
    };
    let observer = Arc::new(NoObserver);
    let microvms =
        Microvms::new(driver, Capacity::new(1), db.clone(), clock, platform, observer, Faults::none());
    let access = access()?;
    let (socket, loopback) = (folder.join("hearthd.sock"), SocketAddr::from(([127, 0, 0, 1], 0)));
    let listen =
        ListenConfig { socket: Some(socket.clone()), address: Some(loopback), ..ListenConfig::default() };
    let listeners = Listeners::bind(&listen, folder, access.knows_somebody(), clock).await?;
    let aws = AwsConfig { address: Some(loopback), ..AwsConfig::default() };
    let aws = AwsListener::bind(&aws, access.has_keys(), clock).await?.context("AWS has no address")?;
    let config = ServiceConfig::new(REGION, Profile::Default);
    let catalogue = folder.join("bases");
    std::fs::create_dir_all(&catalogue).context("making an empty catalogue")?;
    let host = HostParts {
        logs: Logs::open(&data.join("logs"), LogsConfig::default(), clock)?,
        events,
        artifacts: Artifacts::open("hearth-local", &data.join("bucket"), 1 << 30, Disk::unlimited())?,
        backups: Backups::new(data.join("backups"), 8),
        status: Box::new(|_| HostStatus::default()),
        shutdown: ended.clone(),
    };
    let service = Service::new(service::Parts {
        damaged: hearth_hostd::scrub::Damaged::default(),
        disk: Disk::unlimited(),
        db: db.clone(),
        clock,
        microvms,
        images,
        tokens: Tokens::open(&db, clock, &config.region).await?,
        artifacts: ArtifactConfig::default(),
        roles: Arc::new(RoleProvider::new(RolesConfig::default())?),
        bases: Catalogue::open(&catalogue)?,
        host,
        observer: Arc::new(Silent),
        config,
    })
    .await?;
    let served = Served {
        socket,
        grpc: listeners.address().context("gRPC has no address")?,
        aws: aws.address().context("AWS has no address")?,
        _end: end,
    };
    let routes = Grpc::new(service.clone()).routes(Arc::clone(&access)).await?;
    tokio::spawn(aws.serve(service, access, ended.clone()));
    tokio::spawn(listeners.serve(routes, ended));
    Ok(served)
}

/// Knows one access key, whose owner may do everything.
fn access() -> Result<Arc<Access>> {
    let (id, secret) = KEY;
    let config = serde_json::json!({
        "local_account": crate::records::ACCOUNT,
        "keys": [{ "id": id, "secret": secret }],
    });
    let config: AccessConfig = serde_json::from_value(config).context("making an access key")?;
    Ok(Arc::new(Access::new(&config, REGION)?))
}

/// A double whose builds never finish, and that reports nothing.
struct Nothing;

#[async_trait]
impl Build for Nothing {
    async fn build(&self, _: &Job, _: Sink) -> Result<SnapshotBuild, BuildFailure> {
        std::future::pending().await
    }
}

impl BuildObserver for Nothing {
    fn open_log(&self, _: &str, _: &LogTarget) -> Option<Box<dyn BuildLog>> {
        None
    }

    fn step_finished(&self, _: Step, _: Duration) {}

    fn build_finished(&self, _: bool, _: Duration) {}
}
