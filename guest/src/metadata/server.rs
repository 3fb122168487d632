//! The HTTP server of the metadata service.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Store;
use super::documents::{Document, document};
use super::tokens::SECONDS;

/// Connections that are served at once. The limit is needed because the app opens them.
const CONNECTIONS: usize = 64;
/// Deadline for a request's head; the constant after it is the longest life of a connection.
const HEAD: Duration = Duration::from_secs(10);
const LIFE: Duration = Duration::from_secs(60);
/// Bytes of the longest request.
const REQUEST: usize = 16 << 10;

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "x-aws-ec2-metadata-token";

/// Serves for ever.
pub async fn serve(listener: TcpListener, store: Arc<Store>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = store.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = http1::Builder::new();
            // A client that has sent its whole request may close its side before the response.
            builder.timer(TokioTimer::new()).half_close(true);
            builder.header_read_timeout(HEAD).max_buf_size(REQUEST);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            // An error is dropped: the app sees it on its side of the connection.
            let _ = tokio::time::timeout(LIFE, connection).await;
            drop(place);
        });
    }
}

impl Store {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        match (method, path) {
            (&Method::PUT, "/latest/api/token") => self.token(headers),
            (&Method::GET, _) if !self.has_token(headers) => status(StatusCode::UNAUTHORIZED),
            (&Method::GET, _) => {
                document(&self.facts(), path).map_or_else(|| status(StatusCode::NOT_FOUND), found)
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn token(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        // A client that can only forward requests must not get a token (EC2 User Guide, "Use IMDSv2").
        if headers.contains_key("x-forwarded-for") {
            return status(StatusCode::FORBIDDEN);
        }
        let seconds = headers.get(TTL).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let Some(seconds) = seconds.filter(|seconds| SECONDS.contains(seconds)) else {
            return status(StatusCode::BAD_REQUEST);
        };
        let made = {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.make(seconds, Instant::now())
        };
        match made {
            Ok(token) => {
                let mut response = found((token, "text/plain"));
                response.headers_mut().insert(TTL, HeaderValue::from(seconds));
                response
            }
            Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        headers.get(TOKEN).is_some_and(|token| tokens.is_valid(token.as_bytes(), Instant::now()))
    }
}

fn found((text, kind): Document) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_owner(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = found((Zeroizing::new(format!("{status}\n")), "text/plain"));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use hearth_proto::guest::v1::{Credentials, Metadata};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::metadata::SecretCredentials;

    struct Service {
        store: Arc<Store>,
        port: u16,
    }

    impl Service {
        async fn start() -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let (store, port) = (Arc::new(Store::default()), listener.local_addr().unwrap().port());
            tokio::spawn(serve(listener, Arc::clone(&store)));
            Self { store, port }
        }

        /// Status and body of the response to a request.
        async fn ask(&self, method: &str, path: &str, header: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
        }

        async fn get(&self, path: &str) -> (u16, String) {
            let (status, token) = self.ask("PUT", "/latest/api/token", &format!("{TTL}: 60")).await;
            assert_eq!(status, 200);
            self.ask("GET", path, &format!("X-aws-ec2-metadata-token: {token}")).await
        }
    }

    #[tokio::test]
    async fn without_a_token_nothing_is_said() {
        let service = Service::start().await;
        service.store.set_id("microvm-1".to_string());
        assert_eq!(service.ask("GET", "/latest/meta-data/instance-id", "A: b").await.0, 401);
        assert_eq!(service.ask("GET", "/latest/meta-data/instance-id", &format!("{TOKEN}: x")).await.0, 401);
        assert_eq!(service.ask("GET", "/none", "A: b").await.0, 401);
        for ttl in ["A: b", &format!("{TTL}: 0"), &format!("{TTL}: 21601"), &format!("{TTL}: x")] {
            assert_eq!(service.ask("PUT", "/latest/api/token", ttl).await.0, 400, "{ttl}");
        }
        let forwarded = format!("{TTL}: 60\r\nX-Forwarded-For: 1.2.3.4");
        assert_eq!(service.ask("PUT", "/latest/api/token", &forwarded).await.0, 403);
        assert_eq!(service.ask("POST", "/latest/meta-data/instance-id", "Content-Length: 0").await.0, 405);
    }

    #[tokio::test]
    async fn what_the_host_has_said_is_served_and_nothing_else() {
        let service = Service::start().await;
        let roles = "/latest/meta-data/iam/security-credentials/";
        let role = "/latest/meta-data/iam/security-credentials/execution_role";
        let document = "/latest/dynamic/instance-identity/document";
        for path in
            ["/latest/meta-data/instance-id", "/latest/meta-data/placement/region", roles, role, document]
        {
            assert_eq!(service.get(path).await.0, 404, "{path}");
        }
        service.store.set_id("microvm-1".to_string());
        service.store.set_metadata(Metadata { region: "eu-west-1".to_string(), ..Metadata::default() });
        service.store.set_credentials(Some(SecretCredentials::new(Credentials {
            access_key_id: "AK".to_string(),
            secret_access_key: "SK\"".to_string(),
            session_token: "ST".to_string(),
            last_updated: 0,
            expiration: 3_600,
        })));
        let text = |text: &str| (200, text.to_string());
        assert_eq!(service.get("/latest/meta-data/instance-id").await, text("microvm-1"));
        assert_eq!(service.get("/latest/meta-data/placement/region").await, text("eu-west-1"));
        assert_eq!(service.get(roles).await, text("execution_role"));
        assert_eq!(service.get(roles.trim_end_matches('/')).await, text("execution_role"));
        let (_, json) = service.get(role).await;
        for member in [
            r#""Code" : "Success""#,
            r#""Type" : "AWS-HMAC""#,
            r#""LastUpdated" : "1970-01-01T00:00:00Z""#,
            r#""Expiration" : "1970-01-01T01:00:00Z""#,
            r#""AccessKeyId" : "AK""#,
            r#""SecretAccessKey" : "SK\"""#,
            r#""Token" : "ST""#,
        ] {
            assert!(json.contains(member), "{member}: {json}");
        }
        let (_, json) = service.get(document).await;
        assert!(
            json.contains(r#""instanceId" : "microvm-1""#) && json.contains(r#""region" : "eu-west-1""#),
            "{json}"
        );
        service.store.set_credentials(None);
        assert_eq!(service.get(roles).await.0, 404);
        assert_eq!(service.get(role).await.0, 404);
        assert_eq!(service.get("/latest/user-data").await.0, 404);
    }

    #[tokio::test]
    async fn after_it_has_forgotten_nothing_of_the_guest_is_served_and_no_token_is_valid() {
        let service = Service::start().await;
        let id = "/latest/meta-data/instance-id";
        let region = "/latest/meta-data/placement/region";
        let role = "/latest/meta-data/iam/security-credentials/execution_role";
        service.store.set_id("microvm-1".to_string());
        service.store.set_metadata(Metadata { region: "eu-west-1".to_string(), ..Metadata::default() });
        service.store.set_credentials(Some(SecretCredentials::new(Credentials::default())));
        let (_, token) = service.ask("PUT", "/latest/api/token", &format!("{TTL}: 60")).await;
        let before = format!("{TOKEN}: {token}");
        assert_eq!(service.ask("GET", role, &before).await.0, 200);
        service.store.forget();
        assert_eq!(service.ask("GET", region, &before).await.0, 401, "a token of a former life");
        assert_eq!((service.get(id).await.0, service.get(role).await.0), (404, 404));
        assert_eq!(service.get("/latest/dynamic/instance-identity/document").await.0, 404);
        assert_eq!(service.get(region).await, (200, "eu-west-1".to_string()), "it is the image's");
    }
}
