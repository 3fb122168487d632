//! ListTags, TagResource, UntagResource: tags of images.

use std::collections::BTreeMap;

use hearth_model::image::ImageName;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::ImageRecord;
use prost::Message as _;

use super::Service;
use super::error::{ImageError, NameError, ServiceError};
use super::pipeline::{Admitted, Handler};
use crate::access::Caller;
use crate::records;
use crate::store::{Batch, CommitError, Table};

/// Greatest number of tags of a resource.
const MAX_TAGS: usize = 50;
/// Number of attempts to change the tags when another request changes the image in the meantime.
const ATTEMPTS: u32 = 16;

type Tags = BTreeMap<String, String>;

/// Returns the tags of an image.
impl Handler for proto::ListTagsRequest {
    type Response = proto::ListTagsResponse;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        tagged(service, caller, self.resource.as_deref())
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        Ok(proto::ListTagsResponse { tags: call.service.image_record(&call.target)?.tags })
    }
}

/// Adds tags to an image, or replaces their values.
impl Handler for proto::TagResourceRequest {
    type Response = proto::TagResourceResponse;
    type Target = ImageName;

    const ATTEMPTS: u32 = ATTEMPTS;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        tagged(service, caller, self.resource.as_deref())
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let added = call.request.tags.clone();
        change_tags(call.service, &call.target, |tags| tags.extend(added)).await?;
        Ok(proto::TagResourceResponse {})
    }
}

/// Removes tags from an image.
impl Handler for proto::UntagResourceRequest {
    type Response = proto::UntagResourceResponse;
    type Target = ImageName;

    const ATTEMPTS: u32 = ATTEMPTS;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        tagged(service, caller, self.resource.as_deref())
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let removed = call.request.tag_keys.clone();
        let remove = |tags: &mut Tags| tags.retain(|key, _| !removed.contains(key));
        change_tags(call.service, &call.target, remove).await?;
        Ok(proto::UntagResourceResponse {})
    }
}

/// The image that an ARN names. MicroVMs have no tags.
fn tagged(service: &Service, caller: &Caller, arn: Option<&str>) -> Result<ImageName, ServiceError> {
    let image = service.image(caller, arn).map_err(|error| match error {
        NameError::InvalidArn(arn) => NameError::NotTaggable(arn),
        other => other,
    });
    Ok(image?)
}

/// Changes the tags of an image.
///
/// # Errors
///
/// [`ImageError::NotFound`], [`ImageError::TooManyTags`]; [`ServiceError::Contended`] if another request has
/// changed the image in the meantime.
async fn change_tags(
    service: &Service,
    image: &ImageName,
    change: impl FnOnce(&mut Tags),
) -> Result<(), ServiceError> {
    let arn = || service.config().image_arn(&image.account, &image.name);
    let key = records::image(&image.account, &image.name);
    let stored = service.db().get_bytes(Table::Images, &key)?;
    let stored = stored.ok_or_else(|| ImageError::NotFound(arn()))?;
    let mut record: ImageRecord = service.db().decode(Table::Images, &key, &stored)?;
    change(&mut record.tags);
    if record.tags.len() > MAX_TAGS {
        return Err(ImageError::TooManyTags { arn: arn(), max: MAX_TAGS }.into());
    }
    let batch = Batch::new().expect_value(Table::Images, key.clone(), stored).put(
        Table::Images,
        key,
        record.encode_to_vec(),
    );
    match service.db().commit(batch).await {
        Ok(()) => Ok(()),
        Err(CommitError::Conflict) => Err(ServiceError::Contended { kind: "MicrovmImage", id: arn() }),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}
