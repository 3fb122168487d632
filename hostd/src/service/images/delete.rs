//! DeleteMicrovmImage and DeleteMicrovmImageVersion.

use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{
    DeleteMicrovmImageRequest, DeleteMicrovmImageResponse, DeleteMicrovmImageVersionRequest,
    DeleteMicrovmImageVersionResponse, MicrovmImageState, microvm_image_version_state::Value as VersionState,
};

use super::super::Service;
use super::super::error::ServiceError;
use super::answer::refused;
use crate::access::Caller;
use crate::builds::ImagesError;
use crate::lifecycle::image::VersionDeletion;
use crate::operation::Operation;

impl Service {
    /// DeleteMicrovmImage: deletes the image with all its versions. Running microVMs continue. A repeated call succeeds
    /// for a day.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn delete_microvm_image(
        &self,
        caller: &Caller,
        request: DeleteMicrovmImageRequest,
    ) -> Result<DeleteMicrovmImageResponse, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::DeleteMicrovmImage, identifier)?;
        let arn = self.config().image_arn(&image.account, &image.name);
        let state = match self.images().delete(&image.account, &image.name).await {
            Ok(()) => MicrovmImageState::Deleting,
            Err(ImagesError::Deleted) => MicrovmImageState::Deleted,
            Err(error) => return Err(refused(error, &image.account, arn, None)),
        };
        Ok(DeleteMicrovmImageResponse { image_identifier: arn, state: state.into() })
    }

    /// DeleteMicrovmImageVersion: deletes a version, unless it is the last one. Running microVMs continue. A repeated
    /// call succeeds.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn delete_microvm_image_version(
        &self,
        caller: &Caller,
        request: DeleteMicrovmImageVersionRequest,
    ) -> Result<DeleteMicrovmImageVersionResponse, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::DeleteMicrovmImageVersion, identifier)?;
        let name = request.image_version.as_deref().unwrap_or_default();
        let number = self.number(&image, name)?;
        let arn = self.config().image_arn(&image.account, &image.name);
        let state = match self.images().delete_version(&image.account, &image.name, number).await {
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
