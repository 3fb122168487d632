//! The threads that serve connections.
//!
//! Each has a runtime of its own. A connection stays on the thread that it was given to, with its requests and its connections to
//! apps. Where their tasks wander between threads, a third of the requests over HTTP/2 is lost to that (docs/performance.md).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Inner, Proxy};
use crate::metrics::Metrics;
use crate::panics;

/// Connections at a time.
const CONNECTIONS: usize = 16_384;
/// After the system had no resources for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How long connections have to end when the daemon ends.
const END: Duration = Duration::from_secs(5);

/// A connection that nobody serves yet.
struct Accepted {
    stream: std::net::TcpStream,
    address: SocketAddr,
    open: Open,
}

/// A connection, which is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    metrics: Metrics,
    /// Of its thread.
    count: Arc<AtomicUsize>,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn new(metrics: &Metrics, count: &Arc<AtomicUsize>, place: OwnedSemaphorePermit) -> Self {
        metrics.endpoint_connections(1);
        count.fetch_add(1, Ordering::Relaxed);
        Self { metrics: metrics.clone(), count: Arc::clone(count), _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.endpoint_connections(-1);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread, as seen by who gives it connections.
struct Thread {
    accepted: mpsc::UnboundedSender<Accepted>,
    /// Connections that it has.
    open: Arc<AtomicUsize>,
    /// It has ended.
    ended: oneshot::Receiver<()>,
}

impl Proxy {
    /// Serves connections until `end` is true; those that are open have a moment then.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        end: watch::Receiver<bool>,
    ) -> io::Result<JoinHandle<()>> {
        let acceptor = TlsAcceptor::from(tls);
        let limits = Arc::default();
        let numbers = 0..self.settings.threads.max(1);
        let threads =
            numbers.map(|number| start(number, Inner::new(self, &limits), acceptor.clone(), end.clone()));
        let threads: Vec<Thread> = threads.collect::<io::Result<_>>()?;
        Ok(tokio::spawn(accept(listener, threads, self.metrics.clone(), end)))
    }
}

/// Gives each connection to the thread that has the fewest.
async fn accept(
    listener: TcpListener,
    threads: Vec<Thread>,
    metrics: Metrics,
    mut end: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = end.wait_for(|end| *end) => break,
        };
        let accepted = accepted.and_then(|(stream, address)| Ok((stream.into_std()?, address)));
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection to an endpoint");
                sleep(PAUSE).await;
                continue;
            }
        };
        if let Some(thread) = threads.iter().min_by_key(|thread| thread.open.load(Ordering::Relaxed)) {
            let open = Open::new(&metrics, &thread.open, place);
            let _ = thread.accepted.send(Accepted { stream, address, open }); // it ends: so does the connection
        }
    }
    drop(listener);
    for Thread { accepted, ended, .. } in threads {
        drop(accepted);
        let _ = ended.await; // or it has ended before
    }
}

fn start(
    number: usize,
    inner: Inner,
    acceptor: TlsAcceptor,
    end: watch::Receiver<bool>,
) -> io::Result<Thread> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (accepted, connections) = mpsc::unbounded_channel();
    let (over, ended) = oneshot::channel();
    thread::Builder::new().name(format!("endpoint-{number}")).spawn(move || {
        runtime.block_on(work(inner, connections, acceptor, end));
        runtime.shutdown_background(); // whoever still connects to a guest is not waited for
        let _ = over.send(()); // nobody waits
    })?;
    Ok(Thread { accepted, open: Arc::default(), ended })
}

/// Serves what is given to a thread.
async fn work(
    inner: Inner,
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    acceptor: TlsAcceptor,
    end: watch::Receiver<bool>,
) {
    let server = Arc::new(inner.server());
    let inner = Arc::new(inner);
    let mut connections = JoinSet::new();
    loop {
        let next = tokio::select! {
            next = accepted.recv() => next,
            Some(_) = connections.join_next() => continue,
        };
        let Some(Accepted { stream, address, open }) = next else { break };
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "serving a connection to an endpoint");
                continue;
            }
        };
        let (inner, server) = (Arc::clone(&inner), Arc::clone(&server));
        let (acceptor, end) = (acceptor.clone(), end.clone());
        // What a client sends is read there, before it is a request.
        let connection = async move { inner.connection(stream, address, open, acceptor, &server, end).await };
        connections.spawn(panics::request(connection));
    }
    let _ = timeout(END, async { while connections.join_next().await.is_some() {} }).await;
}
