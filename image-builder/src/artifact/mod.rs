//! Fetching and checking what an image is built from.
//!
//! A [`Fetcher`] brings what a URI names into a work directory: a zip from an S3-compatible object store, from a directory
//! that stands for a bucket, or from a file; an image from a registry. Whatever comes is hostile: it is counted and bounded as it comes, hashed, and
//! checked; the host never unpacks it. What goes wrong has the code and sentence of a build's `stateReason`.
//!
//! * [`config`] – where artifacts may come from, and how much they may be
//! * [`source`] – URIs
//! * [`fetch`] – the fetch
//! * [`download`] – bytes on their way to a file: counted, bounded, hashed
//! * [`s3`], [`local`] – where zips come from
//! * [`oci`] – images from registries
//! * [`zip`] – what a zip may hold, and its files as a tar

mod config;
mod download;
mod error;
mod fetch;
mod local;
pub mod oci;
mod s3;
mod source;
pub mod zip;

pub use config::{ArtifactConfig, ArtifactLimits, RegistryConfig, S3Config};
pub use download::{OnProgress, Progress};
pub use error::ArtifactError;
pub use fetch::{Artifact, Fetcher};
pub use source::{ArtifactSource, ArtifactUriError};
