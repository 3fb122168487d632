//! The threads that serve connections.
//!
//! Each thread has a runtime of its own. A connection stays on the thread that it was assigned to, with its requests
//! and its connections to apps. If tasks move between threads, HTTP/2 loses a third of its requests per second
//! (docs/performance.md).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Proxy;
use super::connection::Connections;
use super::peer::{Open, Places};
use super::request::Requests;
use super::socket;
use crate::api::connections::Peer;
use crate::api::connections::peers::Peers;
use crate::api::connections::unknown::Unknown;
use crate::metrics::Metrics;
use crate::panics;
use crate::turns::BLOCKING_THREADS;

/// Pause after the system has run out of resources for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Time that connections have to finish when the daemon shuts down.
const END: Duration = Duration::from_secs(5);

/// A connection that no thread serves yet.
struct Accepted {
    stream: std::net::TcpStream,
    address: SocketAddr,
    places: Places,
}

/// A thread, as the acceptor sees it.
struct Thread {
    accepted: mpsc::UnboundedSender<Accepted>,
    /// Number of connections of the thread.
    open: Arc<AtomicUsize>,
    /// Resolves when the thread has ended.
    ended: oneshot::Receiver<()>,
}

impl Proxy {
    /// Serves connections until `shutdown` becomes true; open connections have a moment to finish then.
    ///
    /// # Errors
    /// The socket's options cannot be set, or a thread cannot be started.
    pub fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: watch::Receiver<bool>,
    ) -> io::Result<JoinHandle<()>> {
        let connections = self.settings.connections;
        socket::prepare(&listener, connections.keep_alive())?;
        let acceptor = TlsAcceptor::from(tls);
        let limits = Arc::default();
        let threads = (0..self.settings.threads.max(1)).map(|number| {
            let (requests, idle) = (Requests::new(self, &limits), self.settings.idle_connection);
            start(number, Connections::new(requests, acceptor.clone(), connections, idle, shutdown.clone()))
        });
        let threads: Vec<Thread> = threads.collect::<io::Result<_>>()?;
        let acceptor = Acceptor {
            places: Arc::new(Semaphore::new(connections.total)),
            clients: Peers::new(connections.per_client),
            unknown: Unknown::default(),
            metrics: self.metrics.clone(),
        };
        Ok(tokio::spawn(acceptor.run(listener, threads, shutdown)))
    }
}

/// Accepts connections, as long as there are places for them.
struct Acceptor {
    places: Arc<Semaphore>,
    /// The connections of unknown clients, by address.
    clients: Peers,
    unknown: Unknown,
    metrics: Metrics,
}

impl Acceptor {
    /// Accepts connections, and assigns each to the thread with the fewest.
    async fn run(self, listener: TcpListener, threads: Vec<Thread>, mut shutdown: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&listener, &threads) => accepted,
                _ = shutdown.wait_for(|shutdown| *shutdown) => break,
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "accepting a connection to an endpoint");
                sleep(PAUSE).await;
            }
        }
        drop(listener);
        for Thread { accepted, ended, .. } in threads {
            drop(accepted);
            let _ = ended.await; // an error means that it had ended before
        }
    }

    async fn accept(&self, listener: &TcpListener, threads: &[Thread]) -> io::Result<()> {
        let (stream, address) = listener.accept().await?;
        let stream = stream.into_std()?;
        let Some(client) = self.clients.enter(Peer::Network(address)) else {
            self.metrics.endpoint_refused("client");
            return Ok(());
        };
        let told = || self.metrics.endpoint_refused("total");
        let Some(place) = self.unknown.place(&self.places, told).await else { return Ok(()) };
        let stranger = self.unknown.enter(Some(client));
        if let Some(thread) = threads.iter().min_by_key(|thread| thread.open.load(Ordering::Relaxed)) {
            let places = Places { open: Open::new(&self.metrics, &thread.open, place), stranger };
            let _ = thread.accepted.send(Accepted { stream, address, places }); // if the thread is ending, the connection is dropped
        }
        Ok(())
    }
}

fn start(number: usize, connections: Connections) -> io::Result<Thread> {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
    let (accepted, assigned) = mpsc::unbounded_channel();
    let (over, ended) = oneshot::channel();
    thread::Builder::new().name(format!("endpoint-{number}")).spawn(move || {
        runtime.block_on(work(connections, assigned));
        runtime.shutdown_background(); // does not wait for connections to guests that are being opened
        let _ = over.send(()); // an error means that the acceptor is gone
    })?;
    Ok(Thread { accepted, open: Arc::default(), ended })
}

/// Serves the connections that are assigned to a thread.
async fn work(connections: Connections, mut assigned: mpsc::UnboundedReceiver<Accepted>) {
    let connections = Arc::new(connections);
    let mut served = JoinSet::new();
    loop {
        let next = tokio::select! {
            next = assigned.recv() => next,
            Some(_) = served.join_next() => continue,
        };
        let Some(Accepted { stream, address, places }) = next else { break };
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "serving a connection to an endpoint");
                continue;
            }
        };
        // This task also parses what a client sends before it is a complete request, which may panic.
        served.spawn(panics::request(Arc::clone(&connections).serve(stream, address, places)));
    }
    let _ = timeout(END, async { while served.join_next().await.is_some() {} }).await;
}
