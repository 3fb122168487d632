//! The daemon: its parts, the order in which they start, and its shutdown.
//!
//! ```text
//!  host checked ─► store ─► logs, metrics, audit ─► platform, builder ─► images, microVMs ─► recovery ─► listening
//! ```
//!
//! The daemon does not listen anywhere before recovery is complete. On SIGTERM and SIGINT it accepts no new calls and
//! completes what is half made; the microVMs run on by themselves.
//!
//! * [`machine`] – the host's resources, and its missing requirements
//! * `told` – converts notifications of drivers, builds and calls into events, metrics and audit lines
//! * `endpoints` – the endpoints, according to the configuration
//! * `output` – writes the output of microVMs and builds to the log store

mod endpoints;
pub mod machine;
mod output;
mod told;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hearth_base::Catalogue;
use hearth_host::roles::RoleProvider;
use hearth_image_builder::artifact::Fetcher;
use hearth_image_builder::build::{Builder, Settings as BuilderSettings};
use hearth_model::shape::Burst;
use hearth_proto::host::v1::{EndpointStatus, HostStatus, Pool};
use hearth_vmm_jail::JailConfig;
use tokio::sync::watch;

use crate::access::Access;
use crate::api::Listeners;
use crate::api::grpc::Grpc;
use crate::audit::Audit;
use crate::builds::{self, Images, generation};
use crate::clock::Clock;
use crate::config::Config;
use crate::driver::faults::Faults;
use crate::driver::{DriverConfig, Microvms};
use crate::events::Events;
use crate::lifecycle::microvm::Rules;
use crate::logs::Logs;
use crate::metrics::{Metrics, MetricsServer};
use crate::panics;
use crate::platform::Platform;
use crate::platform::host::{HostPlatform, Surroundings};
use crate::service::host::HostParts;
use crate::service::host::artifacts::Artifacts;
use crate::service::{self, Profile, Service};
use crate::store::{Db, Store};
use crate::tokens::Tokens;
use endpoints::Endpoints;
use told::{Calls, Told};

/// The bucket that clients upload into.
pub const LOCAL_BUCKET: &str = "hearth-local";
/// Interval at which gauges are read that no notification updates.
const GAUGES: Duration = Duration::from_secs(5);

