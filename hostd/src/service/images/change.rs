//! CreateMicrovmImage and UpdateMicrovmImage.

use hearth_model::image::ImageName;
use hearth_proto::microvms::v1::{
    CreateMicrovmImageRequest, MicrovmImageDetails, MicrovmImageVersion, UpdateMicrovmImageRequest,
};

use super::super::Service;
use super::super::error::ServiceError;
use super::super::idempotency::{ClientToken, Replay};
use super::super::pipeline::{Admitted, Handler};
use super::configuration::{common, configuration};
use super::response::{details, refused};
use crate::access::Caller;
use crate::lifecycle::image::Image;

/// Number of attempts when the client token is used or expires in the meantime.
const ATTEMPTS: u32 = 3;

/// The image becomes CREATING, and the build of its version 1.0 starts.
impl Handler for CreateMicrovmImageRequest {
    type Response = MicrovmImageDetails;
    type Target = ImageName;

    const ATTEMPTS: u32 = ATTEMPTS;

    fn target(&self, _: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(ImageName { account: caller.account.clone(), name: self.name.clone().unwrap_or_default() })
    }

    fn client_token(&self) -> Option<&str> {
        self.client_token.as_deref()
    }

    fn replay(
        &self,
        service: &Service,
        caller: &Caller,
    ) -> Result<Replay<MicrovmImageDetails>, ServiceError> {
        service.replay(caller, self)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, image) = (call.service, &call.target);
        let arn = service.config().image_arn(&image.account, &image.name);
        let config = requested(service, &image.account, &arn, common(&call.request))?;
        service.pass_role(call.caller, image, &call.request).await?;
        service.admit_to_disk(&image.account)?;
        let tags = call.request.tags.clone();
        let remember = remembering(service, std::mem::take(&mut call.token));
        let created = service.images().create(&image.account, &image.name, tags, config, remember).await;
        created.map(|image| details(&image)).map_err(|error| refused(error, &image.account, arn, None))
    }
}

/// The image becomes UPDATING, and the build of its next version starts. The new version inherits nothing from the
/// previous one.
impl Handler for UpdateMicrovmImageRequest {
    type Response = MicrovmImageDetails;
    type Target = ImageName;

    const ATTEMPTS: u32 = ATTEMPTS;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    fn client_token(&self) -> Option<&str> {
        self.client_token.as_deref()
    }

    fn replay(
        &self,
        service: &Service,
        caller: &Caller,
    ) -> Result<Replay<MicrovmImageDetails>, ServiceError> {
        service.replay(caller, self)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, image) = (call.service, &call.target);
        let arn = service.config().image_arn(&image.account, &image.name);
        let config = requested(service, &image.account, &arn, call.request.clone())?;
        service.pass_role(call.caller, image, &call.request).await?;
        service.admit_to_disk(&image.account)?;
        let remember = remembering(service, std::mem::take(&mut call.token));
        let updated = service.images().update(&image.account, &image.name, config, remember).await;
        updated.map(|image| details(&image)).map_err(|error| refused(error, &image.account, arn, None))
    }
}

/// The requested configuration of a version of the image `arn`. It is computed for new requests only: a repeated
/// request gets its stored response, even if what it requests is not available any more.
fn requested(
    service: &Service,
    account: &str,
    arn: &str,
    request: UpdateMicrovmImageRequest,
) -> Result<MicrovmImageVersion, ServiceError> {
    let parts = service.parts();
    configuration(&parts.config, (&parts.artifacts, account), &parts.bases, arn.to_owned(), request)
}

/// Returns the function that makes the batch which stores a token together with the response.
fn remembering(
    service: &Service,
    token: ClientToken,
) -> impl Fn(&Image) -> crate::store::Batch + Send + Sync + use<> {
    let service = service.clone();
    move |image| service.remember(&token, &details(image), Some(&image.record.uid))
}
