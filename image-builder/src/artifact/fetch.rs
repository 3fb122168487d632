//! Fetches an artifact into a work directory.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_host::roles::Credentials;
use oci_client::Reference;

use super::config::ArtifactConfig;
use super::download::OnProgress;
use super::error::ArtifactError;
use super::local::blocking;
use super::source::{ArtifactSource, ArtifactUriError};
use super::worker::{self, Facts, ImageTask, Job, Named, ObjectTask, Origin, Task, WorkerConfig};
use super::zip::ZipSummary;
use super::{local, oci, s3};
use crate::failure::FailureCode;

/// A fetched and checked artifact. [`Fetcher::send`] makes a stream of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// A zip with a `Dockerfile`.
    Zip {
        /// Path of the zip.
        path: PathBuf,
        /// Counts of the zip's content.
        summary: ZipSummary,
        /// SHA-256 of the zip, in hexadecimal.
        sha256: String,
    },
    /// An image for linux/arm64.
    Image {
        /// Path of the tar of an OCI image layout with this image only.
        tar: PathBuf,
        /// Digest of the image's manifest, like `sha256:…`.
        digest: String,
    },
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

/// Fetches artifacts, each in a worker of its own.
#[derive(Debug)]
pub struct Fetcher {
    config: ArtifactConfig,
    local: Option<Arc<dyn LocalBucket>>,
    worker: WorkerConfig,
}

impl Fetcher {
    /// A fetcher for the sources that `config` permits.
    ///
    /// # Errors
    ///
    /// The configuration is invalid.
    pub fn new(config: ArtifactConfig) -> Result<Self, ArtifactError> {
        s3::check(&config.s3)?;
        config.check().map_err(|(what, why)| ArtifactError::Config { what, why })?;
        Ok(Self { config, local: None, worker: WorkerConfig::default() })
    }

    /// Fetches from this bucket as well. It takes precedence over a folder or an object store with a bucket of this name.
    #[must_use]
    pub fn with_local(mut self, bucket: Arc<dyn LocalBucket>) -> Self {
        self.local = Some(bucket);
        self
    }

    /// Starts workers in this way.
    #[must_use]
    pub fn with_worker(mut self, worker: WorkerConfig) -> Self {
        self.worker = worker;
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

    /// Fetches and checks an artifact for an account, from a source that is the account's. `credentials` are the build role's, if
    /// it has any. `work` is an empty directory on a file system with room for the artifact, to which only root may write; the caller
    /// removes it.
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
        let is_image = matches!(source, ArtifactSource::Image(_));
        let path = work.join(if is_image { "image.tar" } else { "artifact.zip" });
        let job = self.job(source, account, credentials, &path).await?;
        match worker::run(&self.worker, job, work, on_progress).await? {
            Facts::Zip { summary, sha256 } if !is_image && is_sha256(&sha256) => {
                Ok(Artifact::Zip { path, summary, sha256 })
            }
            Facts::Image { digest } if is_image && digest.strip_prefix("sha256:").is_some_and(is_sha256) => {
                Ok(Artifact::Image { tar: path, digest })
            }
            facts => Err(not_asked_for(&facts)),
        }
    }

