//! Fetches an artifact into a work directory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_host::roles::Credentials;
use oci_client::Reference;

use super::config::ArtifactConfig;
use super::download::{Download, Meter, OnProgress, Progress};
use super::error::ArtifactError;
use super::source::{ArtifactSource, ArtifactUriError};
use super::zip::{self, ZipSummary};
use super::{local, oci, s3};
use crate::failure::FailureCode;

/// A fetched and checked artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// A zip with a `Dockerfile`; [`zip::write_tar`] streams its files.
    Zip {
        /// Path of the zip.
        path: PathBuf,
        /// Counts of the zip's content.
        summary: ZipSummary,
        /// SHA-256 of the zip, in hexadecimal.
        sha256: String,
    },
    /// An image for linux/arm64; [`layout::write_tar`](super::oci::layout::write_tar) streams its files.
    Image {
        /// The folder: an OCI image layout with this image only.
        layout: PathBuf,
        /// Digest of the image's manifest, like `sha256:…`.
        digest: String,
    },
}

/// Location of a zip.
enum Zip<'a> {
    Object { account: &'a str, bucket: &'a str, key: &'a str },
    File(&'a Path),
}

/// A bucket on this host, in which each account has artifacts of its own.
pub trait LocalBucket: std::fmt::Debug + Send + Sync {
    /// The bucket's name.
    fn name(&self) -> &str;

    /// Opens an account's artifact; returns it with its size in bytes, or none if the account has none with this key. The
    /// file may have more bytes, which are not the artifact's. The call may block.
    ///
    /// # Errors
    ///
    /// The error of the operating system.
    fn open(&self, account: &str, key: &str) -> io::Result<Option<(File, u64)>>;
}

/// Fetches artifacts.
#[derive(Debug)]
pub struct Fetcher {
    config: ArtifactConfig,
    local: Option<Arc<dyn LocalBucket>>,
}

impl Fetcher {
    /// A fetcher for the sources that `config` permits.
    ///
    /// # Errors
    ///
    /// The configuration is invalid.
    pub fn new(config: ArtifactConfig) -> Result<Self, ArtifactError> {
        s3::check(&config.s3)?;
        config.check_owners().map_err(|(what, why)| ArtifactError::Config { what, why })?;
        if config.registries.get("*").is_some_and(|all| all.iter().any(|registry| registry.plain_http)) {
            let why = "plain_http is for registries that are named, not for *".to_owned();
            return Err(ArtifactError::Config { what: "registries".to_owned(), why });
        }
        Ok(Self { config, local: None })
    }

    /// Fetches from this bucket as well. It takes precedence over a folder or an object store with a bucket of this name.
    #[must_use]
    pub fn with_local(mut self, bucket: Arc<dyn LocalBucket>) -> Self {
        self.local = Some(bucket);
        self
    }

    /// Parses an artifact's URI, for an account.
    ///
    /// # Errors
    ///
    /// The error's message is shown to the client.
    pub fn source(&self, uri: &str, account: &str) -> Result<ArtifactSource, ArtifactUriError> {
        ArtifactSource::parse(uri, &self.config, account)
    }

    /// The limits of archives, with which [`zip::write_tar`] is called for a zip that was fetched here.
    #[must_use]
    pub fn zip_limits(&self) -> &zip::Limits {
        &self.config.limits.zip
    }

    /// Fetches and checks an artifact for an account, from a source that is the account's. `credentials` are the build role's, if it has any. `work` is an empty directory on a file system
    /// with room for the artifact; the caller removes it.
    ///
    /// Dropping the future cancels the fetch. After a cancellation or an error, `work` may hold parts of the artifact.
    ///
    /// # Errors
    ///
    /// The artifact cannot be fetched; [`ArtifactError::state_reason`] is the reason for the user.
    pub async fn fetch(
        &self,
        source: &ArtifactSource,
        account: &str,
        credentials: Option<&Credentials>,
        work: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<Artifact, ArtifactError> {
        match source {
            ArtifactSource::Image(image) => self.fetch_image(image, account, work, on_progress).await,
            ArtifactSource::S3 { bucket, key } => {
                let from = Zip::Object { account, bucket, key };
                self.fetch_zip(from, credentials, work, on_progress).await
            }
            ArtifactSource::File(path) => {
                if !self.config.may_use_files(account) {
                    return Err(not_allowed(account, "files of this host"));
                }
                self.fetch_zip(Zip::File(path), credentials, work, on_progress).await
            }
        }
    }

    async fn fetch_image(
        &self,
        image: &Reference,
        account: &str,
        work: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<Artifact, ArtifactError> {
        let registry = self.config.registry(image.registry(), account);
        let registry =
            registry.ok_or_else(|| not_allowed(account, &format!("the registry {}", image.registry())))?;
        let layout = work.join("image");
        let digest = oci::pull(registry, &self.config.limits, image, &layout, on_progress).await?;
        Ok(Artifact::Image { layout, digest })
    }

    async fn fetch_zip(
        &self,
        from: Zip<'_>,
        credentials: Option<&Credentials>,
        work: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<Artifact, ArtifactError> {
        let path = work.join("artifact.zip");
        let mut meter = Meter::new(self.config.limits.max_zip_bytes, on_progress);
        let sha256 = {
            let mut download = Download::create(&path, &mut meter).await?;
            match from {
                Zip::Object { account, bucket, key } => {
                    let own = self.local.as_ref().filter(|local| local.name() == bucket);
                    match (own, self.config.buckets.get(bucket)) {
                        (Some(local), _) => {
                            let (file, bytes) = local::open_own(local, account, key).await?;
                            download.expect(bytes)?;
                            local::copy(file, bytes, &mut download).await?;
                        }
                        (None, Some(_)) if !self.config.may_use_bucket(bucket, account) => {
                            return Err(not_allowed(account, &format!("the bucket {bucket}")));
                        }
                        (None, Some(directory)) => {
                            let file = local::open_object(&directory.folder, key).await?;
                            local::copy(file, u64::MAX, &mut download).await?;
                        }
                        (None, None) => {
                            let keys = s3::Keys::of(credentials, self.config.s3_keys(account));
                            s3::get(&self.config.s3, keys, bucket, key, &mut download).await?;
                        }
                    }
                }
                Zip::File(file) => {
                    local::copy(local::open_file(file).await?, u64::MAX, &mut download).await?;
                }
            }
            download.finish().await?
        };
        on_progress(Progress::Checking);
        let summary = self.check_zip(&path).await?;
        Ok(Artifact::Zip { path, summary, sha256 })
    }

    async fn check_zip(&self, path: &Path) -> Result<ZipSummary, ArtifactError> {
        let cancelled = Arc::new(AtomicBool::new(false));
        // Stops the thread when this future is dropped.
        let _cancel = CancelOnDrop(Arc::clone(&cancelled));
        let (path, limits) = (path.to_owned(), self.config.limits.zip.clone());
        let checked =
            tokio::task::spawn_blocking(move || zip::check_unless(&path, &limits, &cancelled)).await;
        let checked = checked.map_err(|error| ArtifactError::Io {
            what: "checking the archive",
            source: std::io::Error::other(error),
        })?;
        Ok(checked?)
    }
}

/// The error for a source that is not for the account. [`Fetcher::source`] has refused it before.
fn not_allowed(account: &str, what: &str) -> ArtifactError {
    let what = format!("The account {account} may not use {what}.");
    ArtifactError::refused(FailureCode::S3AccessDenied, what)
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
