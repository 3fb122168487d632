//! The base images of this host: the catalogue, under the one name that AWS gives its own base image
//! (docs/behaviour.md, "Base image").

use std::time::{Duration, UNIX_EPOCH};

use hearth_base::{BaseError, Catalogue};
use hearth_proto::microvms::v1 as proto;
use prost_types::Timestamp;

use super::Service;
use super::error::ServiceError;
use crate::access::Caller;
use crate::clock;
use crate::operation::Operation;
use crate::panics;

impl Service {
    /// ListManagedMicrovmImages: the base images. There is one as soon as the catalogue has a version.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_managed_microvm_images(
        &self,
        caller: &Caller,
        request: proto::ListManagedMicrovmImagesRequest,
    ) -> Result<proto::ListManagedMicrovmImagesResponse, ServiceError> {
        self.begin(caller, &request)?;
        self.authorise(caller, Operation::ListManagedMicrovmImages)?;
        let page = self.page(caller, &request)?;
        let versions = self.base_versions(None).await?;
        let item = |first: &Version, last: &Version| proto::ManagedMicrovmImageSummary {
            image_arn: self.config().base_image_arn(),
            created_at: Some(first.created_at),
            updated_at: Some(last.created_at),
        };
        let items = match (versions.last(), versions.first()) {
            (Some(first), Some(last)) if page.after.is_none() => vec![item(first, last)],
            _ => Vec::new(),
        };
        Ok(proto::ListManagedMicrovmImagesResponse { items, next_token: None })
    }

    /// ListManagedMicrovmImageVersions: the versions of a base image, newest first.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_managed_microvm_image_versions(
        &self,
        caller: &Caller,
        request: proto::ListManagedMicrovmImageVersionsRequest,
    ) -> Result<proto::ListManagedMicrovmImageVersionsResponse, ServiceError> {
        self.begin(caller, &request)?;
        self.authorise(caller, Operation::ListManagedMicrovmImageVersions)?;
        let identifier = request.image_identifier.clone().unwrap_or_default();
        if !self.config().is_base_image(&identifier) {
            self.config().image_name(&caller.account, &identifier)?;
            return Err(ServiceError::ManagedImageNotFound(identifier));
        }
        let page = self.page(caller, &request)?;
        let after = page.after.as_deref().and_then(|last| Some(u64::from_be_bytes(last.try_into().ok()?)));
        let mut versions = self.base_versions(Some((after, page.limit()))).await?;
        let more = versions.len() > page.size;
        versions.truncate(page.size);
        let next_token = match versions.last() {
            Some(last) if more => self.next_token(&page, &last.number.to_be_bytes())?,
            _ => None,
        };
        let items = versions.iter().map(|version| proto::ManagedMicrovmImageVersion {
            image_arn: self.config().base_image_arn(),
            image_version: version.number.to_string(),
            created_at: Some(version.created_at),
            updated_at: Some(version.created_at),
        });
        Ok(proto::ListManagedMicrovmImageVersionsResponse { items: items.collect(), next_token })
    }

    /// Versions of the catalogue, newest first. `part` is an optional version and a number: at most that many versions
    /// before it. Without `part`, the newest and the oldest version.
    async fn base_versions(&self, part: Option<(Option<u64>, usize)>) -> Result<Vec<Version>, ServiceError> {
        let bases = self.parts().bases.clone();
        let found = panics::blocking(move || versions(&bases, part)).await;
        found.map_err(|error| ServiceError::internal(error.to_string()))
    }
}

/// A version of the catalogue.
struct Version {
    number: u64,
    created_at: Timestamp,
}

fn versions(bases: &Catalogue, part: Option<(Option<u64>, usize)>) -> Result<Vec<Version>, BaseError> {
    let mut numbers = bases.versions()?;
    match part {
        Some((before, limit)) => {
            numbers.retain(|number| before.is_none_or(|before| *number < before));
            numbers.truncate(limit);
        }
        None if numbers.len() > 2 => {
            numbers = [numbers.first(), numbers.last()].into_iter().flatten().copied().collect()
        }
        None => {}
    }
    // A version that cannot be read cannot be built on either, so it is left out.
    let version = |number: u64| {
        let created = bases.get(number).ok()?.manifest.created;
        let created_at = clock::timestamp(UNIX_EPOCH.checked_add(Duration::from_secs(created))?);
        Some(Version { number, created_at })
    };
    Ok(numbers.into_iter().filter_map(version).collect())
}
