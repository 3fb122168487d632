//! Unix socket and TCP with TLS.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::sleep;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity as Pair, Server, ServerTlsConfig};
use tower::layer::util::{Identity, Stack};

use super::grpc::panics::EndsCalls;

/// How long clients have to take what is under way when the daemon ends.
const END: Duration = Duration::from_secs(5);

/// Where the API is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenConfig {
    /// The Unix socket; an empty string for none. Default: `hearthd.sock` in the run folder.
    pub socket: Option<PathBuf>,
    /// Permissions of the Unix socket, octal. Default `0600`: the daemon's user and root.
    pub socket_mode: String,
    /// Address and port for TCP, like `0.0.0.0:7437`. Everywhere but on loopback it needs a certificate and somebody who may
    /// call. Default none.
    pub address: Option<SocketAddr>,
    /// The certificate for TLS with its chain, PEM. Default none.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM. Default none.
    pub key: Option<PathBuf>,
    /// Authorities that sign client certificates, PEM: clients may show one then (mutual TLS). Default none.
    pub client_ca: Option<PathBuf>,
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
        }
    }
}

/// Why nobody can call.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Nowhere to listen.
    #[error("neither listen.socket nor listen.address is set: nobody could call")]
    Nowhere,
    /// No permissions.
    #[error("listen.socket_mode is \"{0}\": give octal permissions, like 0600 or 0660")]
    Mode(String),
    /// Half of a certificate.
    #[error("listen.certificate and listen.key belong together: give both")]
    HalfCertificate,
    /// Client certificates without TLS.
    #[error("listen.client_ca takes effect with TLS only: give listen.certificate and listen.key")]
    ClientCaWithoutTls,
    /// Anybody could read along, or be the server.
    #[error(
        "listen.address is {0}, which is not loopback, without TLS: give listen.certificate and listen.key (`hearthd init` makes them)"
    )]
    WithoutTls(SocketAddr),
    /// Nobody could call.
    #[error(
        "listen.address is {0}, and nobody is known: configure access.keys or access.certificates (`hearthd init` makes a key)"
    )]
    NobodyKnown(SocketAddr),
    /// Another daemon.
    #[error("somebody listens at {0} already: is another hearthd running?")]
    InUse(PathBuf),
    /// The socket's place is taken.
    #[error("{0} is no socket: move it away, or set listen.socket")]
    NoSocket(PathBuf),
    /// The system.
    #[error("{what} {place}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Where.
        place: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The server.
    #[error("{place}: {source}")]
    Server {
        /// Where.
        place: String,
        /// What happened.
        source: tonic::transport::Error,
    },
}

fn system(what: &'static str, place: impl ToString) -> impl FnOnce(io::Error) -> ListenError {
    let place = place.to_string();
    move |source| ListenError::System { what, place, source }
}

impl ListenConfig {
    /// Where the Unix socket is, if there is one; `run` is the run folder.
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

    /// What is wrong with it. `knows_somebody`: whether there are access keys or client certificates.
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

/// Bound, and not yet served.
#[derive(Debug)]
pub struct Listeners {
    socket: Option<(UnixListener, PathBuf)>,
    tcp: Option<(TcpListener, Option<ServerTlsConfig>)>,
}

impl Listeners {
    /// Binds everything that is configured, after checking it.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(config: &ListenConfig, run: &Path, knows_somebody: bool) -> Result<Self, ListenError> {
        config.check(knows_somebody)?;
        let socket = match config.socket(run) {
            None => None,
            Some(path) => Some((bind_socket(&path, config.mode()?).await?, path)),
        };
        let tcp = match config.address {
            None => None,
            Some(address) => {
                let listener = TcpListener::bind(address).await.map_err(system("listening at", address))?;
                Some((listener, tls(config)?))
            }
        };
        Ok(Self { socket, tcp })
    }

    /// The address that TCP is bound to.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Serves `routes` until `end` is done, and then what is under way.
    ///
    /// # Errors
    /// [`ListenError::Server`].
    pub async fn serve(
        self,
        routes: Routes,
        end: tokio::sync::watch::Receiver<bool>,
    ) -> Result<(), ListenError> {
        let ended = |mut end: tokio::sync::watch::Receiver<bool>| async move {
            let _ = end.wait_for(|end| *end).await; // whoever would tell is gone: it ends, too
        };
        let socket = async {
            let Some((listener, path)) = self.socket else { return Ok(()) };
            let server = server().add_routes(routes.clone());
            let incoming = UnixListenerStream::new(listener);
            let served = server.serve_with_incoming_shutdown(incoming, ended(end.clone())).await;
            let _ = fs::remove_file(&path); // a stale one is removed by the next daemon
            served.map_err(|source| ListenError::Server { place: path.display().to_string(), source })
        };
        let tcp = async {
            let Some((listener, tls)) = self.tcp else { return Ok(()) };
            let place = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
            let failed = |source| ListenError::Server { place: place.clone(), source };
            let mut server = server();
            if let Some(tls) = tls {
                server = server.tls_config(tls).map_err(failed)?;
            }
            let incoming = TcpListenerStream::new(listener);
            let served =
                server.add_routes(routes.clone()).serve_with_incoming_shutdown(incoming, ended(end.clone()));
            served.await.map_err(failed)
        };
        let late = async {
            ended(end.clone()).await;
            sleep(END).await;
        };
        tokio::select! {
            served = async { tokio::try_join!(socket, tcp) } => served.map(drop),
            () = late => {
                tracing::warn!("closing connections of clients that have not gone by themselves");
                Ok(())
            }
        }
    }
}

/// Bounds that a client cannot exceed.
fn server() -> Server<Stack<EndsCalls, Identity>> {
    Server::builder()
        .tcp_nodelay(true)
        .concurrency_limit_per_connection(1024)
        .max_concurrent_streams(1024)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .layer(EndsCalls)
}

fn tls(config: &ListenConfig) -> Result<Option<ServerTlsConfig>, ListenError> {
    let Some((certificate, key)) = config.tls() else { return Ok(None) };
    let read = |path: &Path| fs::read(path).map_err(system("reading", path.display()));
    let mut tls = ServerTlsConfig::new().identity(Pair::from_pem(read(certificate)?, read(key)?));
    if let Some(authorities) = &config.client_ca {
        // Without a certificate, an access key may come.
        tls = tls.client_ca_root(Certificate::from_pem(read(authorities)?)).client_auth_optional(true);
    }
    Ok(Some(tls))
}

/// Takes the place of a socket that nobody listens at any more.
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
    // Bound under another name, so that nobody connects before it has its permissions.
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new); // left by a daemon that was killed here
    let listener = UnixListener::bind(&new).map_err(system("listening at", path.display()))?;
    fs::set_permissions(&new, Permissions::from_mode(mode)).map_err(system("restricting", path.display()))?;
    fs::rename(&new, path).map_err(system("naming", path.display()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_go_holds_up_the_end_for_a_moment_only() {
        let folder = tempfile::tempdir().unwrap();
        let listeners = Listeners::bind(&ListenConfig::default(), folder.path(), true).await.unwrap();
        let (end, ended) = tokio::sync::watch::channel(false);
        let serving = tokio::spawn(listeners.serve(Routes::default(), ended));
        let mut client = tokio::net::UnixStream::connect(folder.path().join("hearthd.sock")).await.unwrap();
        // It opens an HTTP/2 connection, and never again does or reads anything.
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        client.read_u8().await.unwrap();
        let start = tokio::time::Instant::now();
        end.send(true).unwrap();
        serving.await.unwrap().unwrap();
        assert!(start.elapsed() < 2 * END, "{:?}", start.elapsed());
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