/// Runs until a signal requests the shutdown. `store` is the opened store of the configuration.
///
/// # Errors
/// Why the daemon cannot start, or has failed.
pub async fn run(config: Config, store: Arc<dyn Store>) -> Result<()> {
    let clock = Clock::system();
    let started = clock.timestamp();
    let machine = machine::Machine::look();
    machine.check()?;
    let metrics = Metrics::new();
    let observed = metrics.clone();
    let db = Db::observed(store, move |batches, took| observed.committed(batches, took));
    let faults = Faults::of_environment();
    let (ending, end) = watch::channel(false);

    let events = Events::default();
    let logs = Logs::open(&config.data.join("logs"), config.logs.clone(), clock)?;
    let audit_folder = config.data.join("audit");
    let audit = Audit::open(&audit_folder, config.audit.clone(), clock)
        .with_context(|| format!("opening the audit log in {}", audit_folder.display()))?;
    let output = Arc::new(output::Output::new(logs.clone(), metrics.clone()));

    let roles = Arc::new(RoleProvider::new(config.roles.clone())?);
    // The part that starts first prepares the networks of the host; the builder removes what its own microVMs have
    // left.
    let surroundings = Surroundings {
        roles: Arc::clone(&roles),
        logs: Arc::clone(&output) as _,
        clock,
        observer: told::timelines(&metrics),
    };
    let platform = HostPlatform::open(config.host(), surroundings).await?;
    let builder = open_builder(&config, Arc::clone(&roles)).await?;
    let shared = Arc::new(platform.clone()) as Arc<dyn Platform>;

    let service_config = config.service();
    let limits = &service_config.limits;
    let images = Images::new(builds::Parts {
        db: db.clone(),
        clock,
        events: events.clone(),
        platform: Arc::clone(&shared),
        build: Arc::new(builds::real::ImageBuilder::new(builder, config.data.join("images"))),
        report: Arc::clone(&output) as _,
        faults: faults.clone(),
        settings: builds::Settings {
            region: config.region.clone(),
            burst: Burst::try_from(config.burst)?,
            generation: generation::of_host().to_owned(),
            concurrent_builds: config.builder.concurrent,
            max_images: limits.images,
            max_versions: limits.versions,
            max_builds: limits.builds,
        },
    });
    let capacity_mib = config.capacity_mib.unwrap_or_else(|| machine.memory_mib() / 10 * 9);
    let rules = match service_config.profile {
        Profile::Default => Rules::default(),
        Profile::AwsStrict => Rules::AWS_STRICT,
    };
    let driver = DriverConfig {
        capacity_mib,
        max_memory_mib: service_config.limits.memory_mib,
        rules,
        retention: config.terminated_retention(),
        drain: config.endpoint.drain(),
        deadlines: config.deadlines(),
    };
    let told = Told::new(events.clone(), metrics.clone(), images.clone(), clock);
    let microvms = Microvms::new(driver, db.clone(), clock, shared, Arc::new(told), faults);

    microvms.recover(images.artifacts()?).await?;
    images.recover().await?;

    let tokens = Tokens::open(&db, clock, &config.region).await?;
    let access = Access::new(&config.access)?;
    // A client that reaches the API must also reach endpoints, so endpoints are opened first.
    let endpoints = Endpoints::open(&config, &microvms, &tokens, &metrics, clock).await?;
    let listeners = Listeners::bind(&config.listen, &config.run, access.knows_somebody()).await?;
    let address = listeners.address();
    let metrics_server = MetricsServer::bind(config.metrics, metrics.clone()).await?;
    let bases = Catalogue::open(&config.catalogue())?;
    let bucket = config.data.join("buckets").join(LOCAL_BUCKET);
    let artifacts = Artifacts::open(LOCAL_BUCKET, &bucket, config.artifacts.limits.max_zip_bytes)
        .with_context(|| format!("opening the bucket {}", bucket.display()))?;

    let figures = Figures {
        machine,
        microvms: microvms.clone(),
        images: images.clone(),
        platform: platform.clone(),
        logs: logs.clone(),
        started,
        audit: audit.clone(),
        endpoint: endpoints.as_ref().map(|endpoints| endpoints.status().clone()),
        config: config.clone(),
    };
    let calls = Calls::new(audit, config.audit.clone(), metrics.clone(), config.region.clone());
    let gauges = figures.clone();
    let host = HostParts {
        logs: logs.clone(),
        events,
        artifacts,
        backups: config.backups(),
        status: Box::new(move |account| figures.status(account)),
        end: end.clone(),
    };
    let service = Service::new(service::Parts {
        db: db.clone(),
        clock,
        microvms: microvms.clone(),
        images: images.clone(),
        tokens: tokens.clone(),
        artifacts: config.artifacts.clone(),
        roles,
        bases,
        host,
        observer: Arc::new(calls),
        config: service_config,
    })
    .await?;
    let routes = Grpc::new(service).routes(access).await?;

    let background = [
        tokio::spawn(microvms.clone().keep_expiring()),
        tokio::spawn(tokens.keep_rotating(db.clone())),
        tokio::spawn(async move { logs.keep_swept().await }),
        tokio::spawn(gauges.keep_telling(metrics)),
        tokio::spawn(async move {
            match metrics_server {
                Some(server) => server.serve().await,
                None => std::future::pending().await,
            }
        }),
    ];
    let socket = config.listen.socket(&config.run);
    tracing::info!(
        socket = socket.as_deref().map(Path::display).map(tracing::field::display),
        address = address.map(tracing::field::display),
        endpoints = endpoints.as_ref().map(|endpoints| tracing::field::display(&endpoints.status().address)),
        capacity_mib,
        "ready"
    );
    let (proxying, endpoint_background) = match endpoints {
        Some(endpoints) => endpoints.start(end.clone())?,
        None => (tokio::spawn(async {}), Vec::new()),
    };
    let serving = tokio::spawn(listeners.serve(routes, end));
    let signalled = signal().await?;
    tracing::info!(signal = signalled, "ending; microVMs go on by themselves");
    let _ = ending.send(true); // an error means that no receiver is left
    let served = serving.await?;
    proxying.await?;
    background.iter().chain(&endpoint_background).for_each(tokio::task::JoinHandle::abort);
    images.stop().await;
    microvms.stop().await;
    platform.shut_down().await;
    tracing::info!("ended");
    Ok(served?)
}

