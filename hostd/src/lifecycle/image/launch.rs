//! The choice of the version that RunMicrovm uses.

use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{
    MicrovmImageState as State, MicrovmImageVersion, MicrovmImageVersionStatus as Status,
    microvm_image_version_state::Value as VersionState,
};
use hearth_proto::store::v1::{ImageRecord, VersionRecord};

/// No version can be run. The error is the same for an image that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("No active version found for MicroVM image {arn}{}", Pinned(.requested.as_deref()))]
pub struct NoActiveVersion {
    /// The image's ARN.
    pub arn: String,
    /// The version as the client wrote it.
    pub requested: Option<String>,
}

struct Pinned<'a>(Option<&'a str>);

impl std::fmt::Display for Pinned<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |version| write!(f, " and version {version}"))
    }
}

/// The number of the version to read for a launch: the one that was requested, or the image's newest active one.
#[must_use]
pub fn requested_version(image: Option<&ImageRecord>, requested: Option<&str>) -> Option<u32> {
    let goes =
        |image: &ImageRecord| matches!(image.state(), State::Deleting | State::DeleteFailed | State::Deleted);
    let image = image.filter(|image| !goes(image))?;
    match requested {
        Some(name) => ImageVersion::number_of(name),
        None => Some(image.latest_active).filter(|number| *number > 0),
    }
}

/// The version to launch: `version` is the record that was read under the number from [`requested_version`].
///
/// # Errors
/// [`NoActiveVersion`].
pub fn resolve(
    arn: &str,
    image: Option<&ImageRecord>,
    version: Option<VersionRecord>,
    requested: Option<&str>,
) -> Result<VersionRecord, NoActiveVersion> {
    let number = requested_version(image, requested);
    let usable = |record: &VersionRecord| {
        Some(record.number) == number
            && image.is_some_and(|image| image.uid == record.image_uid)
            && record.version.as_ref().is_some_and(is_active)
    };
    version
        .filter(usable)
        .ok_or_else(|| NoActiveVersion { arn: arn.to_owned(), requested: requested.map(str::to_owned) })
}

/// Whether RunMicrovm may use a version.
pub(super) fn is_active(version: &MicrovmImageVersion) -> bool {
    version.state() == VersionState::Successful && version.status() == Status::Active
}
