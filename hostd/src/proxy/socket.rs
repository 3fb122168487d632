//! The options of endpoints' sockets.
//!
//! A client that has lost its power or its network says no more, not even that its connection has ended. The kernel asks
//! clients that are silent, and ends connections whose client does not answer, or takes nothing of what was sent to it. This
//! works without a byte in the connection, which belongs to the app: WebSockets, for example, are passed on unchanged.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

/// How often a client is asked in the time after which it is gone.
const QUESTIONS: u32 = 5;
/// Bytes that the kernel keeps for a connection beyond what it has sent.
const NOT_SENT: u32 = 128 << 10;

/// Sets the options of the connections that a listener accepts: on Linux they inherit the listener's.
///
/// `gone`: time after which a client that answers nothing is gone.
///
/// # Errors
/// The system refuses an option.
pub(super) fn prepare(listener: &TcpListener, gone: Duration) -> io::Result<()> {
    let socket = SockRef::from(listener);
    // The system counts whole seconds.
    let interval = gone.checked_div(QUESTIONS).unwrap_or(gone).max(Duration::from_secs(1));
    let keep_alive = TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(QUESTIONS);
    socket.set_tcp_keepalive(&keep_alive)?;
    socket.set_tcp_user_timeout(Some(gone))?;
    socket.set_tcp_notsent_lowat(NOT_SENT)?;
    socket.set_tcp_nodelay(true)
}

/// Returns when a connection has failed, also while nobody reads from it and writes to it, as HTTP/1.1 does while an answer is
/// silent. One that the client has closed has not failed before it is sent something.
///
/// # Errors
/// The system has no descriptor left.
pub(super) fn failed(stream: &TcpStream) -> io::Result<impl Future<Output = ()> + use<>> {
    let socket = stream.as_fd().try_clone_to_owned()?;
    Ok(async move {
        if hearth_sys::failed(socket).await.is_err() {
            std::future::pending::<()>().await; // the runtime ends
        }
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn connections_have_the_options_of_their_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare(&listener, Duration::from_secs(50)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(50)));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOT_SENT);
    }
    #[tokio::test]
    async fn a_reset_is_seen_while_nobody_reads_and_the_end_of_requests_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = async || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (client, listener.accept().await.unwrap().0)
        };
        let (mut client, stream) = connect().await;
        client.write_all(b"bytes that nobody reads").await.unwrap();
        client.shutdown().await.unwrap();
        stream.readable().await.unwrap();
        let failing = failed(&stream).unwrap();
        assert!(timeout(Duration::from_millis(100), failing).await.is_err());
        let (client, stream) = connect().await;
        let failing = failed(&stream).unwrap();
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        timeout(Duration::from_secs(20), failing).await.expect("it is not seen");
    }
}
