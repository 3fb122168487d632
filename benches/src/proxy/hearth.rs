//! Hearth's proxy in this process. Its one microVM is a double: connections to its app lead to a server on this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hearth_hostd::clock::Clock;
use hearth_hostd::driver::context::NoObserver;
use hearth_hostd::driver::deadlines::Deadlines;
use hearth_hostd::driver::faults::Faults;
use hearth_hostd::driver::gate::WaitLimits;
use hearth_hostd::driver::{Capacity, DriverConfig, Microvms};
use hearth_hostd::lifecycle::microvm::Rules;
use hearth_hostd::metrics::Metrics;
use hearth_hostd::platform::double::Double;
use hearth_hostd::proxy::shares::config::EndpointConnections;
use hearth_hostd::proxy::{Proxy, Settings};
use hearth_hostd::records;
use hearth_hostd::store::{Batch, Db, MemoryStore, Store, Table};
use hearth_hostd::tokens::{Grant, Kind, Tokens};
use hearth_proto::microvms::v1::{Microvm, MicrovmState};
use hearth_proto::store::v1::{ArtifactRecord, MicrovmRecord, Phase};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::WORKERS;
use crate::certificate::Certificate;

/// Domain of the endpoints' names.
pub(crate) const DOMAIN: &str = "microvms.bench.localhost";
/// Name of the only endpoint.
pub(crate) const NAME: &str = "one.microvms.bench.localhost";
const MICROVM: &str = "microvm-1";
const BUILD: &str = "b-1";
/// The port of requests that name none.
const PORT: u16 = 8080;
const MEMORY_MIB: u32 = 512;
/// A duration that is longer than any run.
const LONG: Duration = Duration::from_secs(3600);

/// The proxy, which stops when this is dropped.
pub(crate) struct Hearth {
    /// Address on which the proxy listens.
    pub(crate) address: SocketAddr,
    /// Token for the endpoint of its microVM.
    pub(crate) token: String,
    _end: watch::Sender<bool>,
}

impl Hearth {
    /// Starts the proxy on a runtime. Its app is the server at `app`.
    pub(crate) async fn start(runtime: &Handle, app: SocketAddr, certificate: &Certificate) -> Result<Self> {
        let tls = Arc::new(certificate.server()?);
        runtime.spawn(start(app, tls)).await.context("starting Hearth's proxy")?
    }
}

async fn start(app: SocketAddr, tls: Arc<rustls::ServerConfig>) -> Result<Hearth> {
    let db = Db::new(Arc::new(MemoryStore::default()) as Arc<dyn Store>);
    let clock = Clock::system();
    let config = DriverConfig {
        max_memory_mib: None,
        rules: Rules::default(),
        retention: LONG,
        drain: Duration::ZERO,
        deadlines: Deadlines::default(),
    };
    let platform = Double::direct();
    platform.world().ports.insert(PORT, app);
    let platform = Arc::new(platform);
    let capacity = Capacity::new(MEMORY_MIB.into());
    let microvms =
        Microvms::new(config, capacity, db.clone(), clock, platform, Arc::new(NoObserver), Faults::none());
    let artifact =
        records::encode(&ArtifactRecord { build_id: BUILD.to_owned(), ..ArtifactRecord::default() });
    db.commit(Batch::new().put(Table::Artifacts, records::artifact(BUILD), artifact)).await?;
    microvms.launch(record(clock), Batch::new()).await?;
    let tokens = Tokens::open(&db, clock, "us-east-1").await?;
    let token = tokens.mint(&Grant {
        microvm_id: MICROVM.to_owned(),
        endpoint: NAME.to_owned(),
        kind: Kind::Http,
        ports: vec![(PORT, PORT)],
        minutes: 60,
        maker: None,
    })?;
    let settings = Settings {
        domain: DOMAIN.to_owned(),
        wait_limits: WaitLimits { max_waiting: 1000, beyond_hook: LONG, launching: true },
        browser_login: false,
        forwarded_for: true,
        connections: EndpointConnections::default(),
        idle_connection: LONG,
        limited: false,
        threads: WORKERS,
    };
    let proxy = Proxy::new(microvms, tokens, Metrics::new(), settings);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening")?;
    let address = listener.local_addr().context("listening")?;
    let (end, ended) = watch::channel(false);
    proxy.serve(listener, tls, ended)?;
    Ok(Hearth { address, token, _end: end })
}

/// The record of a microVM that is about to be launched, and never idle.
fn record(clock: Clock) -> MicrovmRecord {
    let microvm = Microvm {
        microvm_id: MICROVM.to_owned(),
        endpoint: NAME.to_owned(),
        state: MicrovmState::Pending.into(),
        started_at: Some(clock.timestamp()),
        maximum_duration_in_seconds: 28_800,
        ..Microvm::default()
    };
    MicrovmRecord {
        account: "111122223333".to_owned(),
        microvm: Some(microvm),
        phase: Phase::Launching.into(),
        image_uid: "uid".to_owned(),
        build_id: BUILD.to_owned(),
        memory_mib: MEMORY_MIB,
        ..MicrovmRecord::default()
    }
}
