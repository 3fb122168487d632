//! The request to build an image.

use std::collections::BTreeMap;

use hearth_host::network::Egress;
use hearth_model::hooks::Hooks;
use hearth_model::role::RoleUse;
use hearth_model::shape::{Burst, MemoryClass};

/// The request to build an image.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// URI of the artifact: `s3://bucket/key`, and other schemes that the configuration permits.
    pub artifact: String,
    /// The role with whose credentials the artifact is fetched, and which the build has; and the account that builds.
    pub build_role: Option<RoleUse>,
    /// Version of the base image; by default the newest.
    pub base: Option<u64>,
    /// The memory class.
    pub memory: MemoryClass,
    /// Factor of a guest's peak memory to its class.
    pub burst: Burst,
    /// Variables for the app, in addition to those of the Dockerfile.
    pub environment: BTreeMap<String, String>,
    /// The app's hooks.
    pub hooks: Hooks,
    /// Whether the app's container has all capabilities.
    pub all_capabilities: bool,
    /// Egress policy of the build and of the app.
    pub egress: Egress,
    /// The image's name, version, region and account.
    pub platform: Platform,
    /// Key of the layer cache, which builds with the same key share; none for no cache.
    pub cache: Option<String>,
}

/// The identity of an image: for the app's environment and the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The image's name.
    pub name: String,
    /// The image's ARN.
    pub arn: String,
    /// The image's version, like `1.0`.
    pub version: String,
    /// The region.
    pub region: String,
    /// The account.
    pub account: String,
}

impl Platform {
    /// The variables that every app gets (docs/behaviour.md, "Environment of the app").
    #[must_use]
    pub fn environment(&self) -> [String; 4] {
        [
            format!("AWS_LAMBDA_MICROVM_IMAGE_NAME={}", self.name),
            format!("AWS_LAMBDA_MICROVM_IMAGE_ARN={}", self.arn),
            format!("AWS_LAMBDA_MICROVM_IMAGE_VERSION={}", self.version),
            format!("AWS_REGION={}", self.region),
        ]
    }

    /// Content of the metadata service.
    #[must_use]
    pub fn metadata(&self) -> hearth_proto::guest::v1::Metadata {
        hearth_proto::guest::v1::Metadata {
            region: self.region.clone(),
            account_id: self.account.clone(),
            image_arn: self.arn.clone(),
            image_version: self.version.clone(),
        }
    }
}
