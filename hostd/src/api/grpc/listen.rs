//! Where the front end listens: a Unix socket, TCP with or without TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::access::AccessConfig;

/// How often a silent connection is asked whether it still is one, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why it does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket.
    #[error("cannot listen on {place}: {error}")]
    Socket {
        /// Where.
        place: String,
        /// What happened.
        error: io::Error,
    },
    /// Another process has the socket.
    #[error("cannot listen on {0}: another process does; is another hearthd running?")]
    InUse(PathBuf),
    /// A certificate or key.
    #[error("cannot read {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// TLS, or a connection.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A listener that is bound and does not serve yet.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// TCP.
    Tcp(TcpListener, Option<Box<ServerTlsConfig>>),
}

impl Listener {
    /// A Unix socket that those may use whom `mode` says. One that nobody listens on any more is replaced.
    ///
    /// # Errors
    ///
    /// [`ListenError`].
    pub async fn unix(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let socket = |error| ListenError::Socket { place: path.display().to_string(), error };
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(ListenError::InUse(path.to_path_buf()));
            }
            std::fs::remove_file(path).map_err(socket)?;
        }
        let listener = UnixListener::bind(path).map_err(socket)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(socket)?;
        Ok(Self::Unix(listener))
    }

    /// TCP, with TLS where it is configured. Whether that is safe is [`AccessConfig::check`]'s to say.
    ///
    /// # Errors
    ///
    /// [`ListenError`].
    pub async fn tcp(address: SocketAddr, access: &AccessConfig) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.map_err(|error| ListenError::Socket { place: address.to_string(), error })?;
        Ok(Self::Tcp(listener, tls(access)?.map(Box::new)))
    }

    /// Its address, if it is TCP.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener, _) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Serves until `stop`; calls that have begun are answered.
    ///
    /// # Errors
    ///
    /// [`ListenError::Transport`].
    pub async fn serve(self, routes: Routes, stop: impl Future<Output = ()>) -> Result<(), ListenError> {
        let router = |server: Server| -> Router {
            server.http2_keepalive_interval(Some(KEEP_ALIVE)).http2_keepalive_timeout(Some(KEEP_ALIVE)).add_routes(routes)
        };
        match self {
            Self::Unix(listener) => {
                let incoming = UnixListenerStream::new(listener);
                router(Server::builder()).serve_with_incoming_shutdown(incoming, stop).await?;
            }
            Self::Tcp(listener, tls) => {
                let mut server = Server::builder();
                if let Some(tls) = tls {
                    server = server.tls_config(*tls)?;
                }
                let incoming = TcpListenerStream::new(listener);
                router(server).serve_with_incoming_shutdown(incoming, stop).await?;
            }
        }
        Ok(())
    }
}

fn tls(access: &AccessConfig) -> Result<Option<ServerTlsConfig>, ListenError> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| ListenError::File { path: path.clone(), error });
    let (Some(cert), Some(key)) = (&access.tls_cert, &access.tls_key) else { return Ok(None) };
    let mut config = ServerTlsConfig::new().identity(Identity::from_pem(read(cert)?, read(key)?));
    if let Some(ca) = &access.client_ca {
        config = config.client_ca_root(Certificate::from_pem(read(ca)?));
    }
    Ok(Some(config))
}
