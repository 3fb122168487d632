//! The base images of this host: the catalogue, under the one name that AWS gives its own base image
//! (docs/behaviour.md, "Base image").

use std::time::{Duration, UNIX_EPOCH};

use hearth_base::{BaseError, Catalogue};
use hearth_proto::microvms::v1 as proto;
use prost_types::Timestamp;

use super::Service;
use super::error::{ImageError, ServiceError};
use super::pipeline::{Admitted, Handler, NoImage};
use crate::access::Caller;
use crate::clock;

/// The base images. There is one as soon as the catalogue has a version.
impl Handler for proto::ListManagedMicrovmImagesRequest {
    type Response = proto::ListManagedMicrovmImagesResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let service = call.service;
        let page = service.page(call.caller, &call.request)?;
        let versions = base_versions(call, None).await?;
        let item = |first: &Version, last: &Version| proto::ManagedMicrovmImageSummary {
            image_arn: service.config().base_image_arn(),
            created_at: Some(first.created_at),
            updated_at: Some(last.created_at),
        };
        let items = match (versions.last(), versions.first()) {
            (Some(first), Some(last)) if page.after.is_none() => vec![item(first, last)],
            _ => Vec::new(),
        };
        Ok(proto::ListManagedMicrovmImagesResponse { items, next_token: None })
    }
}

/// The versions of a base image, newest first. The target is whether the image is the base image of this host.
impl Handler for proto::ListManagedMicrovmImageVersionsRequest {
    type Response = proto::ListManagedMicrovmImageVersionsResponse;
    type Target = NoImage<bool>;

    fn target(&self, service: &Service, caller: &Caller) -> Result<NoImage<bool>, ServiceError> {
        let identifier = self.image_identifier.as_deref();
        let known = service.config().is_base_image(identifier.unwrap_or_default());
        if !known {
            service.image(caller, identifier)?;
        }
        Ok(NoImage(known))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let service = call.service;
        if !call.target.0 {
            let identifier = call.request.image_identifier.clone().unwrap_or_default();
            return Err(ImageError::ManagedNotFound(identifier).into());
        }
        let page = service.page(call.caller, &call.request)?;
        let after = page.after.as_deref().and_then(|last| Some(u64::from_be_bytes(last.try_into().ok()?)));
        let versions = base_versions(call, Some((after, page.limit()))).await?;
        let item = |version: Version| proto::ManagedMicrovmImageVersion {
            image_arn: service.config().base_image_arn(),
            image_version: version.number.to_string(),
            created_at: Some(version.created_at),
            updated_at: Some(version.created_at),
            status: proto::ManagedMicrovmImageVersionStatus::Available.into(),
            supported_cpu_configurations: vec![proto::CpuConfiguration {
                architecture: Some(proto::Architecture::Arm64.into()),
            }],
        };
        let key = |version: &Version| version.number.to_be_bytes().to_vec();
        let (items, next_token) = service.cut(&page, versions, key, item)?;
        Ok(proto::ListManagedMicrovmImageVersionsResponse { items, next_token })
    }
}

/// Versions of the catalogue, newest first. `part` is an optional version and a number: at most that many versions
/// before it. Without `part`, the newest and the oldest version.
async fn base_versions<H: Handler>(
    call: &Admitted<'_, H>,
    part: Option<(Option<u64>, usize)>,
) -> Result<Vec<Version>, ServiceError> {
    let bases = call.service.parts().bases.clone();
    let found = call.service.catalogue().run(&call.caller.account, move || versions(&bases, part)).await?;
    found.map_err(|error| ServiceError::internal(error.to_string()))
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
