//! Tests of the operations on a store in memory.
//!
//! Images are built by a scripted builder. MicroVMs fail to launch, because their host has no processes, unless a test
//! stores a running one.

mod accounts;
mod disk;
mod images;
mod lists;
mod microvms;
mod roles;
mod run;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_base::Catalogue;
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_image_builder::artifact::ArtifactConfig;
use hearth_proto::host::v1::{EndpointStatus, HostStatus};
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::{MicrovmRecord, Phase};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::host::HostParts;
use super::host::artifacts::Artifacts;
use super::host::backup::Backups;
use super::observe::{Call, CallObserver, StsCall};
use super::pipeline::{Handler, Incoming};
use super::{Limits, Operation, Parts, Profile, Service, ServiceConfig, ServiceError};
use crate::access::{Caller, Policy};
use crate::audit::Recorded;
use crate::builds::tests::double::{ACCOUNT, Daemon, settings};
use crate::clock::Clock;
use crate::disk::{Disk, DiskConfig};
use crate::driver::context::NoObserver;
use crate::driver::deadlines::Deadlines;
use crate::driver::faults::Faults;
use crate::driver::{Capacity, DriverConfig, Microvms, record};
use crate::events::Events;
use crate::lifecycle::microvm::Rules;
use crate::logs::{Logs, LogsConfig};
use crate::platform::double::{Deviation, Point};
use crate::store::Table;
use crate::tokens::Tokens;

pub(crate) struct Host {
    pub(crate) daemon: Daemon,
    pub(crate) service: Service,
    caller: Caller,
    tokens: Tokens,
    pub(crate) clock: Clock,
    pub(crate) outside: Outside,
    bases: TempDir,
}

/// The components of Hearth's own operations, as tests see them, and the calls that were observed.
pub(crate) struct Outside {
    pub(crate) logs: Logs,
    pub(crate) observed: Observed,
    /// Whether calls of GetHostStatus panic.
    pub(crate) panics: Arc<AtomicBool>,
    /// Ends streams and, in tests of front ends, servers.
    pub(crate) end: watch::Sender<bool>,
    /// Logs, the bucket `artifacts` and backups.
    pub(crate) folder: TempDir,
}

/// An observer that records calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    pub(crate) calls: Arc<Mutex<Vec<Seen>>>,
    pub(crate) sts: Arc<Mutex<Vec<SeenSts>>>,
}

/// A call of STS that was observed.
#[derive(Debug, Clone)]
pub(crate) struct SeenSts {
    pub(crate) action: &'static str,
    pub(crate) caller: Option<String>,
    pub(crate) request: Value,
    pub(crate) response: Value,
    pub(crate) code: Option<&'static str>,
}

/// A call that was observed.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) operation: Operation,
    pub(crate) request_id: String,
    /// The request, with AWS's names.
    pub(crate) request: Value,
    /// Name of the exception.
    pub(crate) exception: Option<&'static str>,
}

impl CallObserver for Observed {
    fn wants(&self, _: Operation) -> bool {
        true
    }

    fn called(&self, call: Call<'_>) -> Recorded {
        self.calls.lock().unwrap().push(Seen {
            operation: call.operation,
            request_id: call.request_id.to_owned(),
            request: call.request,
            exception: call.error.map(|error| error.exception().name),
        });
        Recorded::default()
    }

    fn sts(&self, call: StsCall<'_>) -> Recorded {
        self.sts.lock().unwrap().push(SeenSts {
            action: call.action,
            caller: call.caller.map(|caller| caller.principal.clone()),
            request: call.request,
            response: call.response,
            code: call.error.map(|(code, _)| code),
        });
        Recorded::default()
    }
}

impl Observed {
    /// The last call.
    pub(crate) fn last(&self) -> Seen {
        self.calls.lock().unwrap().last().unwrap().clone()
    }
}

impl Outside {
    /// The components, and what tests see of them. Artifacts have at most 100 bytes.
    pub(crate) fn new(events: Events, clock: Clock) -> (Self, HostParts) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| Path::join(folder.path(), name);
        let logs = Logs::open(&path("logs"), LogsConfig::default(), clock).unwrap();
        let panics = Arc::new(AtomicBool::new(false));
        let panicking = Arc::clone(&panics);
        let (end, ended) = watch::channel(false);
        let parts = HostParts {
            logs: logs.clone(),
            events,
            artifacts: Artifacts::open("artifacts", &path("bucket"), 100, Disk::unlimited()).unwrap(),
            backups: Backups::new(path("backups"), 8),
            status: Box::new(move |account| {
                assert!(!panicking.load(Ordering::Relaxed), "on purpose");
                HostStatus {
                    version: "9.9.9".into(),
                    region: "us-east-1".into(),
                    account: account.to_owned(),
                    profile: "default".into(),
                    processor: "GRAVITON 3".into(),
                    kernel: "6.12".into(),
                    cpus: 64,
                    memory_bytes: 1 << 40,
                    capacity_mib: 1 << 20,
                    reserved_mib: 1 << 19,
                    microvms: [("RUNNING".to_owned(), 7)].into(),
                    endpoint: Some(EndpointStatus {
                        address: "127.0.0.1:443".into(),
                        domain: "microvms.example".into(),
                        certificate_authority_pem: "-----BEGIN CERTIFICATE-----".into(),
                    }),
                    ..HostStatus::default()
                }
            }),
            shutdown: ended,
        };
        (Self { logs, observed: Observed::default(), panics, end, folder }, parts)
    }
}

