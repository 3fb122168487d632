//! Errors about images, their versions, builds and tags.

use super::exception::{Family, Kind, Resource};
use crate::lifecycle::image::NoActiveVersion;

/// Errors about images, their versions, builds and tags.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The image does not exist.
    #[error("MicroVMImage not found for MicroVMImageID: {0}")]
    NotFound(String),
    /// The version does not exist; its image may not exist either.
    #[error("MicroVMImage not found for MicroVMImage: {arn}, Version: {version}")]
    VersionNotFound {
        /// The image.
        arn: String,
        /// The version as the request spells it.
        version: String,
    },
    /// The build does not exist.
    #[error(
        "MicroVMImageBuild not found for MicroVMImageID: {arn}, version: {version} and build: {build_id}"
    )]
    BuildNotFound {
        /// The image.
        arn: String,
        /// The version as the request spells it.
        version: String,
        /// The build id from the request.
        build_id: String,
    },
    /// The base image does not exist.
    #[error("Managed MicroVM image not found: {0}")]
    ManagedNotFound(String),
    /// The image has no active version that RunMicrovm could run, or the requested one is not active.
    #[error("No active version found for MicroVM image {arn}{}", and_version(.version))]
    NoActiveVersion {
        /// The image.
        arn: String,
        /// The requested version, if the request names one.
        version: Option<String>,
    },
    /// The version's files are known to be damaged on the host's disk.
    #[error(
        "Version {version} of MicroVM image {arn} is damaged on the disk of this host. Build the image again with UpdateMicrovmImage, or run another version"
    )]
    Damaged {
        /// The image.
        arn: String,
        /// The version.
        version: String,
    },
    /// An image with this name exists already.
    #[error("A MicroVM image with the name '{0}' already exists in this account")]
    Exists(String),
    /// The image is being changed.
    #[error("MicroVM Image is already in state: {state}")]
    Busy {
        /// The image.
        arn: String,
        /// State of the image, like `UPDATING`.
        state: &'static str,
    },
    /// The image is in a state in which it cannot be deleted.
    #[error("Cannot delete MicroVM image in its current state: {0}")]
    Undeletable(String),
    /// MicroVMs of the image have not ended, and the profile `aws-strict` keeps the image for them.
    #[error("Cannot delete microvm image with running microvms.")]
    Used,
    /// The version is the only one of its image and cannot be deleted alone.
    #[error("This is the last version. Please delete the entire image")]
    LastVersion,
    /// More tags than a resource may have.
    #[error("The resource {arn} cannot have more than {max} tags")]
    TooManyTags {
        /// The resource.
        arn: String,
        /// The number of tags allowed.
        max: usize,
    },
}

impl Family for ImageError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_)
            | Self::VersionNotFound { .. }
            | Self::BuildNotFound { .. }
            | Self::ManagedNotFound(_)
            | Self::NoActiveVersion { .. } => Kind::NotFound,
            Self::Busy { .. } | Self::Damaged { .. } => Kind::Conflict,
            Self::Exists(_)
            | Self::Undeletable(_)
            | Self::Used
            | Self::LastVersion
            | Self::TooManyTags { .. } => Kind::Validation,
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Exists(_) => Some("name"),
            Self::Undeletable(_) | Self::Used => Some("imageIdentifier"),
            Self::LastVersion => Some("imageVersion"),
            Self::TooManyTags { .. } => Some("Tags"),
            _ => None,
        }
    }

    fn resource(&self) -> Option<Resource> {
        const IMAGE: &str = "MicrovmImage";
        const VERSION: &str = "MicrovmImageVersion";
        let (kind, id) = match self {
            Self::NotFound(arn) | Self::Busy { arn, .. } | Self::ManagedNotFound(arn) => (IMAGE, arn.clone()),
            Self::NoActiveVersion { arn, version: None } => (IMAGE, arn.clone()),
            Self::NoActiveVersion { arn, version: Some(version) }
            | Self::VersionNotFound { arn, version }
            | Self::Damaged { arn, version } => (VERSION, format!("{arn}:{version}")),
            Self::BuildNotFound { build_id, .. } => ("MicrovmImageBuild", build_id.clone()),
            Self::Exists(_)
            | Self::Undeletable(_)
            | Self::Used
            | Self::LastVersion
            | Self::TooManyTags { .. } => {
                return None;
            }
        };
        Some(Resource { kind, id })
    }
}

fn and_version(version: &Option<String>) -> String {
    version.as_ref().map(|version| format!(" and version {version}")).unwrap_or_default()
}

impl From<NoActiveVersion> for ImageError {
    fn from(error: NoActiveVersion) -> Self {
        Self::NoActiveVersion { arn: error.arn, version: error.requested }
    }
}
