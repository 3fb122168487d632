//! The HTTP requests to one registry: signing in, manifests, blobs.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md>

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_host::roles::Secret;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use oci_client::Reference;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use url::Url;

use super::challenge::Challenge;
use super::manifest::{ACCEPTED, is_sha256};
use super::{MAX_DOCUMENT_BYTES, refused};
use crate::artifact::download::hex;
use crate::artifact::error::ArtifactError;
use crate::artifact::web::{self, Received, Web, WebError};
use crate::artifact::worker::ImageTask;
use crate::failure::FailureCode;

/// Longest time without a byte in a transfer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of the answer with a token.
const TOKEN_BYTES: usize = 64 << 10;

/// The URL of an image's registry.
pub(in crate::artifact) fn url(image: &Reference, plain_http: bool) -> Result<Url, ArtifactError> {
    let scheme = if plain_http { "http" } else { "https" };
    let url = Url::parse(&format!("{scheme}://{}/v2/", image.resolve_registry()));
    url.map_err(|_| refused(image, "has a registry whose name is none"))
}

/// A registry, signed in to for one image.
pub(super) struct Registry<'i> {
    image: &'i Reference,
    web: Web,
    url: Url,
    authorization: Option<HeaderValue>,
}

/// The answer of a server of tokens; some give one name to the token, some the other.
#[derive(Deserialize)]
struct Token {
    token: Option<Secret>,
    access_token: Option<Secret>,
}

impl<'i> Registry<'i> {
    /// Signs in, if the registry requires it.
    pub(super) async fn sign_in(
        web: Web,
        task: &ImageTask,
        image: &'i Reference,
    ) -> Result<Self, ArtifactError> {
        let url = url(image, task.plain_http)?;
        let mut registry = Self { image, web, url, authorization: None };
        let basic = match (&task.username, &task.password) {
            (Some(user), Some(password)) => {
                let text = STANDARD.encode(format!("{user}:{}", password.expose()));
                Some(registry.header(&format!("Basic {text}"))?)
            }
            _ => None,
        };
        let answer =
            registry.get(&registry.url, HeaderMap::new(), "speaking to the image's registry").await?;
        registry.authorization = match Challenge::of(answer.headers().get_all(WWW_AUTHENTICATE)) {
            None | Some(Challenge::Basic) => basic,
            Some(Challenge::Bearer { realm, service }) => {
                Some(registry.token(&realm, service.as_deref(), basic).await?)
            }
        };
        Ok(registry)
    }

    /// Fetches a token from the server that the registry names.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        basic: Option<HeaderValue>,
    ) -> Result<HeaderValue, ArtifactError> {
        const WHAT: &str = "fetching a token of the image's registry";
        let mut url =
            realm.parse::<Url>().map_err(|_| refused(self.image, "has a registry whose realm is no URL"))?;
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.image.repository()));
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let mut headers = HeaderMap::new();
        if let Some(basic) = basic {
            headers.insert(AUTHORIZATION, basic);
        }
        let answer = self.get(&url, headers, WHAT).await?;
        if answer.status() != StatusCode::OK {
            return Err(refused(self.image, "may not be pulled"));
        }
        let bytes = match web::document(answer.into_body(), TOKEN_BYTES).await {
            Err(WebError::TooLarge(_)) => {
                return Err(refused(self.image, "has a registry whose token is too large"));
            }
            read => read.map_err(|error| self.failed(error, WHAT))?,
        };
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        let token = token.ok_or_else(|| refused(self.image, "may not be pulled"))?;
        self.header(&format!("Bearer {}", token.expose()))
    }

    fn header(&self, text: &str) -> Result<HeaderValue, ArtifactError> {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| refused(self.image, "has a registry whose token or password no header can hold"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn get(
        &self,
        url: &Url,
        headers: HeaderMap,
        what: &'static str,
    ) -> Result<Response<Received>, ArtifactError> {
        self.web.get(url, headers, READ_TIMEOUT).await.map_err(|error| self.failed(error, what))
    }

    /// Gets something of the image's repository.
    async fn get_own(
        &self,
        path: &str,
        mut headers: HeaderMap,
        what: &'static str,
    ) -> Result<Response<Received>, ArtifactError> {
        let url = self.url.join(&format!("{}/{path}", self.image.repository()));
        let url = url.map_err(|_| refused(self.image, "has a name that no URL can hold"))?;
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        self.get(&url, headers, what).await
    }

    fn failed(&self, error: WebError, what: &'static str) -> ArtifactError {
        match error {
            WebError::Refused(why) => {
                let what = format!("The image {} cannot be pulled: {why}.", self.image);
                ArtifactError::refused(FailureCode::ContainerBuildFailed, what)
            }
            error => ArtifactError::Transport { what, why: error.to_string() },
        }
    }

    /// Fetches a manifest or index, by digest or by the image's tag; returns its digest and bytes.
    pub(super) async fn manifest(&self, digest: Option<&str>) -> Result<(String, Vec<u8>), ArtifactError> {
        const WHAT: &str = "fetching an image's manifest";
        let image = self.image;
        if digest.is_some_and(|digest| !is_sha256(digest)) {
            return Err(refused(image, "has a digest that is not sha256"));
        }
        let path = format!("manifests/{}", digest.or(image.tag()).unwrap_or("latest"));
        let accepted = ACCEPTED.join(", ").parse().ok();
        let headers = accepted.map(|accepted| (ACCEPT, accepted)).into_iter().collect();
        let answer = self.get_own(&path, headers, WHAT).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(refused(image, "does not exist")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(refused(image, "may not be pulled"));
            }
            status => return Err(self.answered(status, WHAT)),
        }
        let bytes = match web::document(answer.into_body(), MAX_DOCUMENT_BYTES).await {
            Err(WebError::TooLarge(_)) => return Err(refused(image, "has a manifest that is too large")),
            read => read.map_err(|error| self.failed(error, WHAT))?,
        };
        let found = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if digest.is_some_and(|digest| digest != found) {
            return Err(refused(image, "has a manifest that is not what its digest says"));
        }
        Ok((found, bytes))
    }

    /// Starts to fetch a blob. The caller has to check its digest and its size.
    pub(super) async fn blob(&self, digest: &str) -> Result<Blob<'_>, ArtifactError> {
        let answer = self.get_own(&format!("blobs/{digest}"), HeaderMap::new(), Blob::WHAT).await?;
        match answer.status() {
            StatusCode::OK => Ok(Blob { body: answer.into_body(), registry: self }),
            StatusCode::NOT_FOUND => Err(refused(self.image, "lacks a blob of its manifest")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(self.image, "may not be pulled")),
            status => Err(self.answered(status, Blob::WHAT)),
        }
    }

    fn answered(&self, status: StatusCode, what: &'static str) -> ArtifactError {
        ArtifactError::Transport { what, why: format!("{} answered {status}", self.image.registry()) }
    }
}

/// A blob that is being received.
pub(super) struct Blob<'i> {
    body: Received,
    registry: &'i Registry<'i>,
}

impl Blob<'_> {
    const WHAT: &'static str = "fetching an image's blob";

    /// Bytes that the registry announces.
    pub(super) fn announced(&self) -> Option<u64> {
        hyper::body::Body::size_hint(&self.body).exact()
    }

    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<bytes::Bytes>, ArtifactError> {
        self.body.chunk().await.map_err(|error| self.registry.failed(error, Self::WHAT))
    }
}
