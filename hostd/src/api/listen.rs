//! Listeners of the API: a Unix socket, and TCP with TLS.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tonic::service::Routes;

use super::connections::config::ConnectionLimits;
use super::connections::{Client, Connections};
use super::grpc;
use super::tls::{Tls, TlsError, TlsFiles};
use crate::clock::Clock;

/// Application protocols: gRPC is HTTP/2.
const PROTOCOLS: &[&[u8]] = &[b"h2"];

/// Where requests come in. Whoever may use the Unix socket may do everything; over TCP, an access key or a client's
/// certificate is needed. An address that is not a loopback one needs certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenConfig {
    /// Unix socket; `hearthd.sock` in `run` unless given, `""` for none.
    pub socket: Option<PathBuf>,
    /// Permissions of the Unix socket, octal.
    pub socket_mode: String,
    /// `"ADDRESS:PORT"` for requests over TCP; none unless given.
    pub address: Option<SocketAddr>,
    /// PEM file with the daemon's certificate, then those of intermediate authorities; read again when it changes.
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's key; nobody but root may read it.
    pub key: Option<PathBuf>,
    /// PEM file with authorities of clients, which may show a certificate of theirs then (`[[access.certificates]]`).
    pub client_ca: Option<PathBuf>,
    /// What connections may take up.
    pub connections: ConnectionLimits,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            socket: None,
            socket_mode: "0600".into(),
            address: None,
            certificate: None,
            key: None,
            client_ca: None,
            connections: ConnectionLimits::default(),
        }
    }
}

/// The reason why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Neither a Unix socket nor a TCP address is configured.
    #[error("neither listen.socket nor listen.address is set: nobody could call")]
    Nowhere,
    /// The permissions of the socket are not octal.
    #[error("listen.socket_mode is \"{0}\": give octal permissions, like 0600 or 0660")]
    Mode(String),
    /// A certificate without key, or a key without certificate.
    #[error("listen.certificate and listen.key belong together: give both")]
    HalfCertificate,
    /// An authority for client certificates is configured without TLS.
    #[error("listen.client_ca takes effect with TLS only: give listen.certificate and listen.key")]
    ClientCaWithoutTls,
    /// The address is not loopback and has no TLS: others could read the traffic, or impersonate the server.
    #[error(
        "listen.address is {0}, which is not loopback, without TLS: give listen.certificate and listen.key (`hearthd init` makes them)"
    )]
    WithoutTls(SocketAddr),
    /// Neither an access key nor a client certificate is configured, so nobody could call over TCP.
    #[error(
        "listen.address is {0}, and nobody is known: configure access.keys or access.certificates (`hearthd init` makes a key)"
    )]
    NobodyKnown(SocketAddr),
    /// Another process, probably a daemon, listens at the socket.
    #[error("somebody listens at {0} already: is another hearthd running?")]
    InUse(PathBuf),
    /// The path of the socket is occupied by another kind of file.
    #[error("{0} is no socket: move it away, or set listen.socket")]
    NoSocket(PathBuf),
    /// A system call has failed.
    #[error("{what} {place}: {source}")]
    System {
        /// The action that failed.
        what: &'static str,
        /// The address or path that the action concerned.
        place: String,
        /// The system's error.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn system(what: &'static str, place: impl ToString) -> impl FnOnce(io::Error) -> ListenError {
    let place = place.to_string();
    move |source| ListenError::System { what, place, source }
}

impl ListenConfig {
    /// Path of the Unix socket, if there is one; `run` is the run folder.
    #[must_use]
    pub fn socket(&self, run: &Path) -> Option<PathBuf> {
        match &self.socket {
            None => Some(run.join("hearthd.sock")),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(path.clone()),
        }
    }

    fn tls(&self) -> Option<(&Path, &Path)> {
        Some((self.certificate.as_deref()?, self.key.as_deref()?))
    }

    fn mode(&self) -> Result<u32, ListenError> {
        let mode = u32::from_str_radix(&self.socket_mode, 8).ok().filter(|mode| *mode <= 0o777);
        mode.ok_or_else(|| ListenError::Mode(self.socket_mode.clone()))
    }

    /// Checks the configuration. `knows_somebody`: whether there are access keys or client certificates.
    ///
    /// # Errors
    /// [`ListenError`]
    pub fn check(&self, knows_somebody: bool) -> Result<(), ListenError> {
        self.mode()?;
        if self.socket.as_ref().is_some_and(|path| path.as_os_str().is_empty()) && self.address.is_none() {
            return Err(ListenError::Nowhere);
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(ListenError::HalfCertificate);
        }
        if self.client_ca.is_some() && self.tls().is_none() {
            return Err(ListenError::ClientCaWithoutTls);
        }
        let Some(address) = self.address else { return Ok(()) };
        if !address.ip().is_loopback() && self.tls().is_none() {
            return Err(ListenError::WithoutTls(address));
        }
        match knows_somebody {
            true => Ok(()),
            false => Err(ListenError::NobodyKnown(address)),
        }
    }
}