/// The image builder with this host's folders and networks. It shares the daemon's role provider, so that roles'
/// credentials are cached once.
async fn open_builder(config: &Config, roles: Arc<RoleProvider>) -> Result<Builder> {
    let mut artifacts = config.artifacts.clone();
    artifacts.buckets.insert(LOCAL_BUCKET.to_owned(), config.data.join("buckets").join(LOCAL_BUCKET));
    let settings = BuilderSettings {
        vmm: config.paths.vmm.clone(),
        catalogue: config.catalogue(),
        work: config.work(),
        jail: JailConfig::default(),
        network: config.network.clone(),
        dns: config.dns.clone(),
        builder: config.builder.limits(),
    };
    let fetcher = Fetcher::new(artifacts)?;
    std::fs::create_dir_all(config.work()).with_context(|| format!("making {}", config.work().display()))?;
    // Opening the builder blocks: it uses netlink and nft.
    Ok(tokio::task::spawn_blocking(move || Builder::open(settings, fetcher, roles)).await??)
}

/// Waits for a signal that requests the shutdown; returns its name.
async fn signal() -> Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// The sources of information about the host.
#[derive(Clone)]
struct Figures {
    machine: machine::Machine,
    microvms: Microvms,
    images: Images,
    platform: HostPlatform,
    logs: Logs,
    started: prost_types::Timestamp,
    audit: Audit,
    endpoint: Option<EndpointStatus>,
    config: Config,
}

impl Figures {
    fn status(&self, account: &str) -> HostStatus {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let small = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
        let (capacity, reserved) = self.microvms.capacity();
        let (disk_total, disk_free) = machine::disk(&self.config.data);
        let pools = self.platform.pools().into_iter();
        let states = self.microvms.states().into_iter().filter(|(_, count)| *count > 0);
        HostStatus {
            endpoint: self.endpoint.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            region: self.config.region.clone(),
            account: account.to_owned(),
            profile: self.config.service().profile.name().to_owned(),
            started_at: Some(self.started),
            processor: format!("GRAVITON {}", generation::of_host()),
            cpus: small(self.machine.cpus()),
            memory_bytes: number(self.machine.memory_mib().saturating_mul(1 << 20)),
            capacity_mib: number(capacity),
            reserved_mib: number(reserved),
            microvms: states.map(|(state, count)| (state.to_owned(), i64::from(small(count)))).collect(),
            builds_under_way: small(self.images.builds_under_way()),
            pools: pools
                .map(|pool| Pool { name: pool.name, ready: small(pool.ready), wanted: small(pool.wanted) })
                .collect(),
            disk_total_bytes: number(disk_total),
            disk_free_bytes: number(disk_free),
            kernel: self.machine.kernel().to_owned(),
        }
    }

    /// Updates gauges that no notification updates, periodically and for ever.
    async fn keep_telling(self, metrics: Metrics) {
        loop {
            let (capacity, reserved) = self.microvms.capacity();
            metrics.capacity(capacity, reserved);
            metrics.builds_under_way(self.images.builds_under_way());
            for (state, count) in self.microvms.states() {
                metrics.microvms(state, count);
            }
            metrics.log_bytes(self.logs.stored_bytes());
            metrics.audit_lines_lost(self.audit.lost());
            metrics.request_panics(panics::caught());
            for pool in self.platform.pools() {
                metrics.pool(&pool.name, pool.ready, pool.wanted);
            }
            tokio::time::sleep(GAUGES).await;
        }
    }
}
