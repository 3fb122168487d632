//! Artifacts in an S3-compatible object store.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use hearth_host::http;
use hearth_host::roles::{Credentials, Secret, StaticKeys};
use http_body_util::BodyExt as _;
use hyper::Method;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStoreExt, RetryConfig, StaticCredentialProvider};
use url::Url;

use super::config::S3Config;
use super::download::Download;
use super::error::ArtifactError;
use super::web::{self, Web, WebError};
use super::worker::{Named, ObjectKeys, ObjectTask, Origin};
use crate::failure::FailureCode;

/// Most bytes of the description of an error.
const ERROR_BYTES: usize = 64 << 10;

/// How long a failed request is retried.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// The keys that a request is signed with: the build role's, or else those of the configuration that the account may use.
pub(super) fn keys(role: Option<&Credentials>, configured: Option<&StaticKeys>) -> Option<ObjectKeys> {
    let keys = |id: &String, secret: &Secret, token: &Option<Secret>| ObjectKeys {
        id: id.clone(),
        secret: secret.clone(),
        token: token.clone(),
    };
    match (role, configured) {
        (Some(role), _) => Some(keys(&role.access_key_id, &role.secret_access_key, &role.session_token)),
        (None, Some(own)) => Some(keys(&own.access_key_id, &own.secret_access_key, &own.session_token)),
        (None, None) => None,
    }
}

/// Copies an object to `download`; without keys, the request is not signed. Called in a worker.
pub(super) async fn get(
    web: Web,
    task: &ObjectTask,
    download: &mut Download<'_, '_>,
) -> Result<(), ArtifactError> {
    let (bucket, key) = (&task.bucket, &task.key);
    let store = store(web, task)?;
    // The library refuses keys with empty, `.` or `..` components, which HTTP clients tend to normalise.
    let Ok(path) = Key::parse(key) else {
        let what =
            format!("The key {key} has a component that is empty, . or ..; such keys are not supported.");
        return Err(ArtifactError::refused(FailureCode::S3NoSuchKey, what));
    };
    let object = store.get(&path).await.map_err(|error| refused(&error, bucket, key))?;
    download.expect(object.meta.size)?;
    let mut stream = object.into_stream();
    while let Some(bytes) = stream.try_next().await.map_err(|error| refused(&error, bucket, key))? {
        download.write(&bytes)?;
    }
    Ok(())
}

/// Seconds that `read_timeout_seconds` may have: less than a worker may be silent.
const READ_TIMEOUTS: RangeInclusive<u64> = 1..=170;

/// Checks a configuration as far as possible without a request.
pub(super) fn check(config: &S3Config) -> Result<(), ArtifactError> {
    let refuse = |why: &str| Err(ArtifactError::Config { what: "the object store".into(), why: why.into() });
    match config.endpoint.as_deref() {
        Some(endpoint) if endpoint.starts_with("http://") && !config.allow_http => {
            refuse("the endpoint is not HTTPS: set allow_http if this is meant")
        }
        Some(endpoint) if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") => {
            refuse("the endpoint must be a URL with http:// or https://")
        }
        _ if config.region.is_empty() => refuse("the region is empty"),
        _ if !READ_TIMEOUTS.contains(&config.read_timeout_seconds) => {
            refuse("read_timeout_seconds must be 1 to 170: a fetch that is silent for longer is ended")
        }
        _ => Ok(()),
    }
}

/// The URL of a store that the operator named, as requests for a bucket have it.
fn endpoint(endpoint: &str, path_style: bool, bucket: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if path_style { endpoint.to_owned() } else { endpoint.replacen("://", &format!("://{bucket}."), 1) }
}

/// The servers that the operator named for a bucket.
pub(super) fn named(config: &S3Config, bucket: &str) -> Named {
    let url = config.endpoint.as_ref().map(|url| endpoint(url, config.path_style, bucket));
    let servers = url.iter().filter_map(|url| Origin::of(&url.parse().ok()?)).collect();
    Named { servers, own: None, others: "artifacts.s3.endpoint" }
}