impl Service {
    /// Performs an operation for a caller.
    pub(crate) async fn call_as<H: Handler>(
        &self,
        caller: &Caller,
        request: H,
    ) -> Result<H::Response, ServiceError> {
        let incoming = Incoming {
            caller: Ok(caller.clone()),
            request_id: caller.request_id.clone(),
            address: "local".into(),
            user_agent: String::new(),
            since: Instant::now(),
        };
        self.call(&incoming, request).await
    }
}

/// A host with an image `demo` whose version 1.0 is active.
pub(crate) async fn host(profile: Profile) -> Host {
    limited(profile, Limits::default()).await
}

pub(crate) async fn limited(profile: Profile, limits: Limits) -> Host {
    with_roles(profile, limits, RolesConfig::default()).await
}

async fn with_roles(profile: Profile, limits: Limits, roles: RolesConfig) -> Host {
    configured(ServiceConfig { limits, ..ServiceConfig::new("us-east-1", profile) }, roles).await
}

/// A host with these settings.
pub(crate) async fn configured(config: ServiceConfig, roles: RolesConfig) -> Host {
    furnished(config, roles, ArtifactConfig::default()).await
}

/// A host with these settings, and these sources of artifacts.
async fn furnished(config: ServiceConfig, roles: RolesConfig, artifacts: ArtifactConfig) -> Host {
    let (daemon, builder) = Daemon::new(settings());
    let bases = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let driver = DriverConfig {
        max_memory_mib: config.limits.memory_mib,
        rules: Rules::default(),
        retention: Duration::from_secs(86_400),
        drain: Duration::ZERO,
        deadlines: Deadlines::default(),
    };
    builder.host.always(Point::Launch, Deviation::Fails("there are no processes here"));
    let platform = Arc::new(builder.host.clone());
    let microvms = Microvms::new(
        driver,
        Capacity::new(1 << 20),
        daemon.db.clone(),
        clock,
        platform,
        Arc::new(NoObserver),
        Faults::none(),
    );
    let tokens = Tokens::open(&daemon.db, clock, "us-east-1").await.unwrap();
    let (outside, host) = Outside::new(daemon.events.clone(), clock);
    let parts = Parts {
        disk: Disk::of(bases.path(), DiskConfig { reserve_mib: Some(0) }, config.limits.disk_mib).unwrap(),
        db: daemon.db.clone(),
        clock,
        microvms,
        images: daemon.images.clone(),
        artifacts,
        bases: Catalogue::open(bases.path()).unwrap(),
        tokens: tokens.clone(),
        roles: Arc::new(RoleProvider::new(roles).unwrap()),
        host,
        observer: Arc::new(outside.observed.clone()),
        config,
    };
    let caller = caller(ACCOUNT, [Policy::everything()].into());
    let service = Service::new(parts).await.unwrap();
    let host = Host { daemon, service, caller, tokens, clock, outside, bases };
    host.build("demo").await;
    host
}

pub(crate) fn caller(account: &str, policies: Arc<[Policy]>) -> Caller {
    let principal = "key".into();
    Caller { account: account.into(), principal, policies, role: None, request_id: "id".into() }
}

fn arn(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:{ACCOUNT}:microvm-image:{name}")
}

fn connector(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:{name}")
}

impl Host {
    /// Builds the first or the next version of an image.
    async fn build(&self, name: &str) {
        let uri = "s3://bucket/app.zip";
        match self.daemon.image(name) {
            None => self.daemon.create(name, uri).await,
            Some(_) => self.daemon.update(name, uri).await,
        };
        self.daemon.idle().await;
    }

    /// Changes the configuration of a stored version.
    async fn configure(&self, name: &str, number: u32, change: impl FnOnce(&mut proto::MicrovmImageVersion)) {
        let mut version = self.daemon.version(name, number).unwrap();
        change(version.version.as_mut().unwrap());
        let key = crate::records::version(ACCOUNT, name, number);
        let batch = crate::store::Batch::new().put(Table::Versions, key, crate::records::encode(&version));
        self.daemon.db.commit(batch).await.unwrap();
    }

    async fn run(&self, request: proto::RunMicrovmRequest) -> Result<proto::Microvm, ServiceError> {
        self.service.call_as(&self.caller, request).await
    }

    /// Stores a microVM in this state and returns its id.
    async fn microvm(&self, id: &str, state: proto::MicrovmState, ingress: &[&str]) -> String {
        let started = self.clock.timestamp();
        self.stored(id, "demo", 1, started, state, ingress).await
    }

    async fn stored(
        &self,
        id: &str,
        image: &str,
        version: u32,
        started: prost_types::Timestamp,
        state: proto::MicrovmState,
        ingress: &[&str],
    ) -> String {
        let id = format!("microvm-{id}");
        let microvm = proto::Microvm {
            microvm_id: id.clone(),
            state: state.into(),
            endpoint: format!("{id}.example"),
            image_arn: arn(image),
            image_version: format!("{version}.0"),
            started_at: Some(started),
            ingress_network_connectors: ingress.iter().map(|name| connector(name)).collect(),
            ..Default::default()
        };
        let terminated = state == proto::MicrovmState::Terminated;
        let record = MicrovmRecord {
            account: ACCOUNT.into(),
            microvm: Some(microvm),
            phase: if terminated { Phase::Terminated } else { Phase::Running }.into(),
            image_name: image.into(),
            build_id: "none".into(),
            memory_mib: 2048,
            version_number: version,
            ..Default::default()
        };
        self.daemon.db.commit(record::insert(&record)).await.unwrap();
        id
    }
}

fn request(image: &str) -> proto::RunMicrovmRequest {
    proto::RunMicrovmRequest { image_identifier: Some(image.into()), ..Default::default() }
}
