//! Connections over streams in memory, so that simulated time decides alone, with clients written byte by byte.

mod handshakes;
pub(crate) mod raw;
mod slow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;
use raw::{PREFACE, attend, frame};

/// Size of a response, in bytes.
const SIZE: usize = 1 << 20;

/// A connection of a client in a test.
struct Opened {
    client: DuplexStream,
    served: JoinHandle<()>,
    /// Ends the connection as the daemon's end does.
    _end: watch::Sender<bool>,
}

/// Opens a connection whose requests are answered by `answer`; the buffers between are small.
fn open<F, B>(tls: Option<&Tls>, answer: impl Fn() -> F + Send + Sync + 'static) -> Opened
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (client, stream) = duplex(1024);
    let (end, ended) = watch::channel(false);
    let exchange = Exchange::new(&ConnectionLimits::default(), false);
    let peer = Peer::Network(([192, 0, 2, 1], 1).into());
    let answer = move |_: &Client, _| answer();
    let client_of = Client { peer, certificate: None, known: Known::local() };
    let served = exchange.begin(stream, client_of, tls.map(Tls::acceptor), answer, ended);
    Opened { client, served: tokio::spawn(served), _end: end }
}

fn limits() -> (Duration, Duration) {
    let limits = ConnectionLimits::default();
    (limits.handshake(), limits.idle())
}

/// Reads until the connection ends, however it does.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    read
}
