//! Conversion of images, versions and errors to responses.

use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{MicrovmImageDetails, MicrovmImageVersion};

use super::super::error::{ImageError, LimitError, ServiceError};
use super::super::quota::Quota;
use crate::builds::{self, ImagesError};
use crate::lifecycle::image::{Image, Refusal};

/// The response for an image, with its newest version, which is the one being built.
pub(super) fn details(image: &Image) -> MicrovmImageDetails {
    let record = &image.record;
    let version = image.versions.get(&record.newest_version).and_then(|version| version.version.clone());
    let version = version.unwrap_or_default();
    let latest = |number: u32| (number > 0).then(|| ImageVersion::from(number).to_string());
    MicrovmImageDetails {
        image_arn: version.image_arn,
        name: record.name.clone(),
        state: record.state,
        image_version: version.image_version,
        latest_active_image_version: latest(record.latest_active),
        latest_failed_image_version: latest(record.latest_failed),
        created_at: record.created_at,
        updated_at: record.updated_at,
        base_image_arn: version.base_image_arn,
        base_image_version: version.base_image_version,
        build_role_arn: version.build_role_arn,
        code_artifact: version.code_artifact,
        description: version.description,
        resources: version.resources,
        cpu_configurations: version.cpu_configurations,
        hooks: version.hooks,
        environment_variables: version.environment_variables,
        egress_network_connectors: version.egress_network_connectors,
        additional_os_capabilities: version.additional_os_capabilities,
        logging: version.logging,
        kms_key_identifier: version.kms_key_identifier,
        tags: record.tags.clone(),
    }
}

/// The response for a version of an image.
pub(super) fn version(image: &Image, number: u32) -> MicrovmImageVersion {
    let version = image.versions.get(&number).and_then(|version| version.version.clone());
    MicrovmImageVersion { tags: image.record.tags.clone(), ..version.unwrap_or_default() }
}

/// Converts an error of the image operations to the one that the client receives. `account` and `arn` are the image's,
/// `version` is the version as the request spells it.
pub(super) fn refused(error: ImagesError, account: &str, arn: String, version: Option<&str>) -> ServiceError {
    match error {
        ImagesError::Exists(name) => ImageError::Exists(name).into(),
        ImagesError::NotFound | ImagesError::Deleted => match version {
            Some(version) => ImageError::VersionNotFound { arn, version: version.to_owned() }.into(),
            None => ImageError::NotFound(arn).into(),
        },
        ImagesError::Refused(refusal) => match refusal {
            Refusal::Busy(state) => ImageError::Busy { arn, state: state.as_str_name() }.into(),
            Refusal::Undeletable(_) => ImageError::Undeletable(arn).into(),
            Refusal::LastVersion => ImageError::LastVersion.into(),
            Refusal::NoVersion { number, .. } => {
                let version = version.map_or_else(|| ImageVersion::from(number).to_string(), str::to_owned);
                ImageError::VersionNotFound { arn, version }.into()
            }
            Refusal::NotSuccessful { .. } => ServiceError::invalid("status", refusal.to_string()),
        },
        ImagesError::Quota { quota, limit } => {
            let (quota, resource) = match quota {
                builds::ImageQuota::Images => (Quota::Images, account.to_owned()),
                builds::ImageQuota::Versions => (Quota::Versions, arn),
                builds::ImageQuota::Builds => (Quota::Builds, account.to_owned()),
            };
            LimitError::QuotaExceeded { quota, limit, resource }.into()
        }
        ImagesError::Conflict => ServiceError::Contended { kind: "MicrovmImage", id: arn },
        ImagesError::Store(error) => ServiceError::Store(error),
        ImagesError::Stopping => ServiceError::Stopping,
    }
}
