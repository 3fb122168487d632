//! What has passed on a connection to the app, which says what a request's failure means.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::Response;
use hyper::http::Extensions;
use hyper_util::client::legacy::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::platform::Connection;

/// What has passed on a connection. Clones are of the same connection; the HTTP client adds one to each response and error.
#[derive(Debug, Clone)]
pub(super) struct Passed(Arc<Flags>);

#[derive(Debug)]
struct Flags {
    /// Whether requests on the connection are concurrent.
    http2: bool,
    /// Whether an answer has begun.
    answered: AtomicBool,
    /// Whether a byte has come since the last was written.
    heard: AtomicBool,
}

impl Passed {
    /// Nothing, on a new connection; `http2`: whether its requests are concurrent.
    pub(super) fn new(http2: bool) -> Self {
        Self(Arc::new(Flags { http2, answered: AtomicBool::new(false), heard: AtomicBool::new(false) }))
    }

    /// Of the connection that a response has come on.
    pub(super) fn of<B>(response: &Response<B>) -> Option<&Self> {
        response.extensions().get()
    }

    /// Of the connection that has failed.
    pub(super) fn of_failed(error: &Error) -> Option<Self> {
        let mut extensions = Extensions::new();
        error.connect_info()?.get_extras(&mut extensions);
        extensions.remove()
    }

    /// Marks that an answer has begun on the connection; returns whether it is the first.
    pub(super) fn answers(&self) -> bool {
        !self.0.answered.swap(true, Ordering::Relaxed)
    }

    /// Whether an answer has begun on the connection.
    pub(super) fn has_answered(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// Whether no byte has come since the last was written. On HTTP/2 what comes may be for other requests: there, an answer
    /// that has begun is no failure.
    pub(super) fn is_silent(&self) -> bool {
        self.0.http2 || !self.0.heard.load(Ordering::Relaxed)
    }

    /// Whether requests on the connection are concurrent.
    pub(super) fn is_http2(&self) -> bool {
        self.0.http2
    }
}

/// A connection that notes what passes.
pub(super) struct Observed {
    stream: Box<dyn Connection>,
    passed: Passed,
}

impl Observed {
    pub(super) fn new(stream: Box<dyn Connection>, passed: &Passed) -> Self {
        Self { stream, passed: passed.clone() }
    }

    fn wrote(&self, written: Poll<Result<usize>>) -> Poll<Result<usize>> {
        if matches!(written, Poll::Ready(Ok(count)) if count > 0) {
            self.passed.0.heard.store(false, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.passed.0.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(written)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn whoever_has_said_nothing_since_the_last_byte_is_silent() {
        let (mut app, ours) = duplex(1 << 10);
        let passed = Passed::new(false);
        let mut observed = Observed::new(Box::new(ours), &passed);
        assert!(passed.is_silent());
        for _ in 0..2 {
            observed.write_all(b"request").await.unwrap();
            assert!(passed.is_silent());
            app.write_all(b"answer").await.unwrap();
            observed.read_exact(&mut [0; 6]).await.unwrap();
            assert!(!passed.is_silent());
        }
        observed.write_all(b"request").await.unwrap();
        drop(app);
        assert_eq!(observed.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(passed.is_silent(), "an end is no byte");
        assert!(passed.answers() && !passed.answers() && passed.has_answered());
    }
}
