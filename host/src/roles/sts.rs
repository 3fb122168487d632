//! Requests a role's credentials from an STS: `AssumeRole` of its query protocol, signed with SigV4.
//!
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>

use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::RoleError;
use crate::http::{self, in_full};

use super::credentials::{Credentials, Secret, StaticKeys};
use super::provider::{AssumeRole, Source};

/// Timeout for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of a whole request.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Most bytes of a response that are read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// Gets credentials for a role.
pub(super) async fn assume_role(config: &AssumeRole, role_arn: &str) -> Result<Credentials, RoleError> {
    let keys = match &config.credentials {
        Source::Static(keys) => keys.clone(),
        Source::Environment => from_environment()?,
    };
    let duration = config.duration_seconds.to_string();
    let session = format!("{}{}", config.session_name_prefix, Uuid::new_v4());
    // The serializer is confined to a block: it is not `Send`, so it must not live across an await.
    let form = {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", "AssumeRole")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", config.role_arn.as_deref().unwrap_or(role_arn))
            .append_pair("RoleSessionName", &session)
            .append_pair("DurationSeconds", &duration);
        if let Some(id) = &config.external_id {
            form.append_pair("ExternalId", id);
        }
        form.finish()
    };
    let (status, text) = post(config, &keys, form).await?;
    if status.is_success() {
        credentials(config, &text)
    } else {
        Err(refused(config, role_arn, status, &text))
    }
}

async fn post(
    config: &AssumeRole,
    keys: &StaticKeys,
    body: String,
) -> Result<(reqwest::StatusCode, String), RoleError> {
    let unreachable = |error: reqwest::Error| RoleError::Unreachable {
        endpoint: config.endpoint.clone(),
        why: in_full(&error),
    };
    // The path is signed exactly as it is sent: `/` if the URL has none.
    let mut url = reqwest::Url::parse(&config.endpoint).map_err(|error| wrong(config, &error.to_string()))?;
    url.set_fragment(None);
    let mut request = client(config)?.post(url.clone()).header("content-type", FORM);
    for (name, value) in signature(config, keys, &url, body.as_bytes())? {
        request = request.header(name, value);
    }
    let mut answer = request.body(body).send().await.map_err(unreachable)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(malformed(config, "it is larger than 64 KiB"));
        }
        bytes.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(bytes).map_err(|_| malformed(config, "it is not UTF-8"))?;
    Ok((answer.status(), text))
}

fn client(config: &AssumeRole) -> Result<reqwest::Client, RoleError> {
    http::install_tls();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = &config.ca_file {
        let pem =
            std::fs::read(path).map_err(|error| wrong(config, &format!("{}: {error}", path.display())))?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(config, &in_full(&error)))?;
        builder = builder.tls_certs_merge(certificates);
    } else if config.endpoint.starts_with("http://") {
        // With the system's authorities, the client could not be made on a host that has none at all.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| wrong(config, &http::client_not_made(&error)))
}

/// The headers that sign a request.
fn signature(
    config: &AssumeRole,
    keys: &StaticKeys,
    url: &reqwest::Url,
    body: &[u8],
) -> Result<Vec<(String, String)>, RoleError> {
    let unsigned = |error: &dyn std::error::Error| wrong(config, &format!("signing: {}", in_full(error)));
    let identity = aws_credential_types::Credentials::new(
        &keys.access_key_id,
        keys.secret_access_key.expose(),
        keys.session_token.as_ref().map(|token| token.expose().to_owned()),
        None,
        "roles",
    )
    .into();
    let parameters = SigningParams::builder()
        .identity(&identity)
        .region(&config.region)
        .name("sts")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| unsigned(&error))?
        .into();
    // The signer derives the host header from the URL.
    let headers = [("content-type", FORM)].into_iter();
    let request = SignableRequest::new("POST", url.as_str(), headers, SignableBody::Bytes(body))
        .map_err(|error| unsigned(&error))?;
    let (instructions, _) = sign(request, &parameters).map_err(|error| unsigned(&error))?.into_parts();
    let (headers, _) = instructions.into_parts();
    Ok(headers.into_iter().map(|header| (header.name().to_owned(), header.value().to_owned())).collect())
}

fn from_environment() -> Result<StaticKeys, RoleError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(access_key_id), Some(secret)) => Ok(StaticKeys {
            access_key_id,
            secret_access_key: Secret::new(secret),
            session_token: variable("AWS_SESSION_TOKEN").map(Secret::new),
        }),
        _ => Err(RoleError::NoEnvironment),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumeRoleResponse {
    assume_role_result: AssumeRoleResult,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumeRoleResult {
    credentials: IssuedCredentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IssuedCredentials {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Secret,
    expiration: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorResponse {
    error: ErrorBody,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorBody {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

fn credentials(config: &AssumeRole, text: &str) -> Result<Credentials, RoleError> {
    let response: AssumeRoleResponse =
        quick_xml::de::from_str(text).map_err(|error| malformed(config, &error.to_string()))?;
    let found = response.assume_role_result.credentials;
    let expiration = OffsetDateTime::parse(&found.expiration, &Rfc3339)
        .map_err(|_| malformed(config, "its expiration is no time"))?;
    Ok(Credentials {
        access_key_id: found.access_key_id,
        secret_access_key: found.secret_access_key,
        session_token: Some(found.session_token),
        last_updated: SystemTime::now(),
        expiration: expiration.into(),
    })
}

fn refused(config: &AssumeRole, role_arn: &str, status: reqwest::StatusCode, text: &str) -> RoleError {
    let body = quick_xml::de::from_str::<ErrorResponse>(text)
        .map(|response| response.error)
        .or_else(|_| quick_xml::de::from_str::<ErrorBody>(text))
        .unwrap_or_default();
    let or_status =
        |text: String| if text.is_empty() { status.to_string() } else { text.chars().take(500).collect() };
    if status.is_server_error()
        || status == reqwest::StatusCode::TOO_MANY_REQUESTS
        || is_throttling(&body.code)
    {
        let why = format!("it answered {status}: {}", or_status(body.message));
        return RoleError::Unreachable { endpoint: config.endpoint.clone(), why };
    }
    RoleError::Refused {
        role_arn: config.role_arn.as_deref().unwrap_or(role_arn).to_owned(),
        code: or_status(body.code),
        message: or_status(body.message),
    }
}

/// Whether an error's code means that there were too many requests, for which AWS answers with status 400.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>
fn is_throttling(code: &str) -> bool {
    code.starts_with("Throttl")
        || ["RequestLimitExceeded", "RequestThrottled", "TooManyRequestsException"].contains(&code)
}

fn malformed(config: &AssumeRole, why: &str) -> RoleError {
    RoleError::InvalidResponse { endpoint: config.endpoint.clone(), why: why.to_owned() }
}

fn wrong(config: &AssumeRole, why: &str) -> RoleError {
    RoleError::Config { rule: config.endpoint.clone(), why: why.to_owned() }
}
