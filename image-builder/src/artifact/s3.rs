//! Artifacts in an S3-compatible object store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use hearth_host::http;
use hearth_host::roles::{Credentials, Secret, StaticKeys};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::path::Path as Key;
use object_store::{Certificate, ClientOptions, ObjectStoreExt, RetryConfig, StaticCredentialProvider};

use super::config::S3Config;
use super::download::Download;
use super::error::ArtifactError;
use crate::failure::FailureCode;

/// Timeout for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a failed request is retried.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// The keys that a request is signed with.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    id: &'a String,
    secret: &'a Secret,
    token: Option<&'a Secret>,
}

impl<'a> Keys<'a> {
    /// The build role's keys, or else those of the configuration that the account may use.
    pub(super) fn of(role: Option<&'a Credentials>, configured: Option<&'a StaticKeys>) -> Option<Self> {
        match (role, configured) {
            (Some(role), _) => Some(Self {
                id: &role.access_key_id,
                secret: &role.secret_access_key,
                token: role.session_token.as_ref(),
            }),
            (None, Some(keys)) => Some(Self {
                id: &keys.access_key_id,
                secret: &keys.secret_access_key,
                token: keys.session_token.as_ref(),
            }),
            (None, None) => None,
        }
    }
}

/// Copies an object to `download`; without keys, the request is not signed.
pub(super) async fn get(
    config: &S3Config,
    keys: Option<Keys<'_>>,
    bucket: &str,
    key: &str,
    download: &mut Download<'_, '_>,
) -> Result<(), ArtifactError> {
    let store = store(config, keys, bucket)?;
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
        download.write(&bytes).await?;
    }
    Ok(())
}

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
        _ => Ok(()),
    }
}

fn store(config: &S3Config, keys: Option<Keys<'_>>, bucket: &str) -> Result<AmazonS3, ArtifactError> {
    http::install_tls();
    let refuse = |why: String| ArtifactError::Config { what: "the object store".into(), why };
    let mut client = ClientOptions::new()
        .with_allow_http(config.allow_http)
        .with_connect_timeout(CONNECT_TIMEOUT)
        // The time without a byte is limited, not the time of the whole transfer.
        .with_timeout_disabled()
        .with_read_timeout(Duration::from_secs(config.read_timeout_seconds));
    if let Some(path) = &config.ca_file {
        let pem =
            std::fs::read(path).map_err(|error| refuse(format!("reading {}: {error}", path.display())))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| refuse(error.to_string()))?;
        client = certificates.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    let retry =
        RetryConfig { max_retries: config.max_retries, retry_timeout: RETRY_TIMEOUT, ..Default::default() };
    let mut builder =
        AmazonS3Builder::new().with_region(&config.region).with_bucket_name(bucket).with_retry(retry);
    builder = match &config.endpoint {
        // A certificate for *.s3.region.amazonaws.com does not cover names with dots.
        None => builder.with_virtual_hosted_style_request(!bucket.contains('.')),
        Some(endpoint) if config.path_style => builder.with_endpoint(endpoint.trim_end_matches('/')),
        Some(endpoint) => builder
            .with_endpoint(endpoint.trim_end_matches('/').replacen("://", &format!("://{bucket}."), 1))
            .with_virtual_hosted_style_request(true),
    };
    if config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        // With the system's certificates, the client could not be made on a host that has none.
        client = client.with_no_system_certificates(true);
    }
    builder = match keys {
        Some(Keys { id, secret, token }) => {
            builder.with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
                key_id: id.clone(),
                secret_key: secret.expose().to_owned(),
                token: token.map(|token| token.expose().to_owned()),
            })))
        }
        None => builder.with_skip_signature(true),
    };
    builder.with_client_options(client).build().map_err(|error| refuse(http::client_not_made(&error)))
}

/// Maps an error of the store to a documented code. The library passes on the store's XML only as text.
fn refused(error: &object_store::Error, bucket: &str, key: &str) -> ArtifactError {
    use object_store::Error;
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
