//! One call of a hook.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::guest::v1::Done;
use hearth_proto::guest::v1::hook_outcome::Result as Outcome;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

use super::first_byte::FirstByteStream;
use crate::ports::connect;

/// Bytes of a response's body that are read and discarded, so that an app that writes no more than this gets no error.
const BODY_LIMIT: u64 = 64 << 10;
/// How long reading the body may take. The status is known by then.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// The call to make.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) hosts: &'a [IpAddr],
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) body: Bytes,
    pub(super) content_type: Option<HeaderValue>,
}

/// One call that is over.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) outcome: Outcome,
    /// Whether any byte was received.
    pub(super) any_byte: bool,
}

impl From<Outcome> for Attempt {
    /// A call that ended before the app had sent a byte, or whose time was up.
    fn from(outcome: Outcome) -> Self {
        Self { outcome, any_byte: false }
    }
}

impl Call<'_> {
    /// Calls once, without a time limit.
    pub(super) async fn once(&self) -> Attempt {
        let stream = match connect(self.hosts, self.port).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Outcome::Refused(Done {}).into();
            }
            Err(error) => return Outcome::Transport(format!("connecting: {error}")).into(),
        };
        let any_byte = Arc::new(AtomicBool::new(false));
        let outcome = match self.exchange(FirstByteStream::new(stream, Arc::clone(&any_byte))).await {
            Ok(status) => Outcome::Status(status.into()),
            Err(error) => Outcome::Transport(chain(&error)),
        };
        Attempt { outcome, any_byte: any_byte.load(Ordering::Relaxed) }
    }

    async fn exchange(&self, stream: FirstByteStream) -> Result<u16, hyper::Error> {
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let response = sender.send_request(self.request()).await?;
            let status = response.status().as_u16();
            let _ = tokio::time::timeout(BODY_PATIENCE, discard(response.into_body())).await;
            Ok(status)
        };
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            result = &mut exchange => result,
            // Its error is also reported by `exchange`, in more detail.
            _ = &mut connection => exchange.await,
        }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        // The path consists of letters and slashes, so it is always a URI.
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::try_from(format!("localhost:{}", self.port)) {
            headers.insert(HOST, host);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        if let Some(content_type) = &self.content_type {
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        request
    }
}

async fn discard(mut body: Incoming) {
    let mut read = 0;
    while read < BODY_LIMIT && !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => return,
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