    /// Writes a fetched artifact to `to` as a tar: the files of a zip, the layout of an image. If the reader stops, that is no error.
    ///
    /// `work` is the directory that it was fetched into. Dropping the future ends the stream. After an error the tar has no end, and
    /// its reader must not treat it as complete.
    ///
    /// # Errors
    ///
    /// The artifact cannot be read, or the zip turns out to be damaged.
    pub async fn send(&self, artifact: &Artifact, work: &Path, to: OwnedFd) -> Result<(), ArtifactError> {
        match artifact {
            Artifact::Zip { path, .. } => {
                let from = open(path).await?;
                let job = Job {
                    task: Task::Tar { limits: self.config.limits.zip.clone() },
                    descriptors: vec![from.into(), to],
                    named: Named::default(),
                    authorities: false,
                    // It writes no file.
                    file_bytes: 0,
                    memory: self.memory(),
                };
                match worker::run(&self.worker, job, work, &|_| ()).await? {
                    Facts::Sent => Ok(()),
                    facts => Err(not_asked_for(&facts)),
                }
            }
            Artifact::Image { tar, .. } => {
                let mut from = open(tar).await?;
                let copied = blocking(move || io::copy(&mut from, &mut File::from(to))).await;
                match copied {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                        Err(ArtifactError::io("sending the image")(error))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// What a worker has to do for a source. Makes the file that it writes.
    async fn job(
        &self,
        source: &ArtifactSource,
        account: &str,
        credentials: Option<&Credentials>,
        path: &Path,
    ) -> Result<Job, ArtifactError> {
        match source {
            ArtifactSource::Image(image) => self.pull(image, account, path).await,
            ArtifactSource::S3 { bucket, key } => {
                let own = self.local.as_ref().filter(|local| local.name() == bucket);
                match (own, self.config.buckets.get(bucket)) {
                    (Some(local), _) => {
                        let (file, bytes) = local::open_own(local, account, key).await?;
                        self.copy(file, Some(bytes), path).await
                    }
                    (None, Some(_)) if !self.config.may_use_bucket(bucket, account) => {
                        Err(not_allowed(account, &format!("the bucket {bucket}")))
                    }
                    (None, Some(directory)) => {
                        self.copy(local::open_object(&directory.folder, key).await?, None, path).await
                    }
                    (None, None) => self.get(bucket, key, account, credentials, path).await,
                }
            }
            ArtifactSource::File(_) if !self.config.may_use_files(account) => {
                Err(not_allowed(account, "files of this host"))
            }
            ArtifactSource::File(file) => self.copy(local::open_file(file).await?, None, path).await,
        }
    }

    async fn copy(&self, from: File, bytes: Option<u64>, path: &Path) -> Result<Job, ArtifactError> {
        let task = Task::Copy { bytes, limits: self.config.limits.clone() };
        Ok(Job {
            task,
            descriptors: vec![create(path).await?.into(), from.into()],
            named: Named::default(),
            authorities: false,
            file_bytes: self.config.limits.max_zip_bytes,
            memory: self.memory(),
        })
    }

    async fn get(
        &self,
        bucket: &str,
        key: &str,
        account: &str,
        credentials: Option<&Credentials>,
        path: &Path,
    ) -> Result<Job, ArtifactError> {
        let config = &self.config.s3;
        let task = Task::Object(ObjectTask {
            endpoint: config.endpoint.clone(),
            region: config.region.clone(),
            path_style: config.path_style,
            max_retries: config.max_retries,
            read_timeout_seconds: config.read_timeout_seconds,
            keys: s3::keys(credentials, self.config.s3_keys(account)),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            limits: self.config.limits.clone(),
        });
        Ok(Job {
            task,
            descriptors: with_authorities(create(path).await?, config.ca_file.as_deref()).await?,
            named: s3::named(config, bucket),
            authorities: true,
            file_bytes: self.config.limits.max_zip_bytes,
            memory: self.memory(),
        })
    }

    async fn pull(&self, image: &Reference, account: &str, path: &Path) -> Result<Job, ArtifactError> {
        let registry = self.config.registry(image.registry(), account);
        let registry =
            registry.ok_or_else(|| not_allowed(account, &format!("the registry {}", image.registry())))?;
        let wrong = |why| ArtifactError::Config { what: format!("the registry {}", image.registry()), why };
        let own = Origin::of(&oci::url(image, registry.plain_http)?);
        let mut named = Named {
            servers: registry.servers().map_err(wrong)?,
            own: None,
            others: "endpoints of the registry",
        };
        if self.config.is_named(image.registry()) {
            named.servers.extend(own);
        } else {
            // Of a registry that is not named, nothing else can be named either.
            named.others = "artifacts.registries";
            named.own = own.map(|own| (own, "artifacts.registries"));
        }
        let task = Task::Image(ImageTask {
            image: image.whole(),
            plain_http: registry.plain_http,
            username: registry.username.clone(),
            password: registry.password.clone(),
            limits: self.config.limits.clone(),
        });
        Ok(Job {
            task,
            descriptors: with_authorities(create(path).await?, registry.ca_file.as_deref()).await?,
            named,
            authorities: true,
            file_bytes: self.config.limits.max_image_bytes.saturating_add(IMAGE_EXTRA),
            memory: self.memory(),
        })
    }

    /// Bytes of memory that a worker may use: most of it goes into the directory of a zip.
    fn memory(&self) -> u64 {
        self.config.limits.zip.max_directory_bytes.saturating_mul(DIRECTORY_FACTOR).saturating_add(MEMORY)
    }
}

/// Bytes of an image's tar beside its blobs: headers and documents.
const IMAGE_EXTRA: u64 = 64 << 20;
/// Bytes of memory of a worker beside the directory of a zip.
const MEMORY: u64 = 256 << 20;
/// Bytes of memory for each byte of the directory of a zip.
const DIRECTORY_FACTOR: u64 = 10;

/// A new file, which must not exist, for a worker to write.
async fn create(path: &Path) -> Result<File, ArtifactError> {
    let path = path.to_owned();
    let created =
        blocking(move || File::options().read(true).write(true).create_new(true).mode(0o600).open(path));
    created.await.map_err(ArtifactError::io("making a file for the artifact"))
}

async fn open(path: &Path) -> Result<File, ArtifactError> {
    let path = path.to_owned();
    blocking(move || File::open(path)).await.map_err(ArtifactError::io("opening the artifact"))
}

/// The descriptors of a worker that fetches: the file to write, and the operator's authorities.
async fn with_authorities(out: File, authorities: Option<&Path>) -> Result<Vec<OwnedFd>, ArtifactError> {
    let mut descriptors = vec![out.into()];
    if let Some(path) = authorities {
        let owned = path.to_owned();
        let opened = blocking(move || File::open(owned)).await;
        let wrong = |why: io::Error| ArtifactError::Config {
            what: "ca_file".to_owned(),
            why: format!("reading {}: {why}", path.display()),
        };
        descriptors.push(opened.map_err(wrong)?.into());
    }
    Ok(descriptors)
}

fn is_sha256(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// The error for a worker that was taken over, or is of another release.
fn not_asked_for(facts: &Facts) -> ArtifactError {
    let kind = match facts {
        Facts::Zip { .. } => "a zip",
        Facts::Image { .. } => "an image",
        Facts::Sent => "an end",
    };
    let log = format!("the fetch worker reports {kind} that does not fit its task");
    ArtifactError::Worker { reason: FailureCode::InternalPlatformError.into(), log }
}

/// The error for a source that is not for the account. [`Fetcher::source`] has refused it before.
fn not_allowed(account: &str, what: &str) -> ArtifactError {
    let what = format!("The account {account} may not use {what}.");
    ArtifactError::refused(FailureCode::S3AccessDenied, what)
}
