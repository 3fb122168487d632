//! Endpoints with real clients on real sockets; the apps are servers of this process.

pub(super) mod app;
mod clients;
mod errors;
mod gone;
mod hooks;
mod pipes;
mod shares;
mod shells;
mod speaks;
mod stress;
mod traffic;
mod wake;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_model::hooks::Hook;
use hearth_proto::microvms::v1::{Hooks, IdlePolicy, Microvm, MicrovmState};
use hearth_proto::store::v1::{ArtifactRecord, MicrovmRecord, Phase};
use http_body_util::{BodyExt as _, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::shares::Shares;
use super::shares::config::EndpointConnections;
use super::{Proxy, Settings};
use crate::audit::shells::ShellAudit;
use crate::audit::{Audit, AuditConfig};
use crate::clock::Clock;
use crate::driver::context::NoObserver;
use crate::driver::deadlines::Deadlines;
use crate::driver::faults::Faults;
use crate::driver::gate::WaitLimits;
use crate::driver::{Capacity, DriverConfig, Microvms};
use crate::lifecycle::microvm::{Request as Ask, Rules};
use crate::metrics::Metrics;
use crate::platform::double::{Deviation, Double, Point};
use crate::records;
use crate::store::{Batch, Db, MemoryStore, Store, Table};
use crate::tokens::{Grant, Kind, Tokens};
use app::App;

pub(super) const ACCOUNT: &str = "111122223333";
const BUILD: &str = "b-1";
pub(super) const DOMAIN: &str = "microvms.test.localhost";
/// Port at which the app serves hooks.
const HOOKS: u16 = 9000;
/// Timeout of the tests: long enough for everything that should happen, and short enough to fail in time.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// Options of a host.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) auto_resume: bool,
    pub(super) browser_login: bool,
    pub(super) held: usize,
    pub(super) limited: bool,
    pub(super) threads: usize,
    pub(super) connections: EndpointConnections,
    pub(super) idle: Duration,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            auto_resume: true,
            browser_login: false,
            held: 100,
            limited: false,
            threads: 2,
            connections: EndpointConnections::default(),
            // Longer than a test can take on a machine under load.
            idle: Duration::from_secs(3600),
        }
    }
}

impl Wish {
    pub(super) fn settings(self) -> Settings {
        Settings {
            domain: DOMAIN.to_owned(),
            wait_limits: WaitLimits { max_waiting: self.held, beyond_hook: LONG, launching: true },
            browser_login: self.browser_login,
            forwarded_for: true,
            connections: self.connections,
            idle_connection: self.idle,
            limited: self.limited,
            threads: self.threads,
        }
    }
}

/// A host with one microVM, `microvm-1`, whose app listens on port 8080.
pub(super) struct Host {
    pub(super) platform: Double,
    pub(super) microvms: Microvms,
    db: Db,
    pub(super) tokens: Tokens,
    pub(super) metrics: Metrics,
    shares: Arc<Shares>,
    pub(super) app: App,
    address: SocketAddr,
    roots: rustls::RootCertStore,
    certificate_pem: String,
    /// The audit log with its folder.
    audit: (Audit, tempfile::TempDir),
    _end: watch::Sender<bool>,
}

