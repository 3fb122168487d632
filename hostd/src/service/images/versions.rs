//! UpdateMicrovmImageVersion.

use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{MicrovmImageVersion, UpdateMicrovmImageVersionRequest};

use super::super::Service;
use super::super::error::ServiceError;
use super::super::pipeline::{Admitted, Handler};
use super::response::{refused, version};
use crate::access::Caller;

/// Activates or deactivates a version for RunMicrovm. Running microVMs continue.
impl Handler for UpdateMicrovmImageVersionRequest {
    type Response = MicrovmImageVersion;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, image) = (call.service, &call.target);
        let name = call.request.image_version.as_deref().unwrap_or_default();
        let number = number(service, image, name)?;
        let status = call.request.status();
        let changed = service.images().set_status(&image.account, &image.name, number, status).await;
        let arn = service.config().image_arn(&image.account, &image.name);
        changed
            .map(|image| version(&image, number))
            .map_err(|error| refused(error, &image.account, arn, Some(name)))
    }
}

/// The number of the version that a request names.
pub(super) fn number(service: &Service, image: &ImageName, version: &str) -> Result<u32, ServiceError> {
    ImageVersion::number_of(version).ok_or_else(|| service.no_version(image, version))
}
