//! ListTags, TagResource, UntagResource: tags of images.

use std::collections::BTreeMap;

use hearth_model::image::ImageName;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::ImageRecord;
use prost::Message as _;

use super::Service;
use super::error::ServiceError;
use crate::access::Caller;
use crate::operation::Operation;
use crate::records;
use crate::store::{Batch, CommitError, Table};

/// Greatest number of tags of a resource.
pub const MAX_TAGS: usize = 50;
/// Number of attempts to change the tags when another request changes the image in the meantime.
const ATTEMPTS: u32 = 16;

type Tags = BTreeMap<String, String>;

impl Service {
    /// ListTags: returns the tags of an image.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_tags(
        &self,
        caller: &Caller,
        request: proto::ListTagsRequest,
    ) -> Result<proto::ListTagsResponse, ServiceError> {
        let tags = || {
            self.begin(caller, &request)?;
            let image = self.tagged(caller, Operation::ListTags, request.resource.as_deref())?;
            Ok(self.image_record(&image)?.tags)
        };
        tags().map(|tags| proto::ListTagsResponse { tags }).map_err(ServiceError::of_tags)
    }

    /// TagResource: adds tags to an image, or replaces their values.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn tag_resource(
        &self,
        caller: &Caller,
        request: proto::TagResourceRequest,
    ) -> Result<proto::TagResourceResponse, ServiceError> {
        let image = || {
            self.begin(caller, &request)?;
            self.tagged(caller, Operation::TagResource, request.resource.as_deref())
        };
        let image = image().map_err(ServiceError::of_tags)?;
        self.change_tags(&image, |tags| tags.extend(request.tags.clone()))
            .await
            .map_err(ServiceError::of_tags)?;
        Ok(proto::TagResourceResponse {})
    }

    /// UntagResource: removes tags from an image.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn untag_resource(
        &self,
        caller: &Caller,
        request: proto::UntagResourceRequest,
    ) -> Result<proto::UntagResourceResponse, ServiceError> {
        let image = || {
            self.begin(caller, &request)?;
            self.tagged(caller, Operation::UntagResource, request.resource.as_deref())
        };
        let image = image().map_err(ServiceError::of_tags)?;
        let remove = |tags: &mut Tags| tags.retain(|key, _| !request.tag_keys.contains(key));
        self.change_tags(&image, remove).await.map_err(ServiceError::of_tags)?;
        Ok(proto::UntagResourceResponse {})
    }

    /// The image that an ARN names, if the caller may perform the operation on it. MicroVMs have no tags.
    fn tagged(
        &self,
        caller: &Caller,
        operation: Operation,
        arn: Option<&str>,
    ) -> Result<ImageName, ServiceError> {
        let arn = arn.unwrap_or_default();
        let image = self.config().image_name(&caller.account, arn).map_err(|error| match error {
            ServiceError::InvalidArn(_) => ServiceError::NotTaggable(arn.to_owned()),
            other => other,
        })?;
        self.authorise_image(caller, operation, &image)?;
        Ok(image)
    }

    async fn change_tags(&self, image: &ImageName, change: impl Fn(&mut Tags)) -> Result<(), ServiceError> {
        let arn = || self.config().image_arn(&image.account, &image.name);
        let key = records::image(&image.account, &image.name);
        for _ in 0..ATTEMPTS {
            let stored = self.db().get_bytes(Table::Images, &key)?;
            let stored = stored.ok_or_else(|| ServiceError::ImageNotFound(arn()))?;
            let mut record: ImageRecord = self.db().decode(Table::Images, &key, &stored)?;
            change(&mut record.tags);
            if record.tags.len() > MAX_TAGS {
                return Err(ServiceError::TooManyTags { arn: arn(), max: MAX_TAGS });
            }
            let batch = Batch::new().expect_value(Table::Images, key.clone(), stored).put(
                Table::Images,
                key.clone(),
                record.encode_to_vec(),
            );
            match self.db().commit(batch).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict) => {} // another request was faster
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(ServiceError::Contended { kind: "MicrovmImage", id: arn() })
    }
}
