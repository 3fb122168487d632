//! CreateMicrovmImage and UpdateMicrovmImage.

use hearth_model::image::ImageName;
use hearth_proto::microvms::v1::{
    CreateMicrovmImageRequest, MicrovmImageDetails, MicrovmImageVersion, UpdateMicrovmImageRequest,
};

use super::super::Service;
use super::super::error::ServiceError;
use super::super::idempotency::{ClientToken, HasClientToken, Replay};
use super::super::roles::PassesRole;
use super::answer::{details, refused};
use super::configuration::{common, configuration};
use crate::access::Caller;
use crate::builds::ImagesError;
use crate::lifecycle::image::Image;
use crate::operation::Operation;

/// Number of attempts when the client token is used or expires in the meantime.
const TRIES: u32 = 3;

impl Service {
    /// CreateMicrovmImage: the image becomes CREATING, and the build of its version 1.0 starts.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn create_microvm_image(
        &self,
        caller: &Caller,
        request: CreateMicrovmImageRequest,
    ) -> Result<MicrovmImageDetails, ServiceError> {
        self.begin(caller, &request)?;
        let image =
            ImageName { account: caller.account.clone(), name: request.name.clone().unwrap_or_default() };
        self.authorise_image(caller, Operation::CreateMicrovmImage, &image)?;
        let asked = self.asked(&image, || common(&request));
        self.once(caller, &request, &image, asked, |config, remember| {
            let images = self.images().clone();
            let (image, tags) = (image.clone(), request.tags.clone());
            async move { images.create(&image.account, &image.name, tags, config, remember).await }
        })
        .await
    }

    /// UpdateMicrovmImage: the image becomes UPDATING, and the build of its next version starts. The new version
    /// inherits nothing from the previous one.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn update_microvm_image(
        &self,
        caller: &Caller,
        request: UpdateMicrovmImageRequest,
    ) -> Result<MicrovmImageDetails, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::UpdateMicrovmImage, identifier)?;
        let asked = self.asked(&image, || request.clone());
        self.once(caller, &request, &image, asked, |config, remember| {
            let (images, image) = (self.images().clone(), image.clone());
            async move { images.update(&image.account, &image.name, config, remember).await }
        })
        .await
    }

    /// Returns a function that computes the requested configuration. It is called only for new requests: a repeated
    /// request gets its stored response, even if what it requests is not available any more.
    fn asked(
        &self,
        image: &ImageName,
        request: impl Fn() -> UpdateMicrovmImageRequest,
    ) -> impl Fn() -> Result<MicrovmImageVersion, ServiceError> {
        let arn = self.config().image_arn(&image.account, &image.name);
        move || {
            let parts = self.parts();
            configuration(&parts.config, &parts.artifacts, &parts.bases, arn.clone(), request())
        }
    }

    /// Runs a change once for each client token.
    async fn once<R: HasClientToken + PassesRole, F: Future<Output = Result<Image, ImagesError>>>(
        &self,
        caller: &Caller,
        request: &R,
        image: &ImageName,
        asked: impl Fn() -> Result<MicrovmImageVersion, ServiceError>,
        change: impl Fn(MicrovmImageVersion, Remember) -> F,
    ) -> Result<MicrovmImageDetails, ServiceError> {
        let arn = || self.config().image_arn(&image.account, &image.name);
        for _ in 0..TRIES {
            let token = match self.replay(caller, request)? {
                Replay::Answered(answer) => return Ok(answer),
                Replay::New(token) => token,
            };
            let asked = asked()?;
            self.pass_role(caller, image, request).await?;
            match change(asked, self.remembering(token)).await {
                Ok(image) => return Ok(details(&image)),
                Err(ImagesError::Conflict) => {}
                Err(error) => {
                    // An identical call may have been faster; then the image exists, or is busy, because of that call.
                    if let Replay::Answered(answer) = self.replay(caller, request)? {
                        return Ok(answer);
                    }
                    return Err(refused(error, &image.account, arn(), None));
                }
            }
        }
        Err(refused(ImagesError::Conflict, &image.account, arn(), None))
    }

    /// Returns the function that stores a token together with the response.
    fn remembering(&self, token: ClientToken) -> Remember {
        let service = self.clone();
        Box::new(move |image| service.remember(&token, &details(image), Some(&image.record.uid)))
    }
}

/// Makes the batch that is stored along with an image.
type Remember = Box<dyn Fn(&Image) -> crate::store::Batch + Send + Sync>;