/// A certificate for names below the domain, also in PEM.
pub(super) fn certificate() -> (rustls::RootCertStore, rustls::ServerConfig, String) {
    let names = vec![format!("*.{DOMAIN}"), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (roots, config, made.cert.pem())
}

impl Host {
    pub(super) async fn new() -> Self {
        Self::with(Wish::default()).await
    }

    pub(super) async fn with(wish: Wish) -> Self {
        let store = Arc::new(MemoryStore::default());
        let db = Db::direct(store as Arc<dyn Store>);
        let (clock, platform, app) = (Clock::system(), Double::default(), App::start().await);
        platform.world().ports.insert(8080, app.address);
        platform.world().ports.insert(HOOKS, app.address);
        let config = DriverConfig {
            max_memory_mib: None,
            rules: Rules::default(),
            retention: LONG,
            drain: LONG,
            deadlines: Deadlines::default(),
        };
        let shared = Arc::new(platform.clone());
        let microvms = Microvms::new(
            config,
            Capacity::new(4096),
            db.clone(),
            clock,
            shared,
            Arc::new(NoObserver),
            Faults::none(),
        );
        let artifact =
            records::encode(&ArtifactRecord { build_id: BUILD.into(), ..ArtifactRecord::default() });
        db.commit(Batch::new().put(Table::Artifacts, records::artifact(BUILD), artifact)).await.unwrap();
        microvms.launch(record("microvm-1", wish.auto_resume, clock), Batch::new()).await.unwrap();
        let tokens = Tokens::open(&db, clock, "us-east-1").await.unwrap();
        let settings = wish.settings();
        let metrics = Metrics::new();
        let log = tempfile::tempdir().unwrap();
        let audit = Audit::open(log.path(), AuditConfig::default(), clock).unwrap();
        let shells = ShellAudit::new(audit.clone(), "us-east-1".to_owned());
        let proxy =
            Proxy::new(microvms.clone(), tokens.clone(), metrics.clone(), settings).with_audit(shells);
        let shares = Arc::clone(&proxy.shares);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = watch::channel(false);
        let (roots, tls, certificate_pem) = certificate();
        proxy.serve(listener, Arc::new(tls), ended).unwrap();
        let host = Self {
            platform,
            microvms,
            db,
            tokens,
            metrics,
            shares,
            app,
            address,
            roots,
            certificate_pem,
            audit: (audit, log),
            _end: end,
        };
        host.until(MicrovmState::Running).await;
        host
    }

    /// Launches another microVM, whose endpoint has this name below the domain; `account`: unless it is the usual one.
    pub(super) async fn launch(&self, id: &str, name: &str, account: Option<&str>) {
        let mut record = record(id, true, Clock::system());
        record.memory_mib = 16;
        record.account = account.unwrap_or(ACCOUNT).to_owned();
        record.microvm.as_mut().unwrap().endpoint = format!("{name}.{DOMAIN}");
        self.microvms.launch(record, Batch::new()).await.unwrap();
    }

    pub(super) fn name() -> String {
        format!("one.{DOMAIN}")
    }

    pub(super) fn grant() -> Grant {
        Grant {
            microvm_id: "microvm-1".into(),
            endpoint: Self::name(),
            kind: Kind::Http,
            ports: vec![(8000, 9999)],
            minutes: 60,
            maker: None,
        }
    }

    pub(super) fn token(&self) -> String {
        self.tokens.mint(&Self::grant()).unwrap()
    }

    pub(super) async fn ask(&self, ask: Ask) {
        self.microvms.request(ACCOUNT, "microvm-1", ask).await.unwrap();
    }

    pub(super) fn state(&self) -> MicrovmState {
        let record: Option<MicrovmRecord> =
            self.db.get(Table::Microvms, &records::microvm(ACCOUNT, "microvm-1")).unwrap();
        record.unwrap().microvm.unwrap().state()
    }

    /// Waits until clients see the microVM in a state.
    pub(super) async fn until(&self, state: MicrovmState) {
        self.when(|host| host.state() == state).await;
    }

    /// Waits until a condition holds.
    async fn when(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.expect("it does not happen");
    }

    /// The operations that the host was asked to perform, in order.
    fn operations(&self) -> Vec<Point> {
        self.platform.world().requests.iter().map(|(point, _)| *point).collect()
    }

    async fn tls(&self, server_name: &str, protocol: &[u8]) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn http1(&self) -> Http1 {
        self.http1_to(&Self::name()).await
    }

    async fn http2(&self) -> Http2 {
        self.http2_to(&Self::name()).await
    }

    async fn http1_to(&self, name: &str) -> Http1 {
        let stream = self.tls(name, b"http/1.1").await;
        let mut builder = hyper::client::conn::http1::Builder::new();
        let (sender, connection) = builder.max_headers(2000).handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Http1(sender)
    }

    async fn http2_to(&self, name: &str) -> Http2 {
        let stream = self.tls(name, b"h2").await;
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(4 << 20).initial_connection_window_size(4 << 20);
        builder.max_header_list_size(1 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Http2(sender)
    }

    /// A request with a token.
    fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", Self::name()))
            .header("host", Self::name())
            .header("x-aws-proxy-auth", self.token())
            .body(body)
            .unwrap()
    }

    fn get(&self, path: &str) -> Request<Body> {
        self.request("GET", path, nothing())
    }
}

fn record(id: &str, auto_resume: bool, clock: Clock) -> MicrovmRecord {
    let microvm = Microvm {
        microvm_id: id.to_owned(),
        endpoint: Host::name(),
        state: MicrovmState::Pending.into(),
        started_at: Some(clock.timestamp()),
        maximum_duration_in_seconds: 28_800,
        idle_policy: Some(IdlePolicy {
            max_idle_duration_seconds: Some(900),
            suspended_duration_seconds: Some(1800),
            auto_resume_enabled: Some(auto_resume),
        }),
        ..Microvm::default()
    };
    MicrovmRecord {
        account: ACCOUNT.to_owned(),
        microvm: Some(microvm),
        phase: Phase::Launching.into(),
        image_uid: "uid".to_owned(),
        build_id: BUILD.to_owned(),
        memory_mib: 512,
        hooks: Some(Hooks { port: Some(HOOKS.into()), ..Hooks::default() }),
        ..MicrovmRecord::default()
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

struct Http1(hyper::client::conn::http1::SendRequest<Body>);

impl Http1 {
    async fn send(&mut self, mut request: Request<Body>) -> Response<Incoming> {
        *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
        self.0.ready().await.unwrap();
        self.0.send_request(request).await.unwrap()
    }
}

#[derive(Clone)]
struct Http2(hyper::client::conn::http2::SendRequest<Body>);

impl Http2 {
    async fn send(&mut self, mut request: Request<Body>) -> Response<Incoming> {
        request.headers_mut().remove("host");
        self.0.send_request(request).await.unwrap()
    }
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Status, error code and text of a response that the endpoint has made itself.
async fn refusal(response: Response<Incoming>) -> (u16, String, String) {
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert!(header("x-amzn-requestid").is_some_and(|id| id.len() == 36), "{response:?}");
    assert_eq!(header("cache-control").as_deref(), Some("private, no-store"), "{response:?}");
    (response.status().as_u16(), header("x-aws-proxy-error").unwrap(), text(response).await)
}
