//! A high latency between client and proxy: all bytes arrive later, and any number of bytes can be under way.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// A relay, which stops when this is dropped.
pub(crate) struct Relay {
    /// Address on which the relay listens.
    pub(crate) address: SocketAddr,
    _connections: JoinSet<()>,
}

impl Relay {
    /// Starts a relay to `target` with this delay in each direction.
    pub(crate) async fn start(target: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening")?;
        let address = listener.local_addr().context("listening")?;
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while open.try_join_next().is_some() {}
                open.spawn(connection(client, target, delay));
            }
        });
        Ok(Self { address, _connections: connections })
    }
}

async fn connection(client: TcpStream, target: SocketAddr, delay: Duration) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from, back), (answers, to)) = (client.into_split(), server.into_split());
    tokio::try_join!(carry(from, to, delay), carry(answers, back, delay))?;
    Ok(())
}

/// Copies `from` to `to` with a delay, up to the end. The bytes under way are bounded only by the windows of the two peers, which are
/// the subject of the measurement.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let read = async {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            // If the writer has stopped, its error is the one to return.
            if from.read_buf(&mut chunk).await? == 0 || sender.send((Instant::now() + delay, chunk)).is_err()
            {
                break;
            }
        }
        // The end of the stream is delayed like all bytes.
        let _ = sender.send((Instant::now() + delay, Vec::new()));
        Ok(())
    };
    let write = async {
        while let Some((due, chunk)) = receiver.recv().await {
            sleep_until(due).await;
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn everything_arrives_one_delay_later_however_much_it_is() {
        let ((mut client, near), (far, mut server)) =
            (tokio::io::duplex(1 << 20), tokio::io::duplex(1 << 20));
        let start = Instant::now();
        tokio::spawn(carry(near, far, DELAY));
        client.write_all(&vec![7; 8 << 20]).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO, "nothing holds the sender up");
        client.shutdown().await.unwrap();
        let mut arrived = Vec::new();
        server.read_to_end(&mut arrived).await.unwrap();
        assert_eq!(arrived.len(), 8 << 20);
        // Timers have a resolution of a millisecond.
        let late = start.elapsed() - DELAY;
        assert!(late <= Duration::from_millis(1), "{late:?}");
    }
}