/// Listeners that are bound but not yet served.
#[derive(Debug)]
pub struct Listeners {
    socket: Option<(UnixListener, PathBuf)>,
    tcp: Option<(TcpListener, Option<Tls>)>,
    limits: ConnectionLimits,
}

impl Listeners {
    /// Checks the configuration and binds everything that is configured.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(
        config: &ListenConfig,
        run: &Path,
        knows_somebody: bool,
        clock: Clock,
    ) -> Result<Self, ListenError> {
        config.check(knows_somebody)?;
        let socket = match config.socket(run) {
            None => None,
            Some(path) => Some((bind_socket(&path, config.mode()?).await?, path)),
        };
        let tcp = match config.address {
            None => None,
            Some(address) => {
                let listener = TcpListener::bind(address).await.map_err(system("listening at", address))?;
                Some((listener, tls(config, clock)?))
            }
        };
        Ok(Self { socket, tcp, limits: config.connections.clone() })
    }

    /// The address that TCP is bound to.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Serves `routes` until `shutdown` becomes true, and then completes the calls in progress, for a limited time.
    pub async fn serve(self, routes: Routes, shutdown: tokio::sync::watch::Receiver<bool>) {
        let Self { socket, tcp, limits } = self;
        let routes = routes.prepare();
        let answer = move |client: &Client, request| grpc::answer(routes.clone(), client, request);
        let connections =
            |clients, tls| Connections { clients, limits: limits.clone(), http2_only: true, tls };
        let socket = async {
            let Some((listener, path)) = socket else { return };
            connections("of the socket", None).serve(listener, answer.clone(), shutdown.clone()).await;
            let _ = fs::remove_file(&path); // the next daemon removes it if this fails
        };
        let tcp = async {
            let Some((listener, tls)) = tcp else { return };
            connections("of the network", tls).serve(listener, answer.clone(), shutdown.clone()).await;
        };
        tokio::join!(socket, tcp);
    }
}

fn tls(config: &ListenConfig, clock: Clock) -> Result<Option<Tls>, TlsError> {
    let files = config.tls().map(|(certificate, key)| TlsFiles {
        section: "listen",
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        client_ca: config.client_ca.clone(),
        protocols: PROTOCOLS,
    });
    files.map(|files| Tls::open(files, clock)).transpose()
}

/// Binds a Unix socket, and replaces an old one at which no process listens any more.
async fn bind_socket(path: &Path, mode: u32) -> Result<UnixListener, ListenError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(system("making", folder.display()))?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(ListenError::InUse(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(system("removing the old socket", path.display()))?,
        Err(_) => {}
    }
    // The socket is bound under a temporary name, so that no client connects before it has its permissions.
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new); // may be left by a daemon that was killed here
    let listener = UnixListener::bind(&new).map_err(system("listening at", path.display()))?;
    fs::set_permissions(&new, Permissions::from_mode(mode)).map_err(system("restricting", path.display()))?;
    fs::rename(&new, path).map_err(system("naming", path.display()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> ListenConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn off_loopback_without_tls_or_anybody_known_is_refused() {
        let tls = "certificate = \"/c\"\nkey = \"/k\"\n";
        let open = "address = \"0.0.0.0:7437\"\n";
        let refused = |text: &str, known| config(text).check(known).unwrap_err().to_string();
        assert!(refused(open, true).contains("without TLS"));
        assert!(refused(&format!("{open}{tls}"), false).contains("nobody is known"));
        assert!(refused("address = \"127.0.0.1:7437\"", false).contains("nobody is known"));
        config(&format!("{open}{tls}")).check(true).unwrap();
        config("address = \"[::1]:7437\"").check(true).unwrap();
        config("").check(false).unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        for (text, key) in [
            ("socket = \"\"", "listen.socket"),
            ("socket_mode = \"rw\"", "listen.socket_mode"),
            ("socket_mode = \"1777\"", "listen.socket_mode"),
            ("certificate = \"/c\"", "listen.key"),
            ("client_ca = \"/c\"", "listen.client_ca"),
        ] {
            let error = config(text).check(true).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_used_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/d.sock");
        let first = bind_socket(&path, 0o600).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind_socket(&path, 0o600).await, Err(ListenError::InUse(_))));
        drop(first);
        bind_socket(&path, 0o660).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind_socket(&path, 0o600).await, Err(ListenError::NoSocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
