//! A connection to the app, as the HTTP client sees it.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection as ConnectionInfo};
use hyper_util::rt::TokioIo;

use super::passed::{Observed, Passed};
use crate::platform::Connection;

/// A connection to the app.
///
/// An app may respond and close the connection before it has read the whole request. Writing then fails although the
/// response can still be read. So after a failed write nothing more is written, and only reading determines the result.
pub(super) struct Wire {
    stream: TokioIo<Observed>,
    /// Whether TLS has negotiated HTTP/2.
    http2: bool,
    /// Whether writing has failed because the app does not read any more.
    broken: bool,
    passed: Passed,
}

impl Wire {
    /// A connection for requests over HTTP/2 if TLS has negotiated it (`http2`) or the app is known to speak it (`prior`).
    pub(super) fn new(stream: Box<dyn Connection>, http2: bool, prior: bool) -> Self {
        let passed = Passed::new(http2 || prior);
        Self { stream: TokioIo::new(Observed::new(stream, &passed)), http2, broken: false, passed }
    }

    /// Writes, until writing has failed once. A task that waits for a write after that is woken by the end of the data
    /// that is read.
    fn write<T>(
        &mut self,
        write: impl FnOnce(Pin<&mut TokioIo<Observed>>) -> Poll<Result<T>>,
    ) -> Poll<Result<T>> {
        if self.broken {
            return Poll::Pending;
        }
        match write(Pin::new(&mut self.stream)) {
            Poll::Ready(Err(error)) if is_broken(&error) => {
                self.broken = true;
                Poll::Pending
            }
            other => other,
        }
    }
}

fn is_broken(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

impl ConnectionInfo for Wire {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.passed.clone());
        if self.http2 { connected.negotiated_h2() } else { connected }
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.write(|stream| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.write(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.write(|stream| stream.poll_write_vectored(context, slices))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};
    use hyper::Request;
    use hyper::body::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_though_the_app_takes_no_more() {
        // The app has room for a part of the request only, and closes when it has answered.
        let (mut app, ours) = duplex(1 << 10);
        let answering = tokio::spawn(async move {
            app.read_exact(&mut [0; 16]).await.unwrap();
            app.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        });
        let wire = Wire::new(Box::new(ours), false, false);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(wire).await.unwrap();
        let serving = tokio::spawn(connection);
        let request = Request::post("/").body(Full::new(Bytes::from(vec![7; 1 << 20]))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 413);
        response.into_body().collect().await.unwrap();
        answering.await.unwrap();
        serving.abort();
    }

    #[test]
    fn only_an_app_that_does_not_read_is_waited_for() {
        for (kind, broken) in [
            (ErrorKind::BrokenPipe, true),
            (ErrorKind::ConnectionReset, true),
            (ErrorKind::TimedOut, false),
            (ErrorKind::UnexpectedEof, false),
        ] {
            assert_eq!(is_broken(&kind.into()), broken, "{kind}");
        }
    }
}
