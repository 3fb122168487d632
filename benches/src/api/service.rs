//! Reads and pages through gRPC on the daemon's socket: the service runs over the same store in this process, with the clients on
//! the same processors. No microVMs are made.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use hearth_base::Catalogue;
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_hostd::access::{Access, AccessConfig};
use hearth_hostd::api::grpc::Grpc;
use hearth_hostd::api::{ListenConfig, Listeners};
use hearth_hostd::builds::{self, Build, BuildFailure, BuildLog, BuildObserver, Images, Job};
use hearth_hostd::clock::Clock;
use hearth_hostd::driver::context::NoObserver;
use hearth_hostd::driver::deadlines::Deadlines;
use hearth_hostd::driver::faults::Faults;
use hearth_hostd::driver::{DriverConfig, Microvms};
use hearth_hostd::events::Events;
use hearth_hostd::lifecycle::microvm::Rules;
use hearth_hostd::logs::{Logs, LogsConfig};
use hearth_hostd::platform::double::Double;
use hearth_hostd::platform::{LogTarget, Platform};
use hearth_hostd::service::host::HostParts;
use hearth_hostd::service::host::artifacts::Artifacts;
use hearth_hostd::service::host::backup::Backups;
use hearth_hostd::service::observe::Silent;
use hearth_hostd::service::{self, Service, ServiceConfig};
use hearth_hostd::store::rocks::{RocksOptions, RocksStore};
use hearth_hostd::store::{Db, Store};
use hearth_hostd::tokens::Tokens;
use hearth_image_builder::artifact::ArtifactConfig;
use hearth_image_builder::build::Step;
use hearth_image_builder::build::event::Sink;
use hearth_proto::host::v1::HostStatus;
use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use hearth_proto::microvms::v1::{GetMicrovmRequest, ListMicrovmsRequest, SnapshotBuild};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::records::id;
use crate::{Dice, Plan, figure, per_second};
use hearth_benches::report::{Better, Figure};

/// Numbers of requests under way at a time.
const CLIENTS: [u64; 2] = [1, 64];
/// Connections that the requests share.
const CONNECTIONS: u64 = 4;

/// Serves the store in `data` on a socket in `folder` and measures it.
pub(crate) fn measure(folder: &Path, data: &Path, plan: &Plan) -> Result<Vec<Figure>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(async {
        let (end, ended) = watch::channel(false);
        let socket = folder.join("hearthd.sock");
        let serving = tokio::spawn(serve(folder.to_owned(), data.to_owned(), ended).await?);
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
            channels.push(endpoint.connect().await.context("connecting to the socket")?);
        }
        let mut figures = Vec::new();
        for clients in CLIENTS {
            let by = format!("{clients} at a time");
            let rates = rates(plan, &channels, clients, Kind::Get).await?;
            figures.push(figure(&format!("gRPC: GetMicrovm, {by}"), "1/s", Better::Higher, rates));
            let rates = self::rates(plan, &channels, clients, Kind::List).await?;
            figures.push(figure(&format!("gRPC: pages of 50, {by}"), "1/s", Better::Higher, rates));
        }
        let _ = end.send(true); // an error means that the server has stopped already
        serving.abort();
        Ok(figures)
    })
}

/// Kind of request.
#[derive(Clone, Copy)]
enum Kind {
    Get,
    List,
}

async fn rates(plan: &Plan, channels: &[Channel], clients: u64, kind: Kind) -> Result<Vec<f64>> {
    let mut rates = Vec::new();
    for _ in 0..plan.rounds {
        let (start, done) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for (number, channel) in (0..clients).zip(channels.iter().cycle()) {
            let client = MicrovmServiceClient::new(channel.clone());
            let (done, microvms, round) = (Arc::clone(&done), plan.microvms, plan.round);
            tasks.spawn(ask(client, kind, Dice(number), microvms, (start, round), done));
        }
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        rates.push(per_second(done.load(Ordering::Relaxed), start.elapsed()));
    }
    Ok(rates)
}

async fn ask(
    mut client: MicrovmServiceClient<Channel>,
    kind: Kind,
    mut dice: Dice,
    microvms: u64,
    (start, round): (Instant, Duration),
    done: Arc<AtomicU64>,
) -> Result<()> {
    let mut next_token = None;
    while start.elapsed() < round {
        match kind {
            Kind::Get => {
                let microvm_identifier = Some(id(dice.below(microvms)));
                client.get_microvm(GetMicrovmRequest { microvm_identifier }).await?;
            }
            Kind::List => {
                let request = ListMicrovmsRequest {
                    max_results: Some(50),
                    next_token,
                    ..ListMicrovmsRequest::default()
                };
                let page = client.list_microvms(request).await?.into_inner();
                anyhow::ensure!(page.items.len() == 50, "a page has {} items", page.items.len());
                next_token = page.next_token;
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Runs the daemon's service with nothing but the store.
async fn serve(
    folder: std::path::PathBuf,
    data: std::path::PathBuf,
    end: watch::Receiver<bool>,
) -> Result<impl Future<Output = Result<()>>> {
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
            region: "us-east-1".into(),
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
        capacity_mib: 1,
        rules: Rules::default(),
        retention: Duration::from_secs(86_400),
        drain: Duration::ZERO,
        deadlines: Deadlines::default(),
    };
    let microvms = Microvms::new(driver, db.clone(), clock, platform, Arc::new(NoObserver), Faults::none());
    let config =
        AccessConfig { local_account: crate::records::ACCOUNT.to_owned(), ..AccessConfig::default() };
    let access = Access::new(&config, "us-east-1")?;
    let listen = ListenConfig { socket: Some(folder.join("hearthd.sock")), ..ListenConfig::default() };
    let listeners = Listeners::bind(&listen, &folder, access.knows_somebody()).await?;
    let config = ServiceConfig::default();
    let catalogue = folder.join("bases");
    std::fs::create_dir_all(&catalogue).context("making an empty catalogue")?;
    let host = HostParts {
        logs: Logs::open(&data.join("logs"), LogsConfig::default(), clock)?,
        events,
        artifacts: Artifacts::open("hearth-local", &data.join("bucket"), 1 << 30)?,
        backups: Backups::new(data.join("backups"), 8),
        status: Box::new(|_| HostStatus::default()),
        shutdown: end.clone(),
    };
    let service = Service::new(service::Parts {
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
    let routes = Grpc::new(service).routes(access).await?;
    Ok(async move { Ok(listeners.serve(routes, end).await?) })
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