fn store(web: Web, task: &ObjectTask) -> Result<AmazonS3, ArtifactError> {
    let refuse = |why: String| ArtifactError::Config { what: "the object store".into(), why };
    let retry =
        RetryConfig { max_retries: task.max_retries, retry_timeout: RETRY_TIMEOUT, ..Default::default() };
    let read_timeout = Duration::from_secs(task.read_timeout_seconds);
    let mut builder = AmazonS3Builder::new()
        .with_region(&task.region)
        .with_bucket_name(&task.bucket)
        .with_retry(retry)
        // Whether a server may be spoken to without TLS is decided where connections are made.
        .with_allow_http(true)
        .with_http_connector(Connector { web, read_timeout });
    builder = match &task.endpoint {
        // A certificate for *.s3.region.amazonaws.com does not cover names with dots.
        None => builder.with_virtual_hosted_style_request(!task.bucket.contains('.')),
        Some(url) => builder
            .with_endpoint(endpoint(url, task.path_style, &task.bucket))
            .with_virtual_hosted_style_request(!task.path_style),
    };
    builder = match &task.keys {
        Some(ObjectKeys { id, secret, token }) => {
            builder.with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
                key_id: id.clone(),
                secret_key: secret.expose().to_owned(),
                token: token.as_ref().map(|token| token.expose().to_owned()),
            })))
        }
        None => builder.with_skip_signature(true),
    };
    builder.build().map_err(|error| refuse(http::client_not_made(&error)))
}

/// The library's HTTP, over a worker's connections.
#[derive(Clone, Debug)]
struct Connector {
    web: Web,
    read_timeout: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // A fetch has no other requests, and none with a body.
        if request.method() != Method::GET || !request.body().is_empty() {
            let why = WebError::Refused("requests other than GET are not made".to_owned());
            return Err(HttpError::new(HttpErrorKind::Decode, why));
        }
        let url = request.uri().to_string().parse::<Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Decode, error))?;
        let headers = request.headers().clone();
        let answer = self.web.get(&url, headers, self.read_timeout).await.map_err(failed)?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body.map_err(failed))));
        }
        // The library reads the description of an error whole.
        let description = web::document(body, ERROR_BYTES).await.map_err(failed)?;
        Ok(HttpResponse::from_parts(head, description.into()))
    }
}

/// The library sends a request again if it could not be sent or was not answered, but not one that is refused.
fn failed(error: WebError) -> HttpError {
    let kind = match error {
        WebError::Refused(_) | WebError::TooLarge(_) => HttpErrorKind::Decode,
        WebError::Broken(_) => HttpErrorKind::Interrupted,
        WebError::Late(_) => HttpErrorKind::Timeout,
    };
    HttpError::new(kind, error)
}

/// Maps an error of the store to a documented code. The library passes on the store's XML only as text.
fn refused(error: &object_store::Error, bucket: &str, key: &str) -> ArtifactError {
    use object_store::Error;
    if let WebError::Refused(why) = WebError::of(error) {
        return ArtifactError::refused(FailureCode::S3AccessDenied, format!("{why}."));
    }
    let text = error.to_string();
    let code = match code_of(&text) {
        Some("NoSuchKey" | "NoSuchVersion") => FailureCode::S3NoSuchKey,
        Some("NoSuchBucket") => FailureCode::S3NoSuchBucket,
        Some("InvalidObjectState") => FailureCode::S3InvalidObject,
        Some(
            "PermanentRedirect" | "TemporaryRedirect" | "Redirect" | "IllegalLocationConstraintException",
        ) => FailureCode::S3CrossRegionAccessDenied,
        // S3 uses this code for other malformed headers, too, which this library does not send.
        Some("AuthorizationHeaderMalformed") if text.contains("region") => {
            FailureCode::S3CrossRegionAccessDenied
        }
        // The library's message for S3's redirects, which have no Location.
        _ if text.contains("Received redirect without LOCATION") => FailureCode::S3CrossRegionAccessDenied,
        _ => match error {
            Error::NotFound { .. } => FailureCode::S3NoSuchKey,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => FailureCode::S3AccessDenied,
            Error::Precondition { .. } => FailureCode::S3InvalidObject,
            _ => {
                return ArtifactError::Transport {
                    what: "reading the artifact from the object store",
                    why: http::in_full(error),
                };
            }
        },
    };
    let what = match code {
        FailureCode::S3NoSuchKey => format!("The code artifact s3://{bucket}/{key} does not exist."),
        FailureCode::S3NoSuchBucket => format!("The bucket {bucket} of the code artifact does not exist."),
        FailureCode::S3InvalidObject => {
            format!("The code artifact s3://{bucket}/{key} cannot be read as it is stored.")
        }
        FailureCode::S3CrossRegionAccessDenied => format!("The bucket {bucket} is in another region."),
        _ => format!("The build role may not read the code artifact s3://{bucket}/{key}."),
    };
    ArtifactError::refused(code, what)
}

/// The code in an error of S3: `<Code>NoSuchKey</Code>`.
fn code_of(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}
