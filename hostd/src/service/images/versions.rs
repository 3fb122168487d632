//! UpdateMicrovmImageVersion.

use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{MicrovmImageVersion, UpdateMicrovmImageVersionRequest};

use super::super::Service;
use super::super::error::ServiceError;
use super::answer::{refused, version};
use crate::access::Caller;
use crate::operation::Operation;

impl Service {
    /// UpdateMicrovmImageVersion: activates or deactivates a version for RunMicrovm. Running microVMs continue.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn update_microvm_image_version(
        &self,
        caller: &Caller,
        request: UpdateMicrovmImageVersionRequest,
    ) -> Result<MicrovmImageVersion, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::UpdateMicrovmImageVersion, identifier)?;
        let name = request.image_version.as_deref().unwrap_or_default();
        let number = self.number(&image, name)?;
        let changed = self.images().set_status(&image.account, &image.name, number, request.status()).await;
        let arn = self.config().image_arn(&image.account, &image.name);
        changed
            .map(|image| version(&image, number))
            .map_err(|error| refused(error, &image.account, arn, Some(name)))
    }

    /// The number of the version that a request names.
    pub(super) fn number(&self, image: &ImageName, version: &str) -> Result<u32, ServiceError> {
        if let Some(number) = ImageVersion::parse(version).map(ImageVersion::number) {
            return Ok(number);
        }
        // No version can have such a name. If the image does not exist either, that error takes precedence.
        self.image_record(image)?;
        let arn = self.config().image_arn(&image.account, &image.name);
        Err(ServiceError::VersionNotFound { arn, version: version.to_owned() })
    }
}
