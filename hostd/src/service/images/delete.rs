//! DeleteMicrovmImage and DeleteMicrovmImageVersion.

use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{
    DeleteMicrovmImageRequest, DeleteMicrovmImageResponse, DeleteMicrovmImageVersionRequest,
    DeleteMicrovmImageVersionResponse, MicrovmImageState, microvm_image_version_state::Value as VersionState,
};

use super::super::error::{ImageError, ServiceError};
use super::super::pipeline::{Admitted, Handler};
use super::super::{Profile, Service};
use super::response::refused;
use super::versions::number;
use crate::access::Caller;
use crate::builds::ImagesError;
use crate::lifecycle::image::VersionDeletion;

/// Deletes the image with all its versions. Running microVMs continue, unless the profile `aws-strict` keeps the image
/// for them. A repeated call succeeds for a day.
impl Handler for DeleteMicrovmImageRequest {
    type Response = DeleteMicrovmImageResponse;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, image) = (call.service, &call.target);
        let arn = service.config().image_arn(&image.account, &image.name);
        if service.config().profile == Profile::AwsStrict && service.is_in_use(image)? {
            return Err(ImageError::Used.into());
        }
        let state = match service.images().delete(&image.account, &image.name).await {
            Ok(()) => MicrovmImageState::Deleting,
            Err(ImagesError::Deleted) => MicrovmImageState::Deleted,
            Err(error) => return Err(refused(error, &image.account, arn, None)),
        };
        Ok(DeleteMicrovmImageResponse { image_identifier: arn, state: state.into() })
    }
}

/// Deletes a version, unless it is the last one. Running microVMs continue. A repeated call succeeds.
impl Handler for DeleteMicrovmImageVersionRequest {
    type Response = DeleteMicrovmImageVersionResponse;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, image) = (call.service, &call.target);
        let name = call.request.image_version.as_deref().unwrap_or_default();
        let number = number(service, image, name)?;
        let arn = service.config().image_arn(&image.account, &image.name);
        let state = match service.images().delete_version(&image.account, &image.name, number).await {
            Ok(VersionDeletion::Begun) => VersionState::Deleting,
            Ok(VersionDeletion::Gone) => VersionState::Deleted,
            Err(error) => return Err(refused(error, &image.account, arn, Some(name))),
        };
        Ok(DeleteMicrovmImageVersionResponse {
            image_identifier: arn,
            image_version: ImageVersion::from(number).to_string(),
            state: state.into(),
        })
    }
}
