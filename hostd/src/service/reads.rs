//! Read operations on images, their versions and builds.

use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::{ImageRecord, VersionRecord};

use super::Service;
use super::error::{ImageError, ServiceError};
use super::pipeline::{Admitted, Handler, NoImage};
use crate::access::Caller;
use crate::records;
use crate::store::Table;

/// Returns an image.
impl Handler for proto::GetMicrovmImageRequest {
    type Response = proto::GetMicrovmImageResponse;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let image = &call.target;
        let record = call.service.image_record(image)?;
        Ok(proto::GetMicrovmImageResponse {
            image_arn: call.service.config().image_arn(&image.account, &image.name),
            state: record.state,
            latest_active_image_version: latest(record.latest_active),
            latest_failed_image_version: latest(record.latest_failed),
            created_at: record.created_at,
            updated_at: record.updated_at,
            tags: record.tags,
            name: record.name,
        })
    }
}

/// The account's images, sorted by name. The filter applies to the entries of a page after the page is cut, as at AWS,
/// so a page may be short.
impl Handler for proto::ListMicrovmImagesRequest {
    type Response = proto::ListMicrovmImagesResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let service = call.service;
        let page = service.page(call.caller, &call.request)?;
        let prefix = records::account(&call.caller.account);
        let filter = call.request.name_filter.as_deref().unwrap_or_default();
        let (items, next_token) = service.entries(&page, Table::Images, &prefix, |key, value| {
            let record: ImageRecord = service.db().decode(Table::Images, key, value)?;
            Ok(record.name.contains(filter).then(|| proto::MicrovmImageSummary {
                image_arn: service.config().image_arn(&record.account, &record.name),
                state: record.state,
                latest_active_image_version: latest(record.latest_active),
                latest_failed_image_version: latest(record.latest_failed),
                created_at: record.created_at,
                name: record.name,
            }))
        })?;
        Ok(proto::ListMicrovmImagesResponse { items, next_token })
    }
}

/// Returns a version of an image.
impl Handler for proto::GetMicrovmImageVersionRequest {
    type Response = proto::MicrovmImageVersion;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let version = call.request.image_version.as_deref().unwrap_or_default();
        let record = call.service.version_record(&call.target, version)?;
        Ok(version_response(record, &call.service.image_record(&call.target)?))
    }
}

/// The versions of an image, newest first.
impl Handler for proto::ListMicrovmImageVersionsRequest {
    type Response = proto::ListMicrovmImageVersionsResponse;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, image) = (call.service, &call.target);
        let page = service.page(call.caller, &call.request)?;
        let record = service.image_record(image)?;
        let prefix = records::of_image(&image.account, &image.name);
        let (items, next_token) = service.entries(&page, Table::Versions, &prefix, |key, value| {
            Ok(Some(version_response(service.db().decode(Table::Versions, key, value)?, &record)))
        })?;
        Ok(proto::ListMicrovmImageVersionsResponse { items, next_token })
    }
}

/// Returns a build of a version.
impl Handler for proto::GetMicrovmImageBuildRequest {
    type Response = proto::GetMicrovmImageBuildResponse;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, image) = (call.service, &call.target);
        let version = call.request.image_version.as_deref().unwrap_or_default();
        let build_id = call.request.build_id.as_deref().unwrap_or_default();
        let builds = builds(service, image, version)?;
        builds.into_iter().find(|build| build.build_id == build_id).ok_or_else(|| {
            let arn = service.config().image_arn(&image.account, &image.name);
            ImageError::BuildNotFound { arn, version: version.to_owned(), build_id: build_id.to_owned() }
                .into()
        })
    }
}

/// The builds of a version.
impl Handler for proto::ListMicrovmImageBuildsRequest {
    type Response = proto::ListMicrovmImageBuildsResponse;
    type Target = ImageName;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        Ok(service.image(caller, self.image_identifier.as_deref())?)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, request) = (call.service, &call.request);
        let page = service.page(call.caller, request)?;
        let version = request.image_version.as_deref().unwrap_or_default();
        let mut builds = builds(service, &call.target, version)?;
        // A version has one build for each kind of processor, so all of them are read. The cursor contains the id of
        // the page's last build.
        builds.sort_by(|one, other| one.build_id.cmp(&other.build_id));
        builds.retain(|build| {
            let behind = page.after.as_deref().is_none_or(|last| build.build_id.as_bytes() > last);
            behind
                && request.architecture.is_none_or(|wanted| build.architecture == wanted)
                && request.chipset.is_none_or(|wanted| build.chipset == wanted)
                && request
                    .chipset_generation
                    .as_ref()
                    .is_none_or(|wanted| build.chipset_generation == *wanted)
        });
        let key = |build: &proto::GetMicrovmImageBuildResponse| build.build_id.clone().into_bytes();
        let (items, next_token) = service.cut(&page, builds, key, summary)?;
        Ok(proto::ListMicrovmImageBuildsResponse { items, next_token })
    }
}

/// The builds of a version; `version` is the version as the request spells it.
fn builds(
    service: &Service,
    image: &ImageName,
    version: &str,
) -> Result<Vec<proto::GetMicrovmImageBuildResponse>, ServiceError> {
    let record = service.version_record(image, version)?;
    Ok(record.builds.into_iter().filter_map(|build| build.build).collect())
}

/// A version as clients receive it: with the tags of its image.
fn version_response(record: VersionRecord, image: &ImageRecord) -> proto::MicrovmImageVersion {
    proto::MicrovmImageVersion { tags: image.tags.clone(), ..record.version.unwrap_or_default() }
}

fn latest(number: u32) -> Option<String> {
    (number > 0).then(|| ImageVersion::from(number).to_string())
}

fn summary(build: proto::GetMicrovmImageBuildResponse) -> proto::MicrovmImageBuildSummary {
    proto::MicrovmImageBuildSummary {
        image_arn: build.image_arn,
        image_version: build.image_version,
        build_id: build.build_id,
        build_state: build.build_state,
        architecture: build.architecture,
        chipset: build.chipset,
        chipset_generation: build.chipset_generation,
        state_reason: build.state_reason,
        created_at: build.created_at,
    }
}
