//! The HTTP requests to one registry: signing in, manifests, blobs.
//!
//! `oci-client` signs in and streams blobs. Manifests are fetched here, because it would read them whole without a limit.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use hearth_host::http::{self, in_full};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol, SizedStream};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::StatusCode;
use reqwest::header::ACCEPT;
use sha2::{Digest, Sha256};

use super::manifest::{ACCEPTED, is_sha256};
use super::{MAX_DOCUMENT_BYTES, refused};
use crate::artifact::config::RegistryConfig;
use crate::artifact::download::hex;
use crate::artifact::error::ArtifactError;

/// Timeout for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time without a byte in a transfer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A registry, signed in to for one image.
pub(super) struct Registry<'i> {
    image: &'i Reference,
    config: &'i RegistryConfig,
    client: Client,
    manifests: reqwest::Client,
    token: Option<String>,
}

impl<'i> Registry<'i> {
    /// Signs in, if the registry requires it.
    pub(super) async fn sign_in(
        config: &'i RegistryConfig,
        image: &'i Reference,
    ) -> Result<Self, ArtifactError> {
        http::install_tls();
        let wrong =
            |why: String| ArtifactError::Config { what: format!("the registry {}", image.registry()), why };
        let pem = match &config.ca_file {
            Some(path) => {
                let read = tokio::fs::read(path).await;
                Some(read.map_err(|error| wrong(format!("reading {}: {error}", path.display())))?)
            }
            None => None,
        };
        let authorities = match &pem {
            Some(pem) => {
                reqwest::Certificate::from_pem_bundle(pem).map_err(|error| wrong(error.to_string()))?
            }
            None => Vec::new(),
        };
        let manifests = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tls_certs_merge(authorities)
            .build()
            .map_err(|error| wrong(http::client_not_made(&error)))?;
        let extra_root_certificates =
            pem.into_iter().map(|data| Certificate { encoding: CertificateEncoding::Pem, data }).collect();
        let client = Client::try_from(ClientConfig {
            protocol: if config.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            extra_root_certificates,
            ..ClientConfig::default()
        })
        .map_err(|error| wrong(http::client_not_made(&error)))?;
        let auth = match (&config.username, &config.password) {
            (Some(user), Some(password)) => RegistryAuth::Basic(user.clone(), password.expose().to_owned()),
            _ => RegistryAuth::Anonymous,
        };
        let token = client
            .auth(image, &auth, RegistryOperation::Pull)
            .await
            .map_err(|error| failed(&error, image))?;
        Ok(Self { image, config, client, manifests, token })
    }

    /// Fetches a manifest or index, by digest or by the image's tag; returns its digest and bytes.
    pub(super) async fn manifest(&self, digest: Option<&str>) -> Result<(String, Bytes), ArtifactError> {
        let image = self.image;
        if digest.is_some_and(|digest| !is_sha256(digest)) {
            return Err(refused(image, "has a digest that is not sha256"));
        }
        let transport = |error: reqwest::Error| ArtifactError::Transport {
            what: "fetching an image's manifest",
            why: in_full(&error),
        };
        let url = format!(
            "{}://{}/v2/{}/manifests/{}",
            if self.config.plain_http { "http" } else { "https" },
            image.resolve_registry(),
            image.repository(),
            digest.or(image.tag()).unwrap_or("latest"),
        );
        let mut request = self.manifests.get(url).header(ACCEPT, ACCEPTED.join(", "));
        request = match (&self.token, &self.config.username) {
            (Some(token), _) => request.bearer_auth(token),
            (None, Some(user)) => {
                request.basic_auth(user, self.config.password.as_ref().map(|it| it.expose()))
            }
            (None, None) => request,
        };
        let answer = request.send().await.map_err(transport)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(refused(image, "does not exist")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(refused(image, "may not be pulled"));
            }
            status => {
                let why = format!("{} answered {status}", image.registry());
                return Err(ArtifactError::Transport { what: "fetching an image's manifest", why });
            }
        }
        let mut bytes = Vec::new();
        let mut stream = answer.bytes_stream();
        while let Some(chunk) = stream.try_next().await.map_err(transport)? {
            if (bytes.len() + chunk.len()) as u64 > MAX_DOCUMENT_BYTES {
                return Err(refused(image, "has a manifest that is too large"));
            }
            bytes.extend_from_slice(&chunk);
        }
        let found = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if digest.is_some_and(|digest| digest != found) {
            return Err(refused(image, "has a manifest that is not what its digest says"));
        }
        Ok((found, bytes.into()))
    }

    /// Starts to fetch a blob. The caller has to check its digest again.
    pub(super) async fn blob(&self, digest: &str) -> Result<Blob<'_>, ArtifactError> {
        let stream = self.client.pull_blob_stream(self.image, digest).await;
        Ok(Blob { stream: stream.map_err(|error| failed(&error, self.image))?, image: self.image })
    }
}

/// A blob that is being received.
pub(super) struct Blob<'i> {
    stream: SizedStream,
    image: &'i Reference,
}

impl Blob<'_> {
    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ArtifactError> {
        self.stream.try_next().await.map_err(|error| {
            // The library checks digests, too, and reports a mismatch only in its message.
            if in_full(&error).contains("Digest") || in_full(&error).contains("digest") {
                return refused(self.image, "has a blob that is not what its manifest says");
            }
            ArtifactError::Transport { what: "fetching an image's blob", why: in_full(&error) }
        })
    }
}

fn failed(error: &OciDistributionError, image: &Reference) -> ArtifactError {
    use OciDistributionError as E;
    match error {
        E::AuthenticationFailure(_)
        | E::UnauthorizedError { .. }
        | E::ServerError { code: 401 | 403, .. }
        | E::RegistryTokenDecodeError(_) => refused(image, "may not be pulled"),
        E::RegistryError { .. } | E::ServerError { code: 404, .. } => {
            refused(image, "lacks a blob of its manifest")
        }
        error => ArtifactError::Transport { what: "speaking to the image's registry", why: in_full(error) },
    }
}
