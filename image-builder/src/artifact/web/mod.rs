//! HTTP as a worker speaks it: over connections that the daemon makes, within bounds.
//!
//! HTTP/1.1 only. Heads of answers are bounded, documents are read to a limit within a time, and where an answer leads on, the next server
//! is asked without what was meant for the one before. Whether a server may be asked at all the daemon decides, for each connection.

mod body;
mod connect;

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{ACCEPT, HeaderMap, LOCATION, RANGE};
use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use url::Url;

pub(super) use body::Received;
use connect::Connector;

use super::error::ArtifactError;
use super::worker::{Link, Origin};
use hearth_host::http::in_full;

/// Most bytes of an answer's head.
const HEAD_BYTES: usize = 64 << 10;
/// Most headers of an answer.
const HEADERS: usize = 128;
/// How often an answer may lead on.
const REDIRECTS: usize = 5;
/// Longest time from a request to the head of its answer; opening a connection to each of a server's addresses is part of it.
const HEAD_TIME: Duration = Duration::from_secs(75);
/// Longest time for a whole document, like a manifest.
const DOCUMENT_TIME: Duration = Duration::from_secs(60);
/// How long a connection waits for the next request.
const IDLE: Duration = Duration::from_secs(15);

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum WebError {
    /// The server may not be asked. The sentence is for the user.
    #[error("{0}")]
    Refused(String),
    /// The server could not be reached, or broke the connection.
    #[error("{0}")]
    Broken(String),
    /// The server did not answer in time.
    #[error("{0} did not answer in time")]
    Late(String),
    /// The answer is larger than allowed.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

impl WebError {
    /// The error in a chain of errors, if it is one of these, else the whole chain as text.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<Self>() {
                return found.clone();
            }
            cause = error.source();
        }
        Self::Broken(in_full(error))
    }
}

/// An HTTP client.
#[derive(Clone, Debug)]
pub(super) struct Web {
    client: Client<Connector, Empty<Bytes>>,
}

impl Web {
    /// A client that trusts `authorities`, and those in `pem`.
    pub(super) fn new(
        link: Link,
        authorities: Vec<CertificateDer<'static>>,
        pem: &[u8],
    ) -> Result<Self, ArtifactError> {
        let connector = Connector::new(link, authorities, pem)?;
        let mut client = Client::builder(TokioExecutor::new());
        client
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_max_buf_size(HEAD_BYTES)
            .http1_max_headers(HEADERS);
        Ok(Self { client: client.build(connector) })
    }

    /// Gets what is at a URL, also where it leads on. The body fails after `read_timeout` without a byte.
    pub(super) async fn get(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        read_timeout: Duration,
    ) -> Result<Response<Received>, WebError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.once(&url, headers.clone()).await?;
            let Some(next) = leads_to(&answer, &url)? else {
                return Ok(answer.map(|body| Received::new(body, read_timeout, url.host_str())));
            };
            if Origin::of(&next) != Origin::of(&url) {
                // Signatures, tokens and passwords are for the server that they were made for.
                headers = only_harmless(&headers);
            }
            url = next;
        }
        Err(WebError::Refused(format!("{} leads on more than {REDIRECTS} times", server(&url))))
    }

    async fn once(&self, url: &Url, headers: HeaderMap) -> Result<Response<hyper::body::Incoming>, WebError> {
        let wrong = |error: &dyn std::fmt::Display| WebError::Broken(format!("{}: {error}", server(url)));
        let uri: Uri = url.as_str().parse().map_err(|error| wrong(&error))?;
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(uri)
            .body(Empty::new())
            .map_err(|error| wrong(&error))?;
        *request.headers_mut() = headers;
        match tokio::time::timeout(HEAD_TIME, self.client.request(request)).await {
            Err(_) => Err(WebError::Late(server(url))),
            Ok(Err(error)) => Err(match WebError::of(&error) {
                WebError::Broken(why) => WebError::Broken(format!("{}: {why}", server(url))),
                other => other,
            }),
            Ok(Ok(answer)) => Ok(answer),
        }
    }
}

/// A document of at most `limit` bytes, which is there in time.
pub(super) async fn document(mut body: Received, limit: usize) -> Result<Vec<u8>, WebError> {
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(chunk) = body.chunk().await? {
            if bytes.len().saturating_add(chunk.len()) > limit {
                return Err(WebError::TooLarge(limit));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    match tokio::time::timeout(DOCUMENT_TIME, reading).await {
        Err(_) => Err(WebError::Late("the server".to_owned())),
        Ok(read) => read.map(|()| bytes),
    }
}

/// Where an answer leads on to.
fn leads_to<B>(answer: &Response<B>, url: &Url) -> Result<Option<Url>, WebError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = answer.headers().get(LOCATION) else { return Ok(None) };
    let next = location.to_str().ok().and_then(|location| url.join(location).ok());
    let refused =
        || WebError::Refused(format!("{} leads on to something that is no HTTP server", server(url)));
    let mut next = next.filter(|next| Origin::of(next).is_some()).ok_or_else(refused)?;
    next.set_fragment(None);
    // A name and a password in a URL are not sent.
    let _ = next.set_username("").and_then(|()| next.set_password(None));
    Ok(Some(next))
}

/// The headers that any server may see.
fn only_harmless(headers: &HeaderMap) -> HeaderMap {
    let kept = [ACCEPT, RANGE].into_iter();
    kept.filter_map(|name| Some((name.clone(), headers.get(&name)?.clone()))).collect()
}

/// A URL's server, for messages.
fn server(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use hyper::header::AUTHORIZATION;

    use super::*;

    fn led(status: u16, location: &str) -> Result<Option<String>, WebError> {
        let answer = Response::builder().status(status).header(LOCATION, location).body(()).unwrap();
        let url = "https://registry.example:5000/v2/app/blobs/x".parse().unwrap();
        Ok(leads_to(&answer, &url)?.map(|url| url.to_string()))
    }

    #[test]
    fn an_answer_leads_on_to_servers_only() {
        for (location, next) in [
            ("/other", "https://registry.example:5000/other"),
            ("https://cdn.example/x#y", "https://cdn.example/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("http://user:word@10.0.0.5/", "http://10.0.0.5/"),
        ] {
            assert_eq!(led(307, location).unwrap().as_deref(), Some(next));
            assert_eq!(led(200, location).unwrap(), None);
        }
        for location in
            ["file:///etc/passwd", "unix:/run/hearth/hearthd.sock", "data:,x", "https://", "\u{ff}"]
        {
            assert!(matches!(led(302, location), Err(WebError::Refused(_))), "{location}");
        }
    }

    #[test]
    fn another_server_sees_no_secret() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, "*/*".parse().unwrap());
        headers.insert(AUTHORIZATION, "Bearer x".parse().unwrap());
        headers.insert("x-amz-security-token", "x".parse().unwrap());
        let kept = only_harmless(&headers);
        assert_eq!((kept.len(), kept.contains_key(ACCEPT)), (1, true));
    }

    #[test]
    fn a_refusal_is_found_below_other_errors() {
        let refused = std::io::Error::other(WebError::Refused("no".to_owned()));
        // `io::Error` shows what it holds as itself, not as its source.
        let wrapped = Box::<dyn Error + Send + Sync>::from(WebError::Refused("no".to_owned()));
        assert!(matches!(WebError::of(wrapped.as_ref()), WebError::Refused(_)));
        assert!(matches!(WebError::of(&refused), WebError::Broken(why) if why == "no"));
    }
}
