//! TCP connections to the app.

use std::time::Duration;

use hearth_proto::guest::v1::{FailureCode, OpenStream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, copy_buf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Agent;
use crate::ports;
use crate::refusal::Refusal;

/// How long to try to connect, in milliseconds, if the host sets no timeout.
const CONNECT_TIMEOUT_MS: u32 = 5_000;

/// Buffer in bytes of each direction.
const BUFFER: usize = 64 << 10;

/// Connects to a port of the app.
pub(super) async fn connect(agent: &Agent, open: &OpenStream) -> Result<TcpStream, Refusal> {
    let port = ports::port(open.port)?;
    let limit_ms = if open.timeout_ms == 0 { CONNECT_TIMEOUT_MS } else { open.timeout_ms };
    let hosts = agent.app_hosts();
    let connecting = ports::connect(&hosts, port);
    let stream = match timeout(Duration::from_millis(limit_ms.into()), connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            let message = format!("nobody listens on port {port} of the app");
            return Err(Refusal { code: FailureCode::Refused, message });
        }
        Ok(Err(error)) => {
            return Err(Refusal::system(format!("connecting to port {port} of the app"), &error));
        }
        Err(_) => {
            let message = format!("port {port} of the app does not accept a connection within {limit_ms} ms");
            return Err(Refusal { code: FailureCode::TimedOut, message });
        }
    };
    // A relay must not delay small writes.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Passes bytes on until both directions have ended. An app that stops reading may have sent its response already, which still
/// reaches the host.
pub(super) async fn relay(mut host: UnixStream, mut app: TcpStream) {
    let (host_reads, host_writes) = host.split();
    let (app_reads, app_writes) = app.split();
    tokio::join!(copy(host_reads, app_writes), copy(app_reads, host_writes));
}

async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let _ = copy_buf(&mut from, &mut to).await; // errors are not reported: the other side sees the end of the stream
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_an_app_answers_before_it_closes_arrives_though_it_has_not_read_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&[7; 1000]).await.unwrap();
        server.write_all(b"too large").await.unwrap();
        let relaying = tokio::spawn(relay(theirs, app));
        // Closing a socket with unread bytes sends a reset instead of a FIN.
        server.readable().await.unwrap();
        drop(server);
        while ours.write_all(&[7; 1000]).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"too large");
        drop(ours);
        relaying.await.unwrap();
    }

    #[tokio::test]
    async fn one_direction_may_end_before_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let relaying = tokio::spawn(relay(theirs, app));
        ours.write_all(b"question").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        relaying.await.unwrap();
    }
}
