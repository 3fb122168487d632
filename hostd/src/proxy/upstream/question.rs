//! Questions to a port, on connections of their own: does it answer a TLS hello, and does it answer plain text?

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::platform::Connection;

/// How long a port may take to answer before it is told that no more comes: a server with a single worker that waits for
/// more than a hello goes on then.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long it may take after that. TLS servers have read the hello, and answer.
const SLOW: Duration = Duration::from_millis(1500);

/// Records of TLS that answer a hello: an alert, and the handshake's own (RFC 8446, section 5.1).
const RECORDS: [u8; 2] = [21, 22];

/// A request that changes nothing, for the server and none of its resources (RFC 9110, section 9.3.7).
const OPTIONS: &[u8] = b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Whether the other end of a connection answers a TLS hello with TLS, be it that it refuses this one.
pub(super) async fn speaks_tls(connection: Box<dyn Connection>, config: &Arc<ClientConfig>) -> bool {
    let Ok(name) = ServerName::try_from("localhost") else { return false };
    let mut hello = Vec::new();
    let written =
        ClientConnection::new(Arc::clone(config), name).map(|mut client| client.write_tls(&mut hello));
    if !matches!(written, Ok(Ok(_))) {
        return false;
    }
    // Type and version; the second byte is 3 in every version.
    let answer: Option<[u8; 2]> = ask(connection, &hello).await;
    answer.is_some_and(|[kind, major]| RECORDS.contains(&kind) && major == 3)
}

/// Whether the other end of a connection answers plain HTTP with something else than what servers of TLS say to it: 400, or
/// a redirect.
pub(super) async fn speaks_plain(connection: Box<dyn Connection>) -> bool {
    let answer: Option<[u8; 12]> = ask(connection, OPTIONS).await;
    let status =
        answer.as_ref().and_then(|answer| answer.strip_prefix(b"HTTP/1.")).and_then(|rest| rest.get(1..));
    status.is_some_and(|status| status != b" 400" && !status.starts_with(b" 3"))
}

/// The first bytes of the answer.
async fn ask<const N: usize>(mut connection: Box<dyn Connection>, question: &[u8]) -> Option<[u8; N]> {
    let (mut answer, mut read) = ([0; N], 0);
    let first = async {
        connection.write_all(question).await.ok()?;
        connection.flush().await.ok()?;
        receive(&mut connection, &mut answer, &mut read).await
    };
    if let Ok(received) = timeout(PATIENCE, first).await {
        return received.map(|()| answer);
    }
    let rest = async {
        connection.shutdown().await.ok()?;
        receive(&mut connection, &mut answer, &mut read).await
    };
    timeout(SLOW, rest).await.ok()?.map(|()| answer)
}

/// Reads until `answer` is full; `read` of it already is.
async fn receive(connection: &mut dyn Connection, answer: &mut [u8], read: &mut usize) -> Option<()> {
    while let Some(rest) = answer.get_mut(*read..).filter(|rest| !rest.is_empty()) {
        let count = connection.read(rest).await.ok().filter(|count| *count > 0)?;
        *read = read.saturating_add(count);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::super::tls;
    use super::*;

    /// What is found of a server that says this as soon as it has read something.
    async fn with(says: &'static [u8]) -> (bool, bool) {
        let served = |says: &'static [u8]| -> Box<dyn Connection> {
            let (mut app, ours) = duplex(1 << 12);
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                if app.read(&mut asked).await.is_ok() {
                    let _ = app.write_all(says).await;
                }
            });
            Box::new(ours)
        };
        let config = tls::any().unwrap();
        (speaks_tls(served(says), &config).await, speaks_plain(served(says)).await)
    }

    #[tokio::test]
    async fn a_record_of_tls_is_an_answer_and_nothing_else_is() {
        for (says, expected) in [
            (&b"\x16\x03\x03\0\x7a"[..], (true, false)),
            (b"\x15\x03\x03\0\x02\x02\x28", (true, false)),
            (b"HTTP/1.0 400 Bad Request\r\n\r\n", (false, false)),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", (false, true)),
            (b"HTTP/1.1 301 Moved Permanently\r\n\r\n", (false, false)),
            (b"", (false, false)),
            (b"\x16", (false, false)),
            (b"\x17\x03\x03", (false, false)),
            (b"SSH-2.0-OpenSSH_9.2", (false, false)),
        ] {
            assert_eq!(with(says).await, expected, "{says:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_more_is_told_that_no_more_comes() {
        let answers = |mut app: DuplexStream, says: &'static [u8]| async move {
            app.read_to_end(&mut Vec::new()).await.unwrap();
            let _ = app.write_all(says).await;
        };
        let config = tls::any().unwrap();
        for (says, expected) in [(&b""[..], false), (b"\x16\x03\x03", true)] {
            let (app, ours) = duplex(1 << 12);
            tokio::spawn(answers(app, says));
            assert_eq!(speaks_tls(Box::new(ours), &config).await, expected);
        }
        let (_silent, ours) = duplex(1 << 12);
        assert!(!speaks_tls(Box::new(ours), &config).await);
    }
}
