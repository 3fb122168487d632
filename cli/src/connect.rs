//! The connection to the daemon.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_proto::host::v1::HostStatus;
use hearth_proto::host::v1::host_service_client::HostServiceClient;
use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use tokio::sync::OnceCell;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Failure, chain};
use crate::settings::{Endpoint, Settings};

/// Timeout for opening a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Interval of keep-alive pings on an idle connection, and the timeout for their answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Largest response in bytes: a page of ten thousand log lines.
const MAX_ANSWER: usize = 256 << 20;

type Authorized = InterceptedService<Channel, Authorization>;

/// The daemon's services.
#[derive(Clone)]
pub(crate) struct Client {
    microvms: MicrovmServiceClient<Authorized>,
    host: HostServiceClient<Authorized>,
    endpoint: Endpoint,
    timeout: Duration,
    pub(crate) status: OnceCell<HostStatus>,
}

/// Adds the caller's credentials to each request.
#[derive(Clone)]
pub(crate) struct Authorization(Option<MetadataValue<Ascii>>);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl Client {
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let name = settings.endpoint.as_str();
        let unusable = |error: tonic::transport::Error| {
            Failure::usage(format!("the endpoint {name} cannot be used: {}", chain(&error)))
        };
        let mut endpoint = tonic::transport::Endpoint::from_shared(name.to_owned())
            .and_then(|endpoint| endpoint.user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION"))))
            .map_err(unusable)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        if matches!(settings.endpoint, Endpoint::Tls(_)) {
            endpoint = endpoint.tls_config(tls(settings)?).map_err(unusable)?;
        }
        let channel = endpoint.connect().await.map_err(|error| refused(&settings.endpoint, &error))?;
        let authorization = authorization(settings)?;
        let host = HostServiceClient::with_interceptor(channel.clone(), authorization.clone());
        let microvms = MicrovmServiceClient::with_interceptor(channel, authorization);
        Ok(Self {
            microvms: microvms.max_decoding_message_size(MAX_ANSWER),
            host: host.max_decoding_message_size(MAX_ANSWER),
            endpoint: settings.endpoint.clone(),
            timeout: settings.timeout,
            status: OnceCell::new(),
        })
    }

    pub(crate) fn microvms(&self) -> MicrovmServiceClient<Authorized> {
        self.microvms.clone()
    }

    pub(crate) fn host(&self) -> HostServiceClient<Authorized> {
        self.host.clone()
    }

    /// Name or address of the daemon's machine, if it is reached over a network.
    pub(crate) fn daemon_host(&self) -> Option<&str> {
        self.endpoint.remote_host()
    }

    /// The response to a request, within the timeout. `what` completes "cannot …" in errors.
    pub(crate) async fn call<T>(
        &self,
        what: impl Into<String>,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let late = || Status::deadline_exceeded(format!("no answer within {} s", self.timeout.as_secs()));
        let answer = tokio::time::timeout(self.timeout, answer).await.unwrap_or_else(|_| Err(late()));
        answer.map(Response::into_inner).map_err(|status| self.failure(what, status))
    }

    /// The next message of a stream, without a timeout.
    pub(crate) async fn next<T>(&self, what: &str, stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
        stream.message().await.map_err(|status| self.failure(what, status))
    }

    pub(crate) fn failure(&self, what: impl Into<String>, status: Status) -> Failure {
        Failure::answer(what, self.endpoint.as_str(), status)
    }
}

fn authorization(settings: &Settings) -> Result<Authorization, Failure> {
    let Some((id, secret)) = &settings.credentials else { return Ok(Authorization(None)) };
    let encoded = STANDARD.encode(format!("{id}:{}", secret.0));
    let mut value: MetadataValue<Ascii> = format!("Basic {encoded}")
        .parse()
        .map_err(|_| Failure::usage("the access key has characters that cannot be sent"))?;
    value.set_sensitive(true);
    Ok(Authorization(Some(value)))
}

fn tls(settings: &Settings) -> Result<ClientTlsConfig, Failure> {
    let mut tls = ClientTlsConfig::new();
    tls = match &settings.ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &settings.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}

fn refused(endpoint: &Endpoint, error: &tonic::transport::Error) -> Failure {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut kind = None;
    while let Some(error) = next {
        kind = error.downcast_ref::<io::Error>().map(io::Error::kind).or(kind);
        next = error.source();
    }
    let why = chain(error);
    let remedy = match kind {
        Some(io::ErrorKind::PermissionDenied) => "become root or a member of the socket's group",
        _ if why.contains("certificate") => {
            "name the authority of its certificate with --ca FILE (HEARTH_CA)"
        }
        _ if matches!(endpoint, Endpoint::Unix(_)) => {
            "start hearthd (systemctl start hearthd), or name another with --endpoint (HEARTH_ENDPOINT)"
        }
        _ => "look whether hearthd listens there, or name another with --endpoint (HEARTH_ENDPOINT)",
    };
    Failure::NoConnection(format!("cannot connect to {}: {why}; {remedy}", endpoint.as_str()))
}
