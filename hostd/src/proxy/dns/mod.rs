//! DNS server for the endpoints' domain, over UDP and TCP. It serves clients that do not resolve `*.localhost` by
//! themselves, and custom domains that are delegated to this host. It answers only for this domain, and never queries
//! other servers.
//!
//! * [`zone`] – queries and responses, independent of the network
//! * [`challenges`] – values that an ACME authority queries

pub mod challenges;
#[cfg(test)]
mod tests;
pub mod zone;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use self::challenges::Challenges;
use self::zone::{Transport, Zone};
use super::config::EndpointConfig;
use crate::panics;

/// Greatest size of a query, in bytes; a longer message is not a valid query.
const MAX_QUERY: usize = 4096;
/// Greatest number of TCP connections; others wait.
const CONNECTIONS: usize = 64;
/// Timeout of a TCP connection, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after an error of the system, which may be temporary.
const PAUSE: Duration = Duration::from_secs(1);

/// The reason why the DNS server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The domain is not a valid DNS name.
    #[error("endpoint.domain is {0:?}, which is no DNS name")]
    Domain(String),
    /// There is no address to answer with.
    #[error("endpoint.dns_answer: write the addresses that clients reach this host at")]
    NoAnswer,
    /// The address cannot be bound.
    #[error("cannot answer DNS at {address} (endpoint.dns): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// A DNS server for the domain, bound but not yet serving.
#[derive(Debug)]
pub struct Dns {
    udp: UdpSocket,
    tcp: TcpListener,
    zone: Arc<Zone>,
}

impl Dns {
    /// Binds a server for `domain` and names below it, as configured; `None` if it is disabled. `challenges` are those of
    /// [`Tls`](super::tls::Tls::challenges).
    ///
    /// # Errors
    /// [`DnsError`]
    pub async fn bind(
        config: &EndpointConfig,
        domain: &str,
        challenges: Challenges,
    ) -> Result<Option<Self>, DnsError> {
        let Some(address) = config.dns.filter(|_| config.enabled) else { return Ok(None) };
        let answers = config.answers();
        if answers.is_empty() {
            return Err(DnsError::NoAnswer);
        }
        let zone =
            Zone::new(domain, &answers, challenges).ok_or_else(|| DnsError::Domain(domain.to_owned()))?;
        let failed = |source| DnsError::Bind { address, source };
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let udp = UdpSocket::bind(tcp.local_addr().map_err(failed)?).await.map_err(failed)?;
        Ok(Some(Self { udp, tcp, zone: Arc::new(zone) }))
    }

    /// The address that the server is bound to.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves until the future is dropped, which also closes all connections.
    pub async fn serve(self) {
        tokio::join!(datagrams(&self.udp, &self.zone), connections(&self.tcp, &self.zone));
    }
}

async fn datagrams(socket: &UdpSocket, zone: &Zone) {
    let mut query = vec![0; MAX_QUERY];
    loop {
        match socket.recv_from(&mut query).await {
            Ok((length, client)) => {
                let question = query.get(..length).unwrap_or_default();
                let answer = panics::catch(|| zone.answer(question, Transport::Udp)).ok().flatten();
                if let Some(answer) = answer
                    && let Err(error) = socket.send_to(&answer, client).await
                {
                    tracing::debug!(%error, %client, "an answer of DNS cannot be sent");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "questions of DNS cannot be read");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connections(listener: &TcpListener, zone: &Arc<Zone>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let zone = Arc::clone(zone);
                connections.spawn(panics::request(async move {
                    if let Ok(Err(error)) =
                        tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, &zone)).await
                    {
                        tracing::debug!(%error, "a connection for DNS has ended");
                    }
                    drop(slot);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for DNS cannot be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one connection: messages, each prefixed by its length (RFC 1035, 4.2.2), one after the other.
async fn connection(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    let mut query = vec![0; MAX_QUERY];
    loop {
        let length = match stream.read_u16().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            length => usize::from(length?),
        };
        let Some(query) = query.get_mut(..length) else { return Ok(()) };
        stream.read_exact(query).await?;
        let Some(answer) = zone.answer(query, Transport::Tcp) else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        stream.write_all(&[length.to_be_bytes().as_slice(), &answer].concat()).await?;
    }
}
