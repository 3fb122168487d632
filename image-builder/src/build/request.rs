//! What is to be built.

use std::collections::BTreeMap;

use hearth_host::network::Egress;
use hearth_host::roles::RoleUse;
use hearth_host::shape::{Burst, MemoryClass};

use crate::image::Hooks;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Where the artifact is: `s3://bucket/key`, and what the configuration allows beside that.
    pub artifact: String,
    /// The role with whose credentials it is fetched, and which the build has; and the account that builds.
    pub build_role: Option<RoleUse>,
    /// Version of the base image; the newest where none is given.
    pub base: Option<u64>,
    /// The memory class.
    pub memory: MemoryClass,
    /// How many times its class a guest gets.
    pub burst: Burst,
    /// Variables for the app, beside those of the Dockerfile.
    pub environment: BTreeMap<String, String>,
    /// The app's hooks.
    pub hooks: Hooks,
    /// Whether its container has all capabilities.
    pub all_capabilities: bool,
    /// What the build and the app may reach.
    pub egress: Egress,
    /// Who the image is.
    pub platform: Platform,
    /// Builds with the same key use one layer cache; none without.
    pub cache: Option<String>,
}

/// Who the image is: for the app's environment and the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The image's name.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// Its version, like `1.0`.
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

    /// What the metadata service says.
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
