//! Fetches and checks the artifacts from which images are built.
//!
//! A [`Fetcher`] copies the artifact at a URI into a work directory: a zip from an S3-compatible object store, from this host's
//! own bucket, from a directory that stands for a bucket, or from a file; an image from a registry. Every artifact is hostile: its bytes are
//! counted, bounded and hashed as they arrive, and checked; the host never unpacks it. All of that happens in a process of its own, the
//! [`worker`]. Errors have the code and sentence of a build's `stateReason`.
//!
//! * [`config`] – permitted sources of artifacts, and limits of their size
//! * [`owners`] – whose sources are
//! * [`source`] – URIs
//! * [`fetch`] – the fetch
//! * [`worker`] – the process that fetches and parses, and its connections
//!
//! In that process:
//!
//! * [`web`] – HTTP, within bounds
//! * [`download`] – writing received bytes to a file: counted, bounded, hashed
//! * [`s3`], [`local`] – sources of zips
//! * [`oci`] – images from registries
//! * [`zip`] – checks of a zip, and its files as a tar

mod config;
mod download;
mod error;
mod fetch;
mod local;
mod oci;
mod owners;
mod s3;
mod source;
mod web;
mod worker;
pub mod zip;

pub use config::{ArtifactConfig, ArtifactLimits, RegistryConfig, S3Config};
pub use download::{OnProgress, Progress};
pub use error::ArtifactError;
pub use fetch::{Artifact, Fetcher, LocalBucket};
pub use owners::{BucketConfig, Registries};
pub use source::{ArtifactSource, ArtifactUriError};
pub use worker::{WORKER_IDS, WorkerArguments, WorkerConfig};
