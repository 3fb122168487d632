//! Read operations on images, their versions and builds.

use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::{ImageRecord, VersionRecord};

use super::Service;
use super::error::ServiceError;
use crate::access::Caller;
use crate::operation::Operation;
use crate::records;
use crate::store::Table;

impl Service {
    /// GetMicrovmImage: returns an image.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn get_microvm_image(
        &self,
        caller: &Caller,
        request: proto::GetMicrovmImageRequest,
    ) -> Result<proto::GetMicrovmImageResponse, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::GetMicrovmImage, identifier)?;
        let record = self.image_record(&image)?;
        Ok(proto::GetMicrovmImageResponse {
            image_arn: self.config().image_arn(&image.account, &image.name),
            state: record.state,
            latest_active_image_version: latest(record.latest_active),
            latest_failed_image_version: latest(record.latest_failed),
            created_at: record.created_at,
            updated_at: record.updated_at,
            tags: record.tags,
            name: record.name,
        })
    }

    /// ListMicrovmImages: the account's images, sorted by name. The filter applies to the entries of a page after the
    /// page is cut, as at AWS, so a page may be short.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_microvm_images(
        &self,
        caller: &Caller,
        request: proto::ListMicrovmImagesRequest,
    ) -> Result<proto::ListMicrovmImagesResponse, ServiceError> {
        self.begin(caller, &request)?;
        self.authorise(caller, Operation::ListMicrovmImages)?;
        let page = self.page(caller, &request)?;
        let (entries, next_token) = self.entries(&page, Table::Images, &records::account(&caller.account))?;
        let filter = request.name_filter.unwrap_or_default();
        let mut items = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let record: ImageRecord = self.db().decode(Table::Images, &key, &value)?;
            if record.name.contains(&filter) {
                items.push(proto::MicrovmImageSummary {
                    image_arn: self.config().image_arn(&record.account, &record.name),
                    state: record.state,
                    latest_active_image_version: latest(record.latest_active),
                    latest_failed_image_version: latest(record.latest_failed),
                    created_at: record.created_at,
                    name: record.name,
                });
            }
        }
        Ok(proto::ListMicrovmImagesResponse { items, next_token })
    }

    /// GetMicrovmImageVersion: returns a version of an image.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn get_microvm_image_version(
        &self,
        caller: &Caller,
        request: proto::GetMicrovmImageVersionRequest,
    ) -> Result<proto::MicrovmImageVersion, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::GetMicrovmImageVersion, identifier)?;
        let record = self.image_record(&image)?;
        let version = self.version_record(&image, &request.image_version.unwrap_or_default())?;
        Ok(told(version, &record))
    }

    /// ListMicrovmImageVersions: the versions of an image, newest first.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_microvm_image_versions(
        &self,
        caller: &Caller,
        request: proto::ListMicrovmImageVersionsRequest,
    ) -> Result<proto::ListMicrovmImageVersionsResponse, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::ListMicrovmImageVersions, identifier)?;
        let page = self.page(caller, &request)?;
        let record = self.image_record(&image)?;
        let prefix = records::of_image(&image.account, &image.name);
        let (entries, next_token) = self.entries(&page, Table::Versions, &prefix)?;
        let mut items = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            items.push(told(self.db().decode(Table::Versions, &key, &value)?, &record));
        }
        Ok(proto::ListMicrovmImageVersionsResponse { items, next_token })
    }

    /// GetMicrovmImageBuild: returns a build of a version.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn get_microvm_image_build(
        &self,
        caller: &Caller,
        request: proto::GetMicrovmImageBuildRequest,
    ) -> Result<proto::GetMicrovmImageBuildResponse, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::GetMicrovmImageBuild, identifier)?;
        let version = request.image_version.unwrap_or_default();
        let build_id = request.build_id.unwrap_or_default();
        let builds = self.builds(&image, &version)?;
        builds.into_iter().find(|build| build.build_id == build_id).ok_or_else(|| {
            let arn = self.config().image_arn(&image.account, &image.name);
            ServiceError::BuildNotFound { arn, version, build_id }
        })
    }

    /// ListMicrovmImageBuilds: the builds of a version.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_microvm_image_builds(
        &self,
        caller: &Caller,
        request: proto::ListMicrovmImageBuildsRequest,
    ) -> Result<proto::ListMicrovmImageBuildsResponse, ServiceError> {
        self.begin(caller, &request)?;
        let identifier = request.image_identifier.as_deref();
        let image = self.named_image(caller, Operation::ListMicrovmImageBuilds, identifier)?;
        let page = self.page(caller, &request)?;
        let mut builds = self.builds(&image, request.image_version.as_deref().unwrap_or_default())?;
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
        let more = builds.len() > page.size;
        builds.truncate(page.size);
        let next_token = match builds.last() {
            Some(last) if more => self.next_token(&page, last.build_id.as_bytes())?,
            _ => None,
        };
        let items = builds.into_iter().map(summary).collect();
        Ok(proto::ListMicrovmImageBuildsResponse { items, next_token })
    }

    fn builds(
        &self,
        image: &ImageName,
        version: &str,
    ) -> Result<Vec<proto::GetMicrovmImageBuildResponse>, ServiceError> {
        let record = self.version_record(image, version)?;
        Ok(record.builds.into_iter().filter_map(|build| build.build).collect())
    }
}

/// A version as clients receive it: with the tags of its image.
fn told(record: VersionRecord, image: &ImageRecord) -> proto::MicrovmImageVersion {
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
