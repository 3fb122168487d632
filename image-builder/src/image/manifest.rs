//! `image.json`.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_host::shape::{MemoryClass, Shape};
use hearth_proto::guest::v1 as proto;
use serde::{Deserialize, Serialize};

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`Manifest::FORMAT`].
    pub format: u32,
    /// What runs in it.
    pub app: App,
    /// Its hooks.
    pub hooks: Hooks,
    /// Whether its container has all capabilities.
    pub all_capabilities: bool,
    /// The memory class that was asked for.
    pub memory: MemoryClass,
    /// What its guests have.
    pub shape: Shape,
    /// Whether its guests have a network card.
    pub network: bool,
    /// Size of the root disk in bytes.
    pub disk_bytes: u64,
    /// What it takes.
    pub sizes: Sizes,
    /// What it was made from.
    pub origin: Origin,
}

impl Manifest {
    /// The format that this release writes and reads.
    pub const FORMAT: u32 = 1;
}

/// What runs in an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct App {
    /// ENTRYPOINT and CMD.
    pub arguments: Vec<String>,
    /// `NAME=value`: the image's, then what the build was given, then the platform's.
    pub environment: Vec<String>,
    /// WORKDIR.
    pub working_directory: String,
    /// USER.
    pub user: String,
    /// What else the Dockerfile said: HEALTHCHECK, SHELL, ONBUILD, VOLUME, EXPOSE, STOPSIGNAL, LABEL, as Docker writes it.
    pub container: BTreeMap<String, serde_json::Value>,
}

impl App {
    /// The app as the agent starts it.
    #[must_use]
    pub fn process(&self) -> proto::Process {
        proto::Process {
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            working_directory: self.working_directory.clone(),
            user: self.user.clone(),
        }
    }
}

/// Hooks of an app (docs/behaviour.md, "Hooks"). A hook that is none is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hooks {
    /// Port on which the app answers them.
    pub port: u16,
    /// Called until the app is ready for the snapshot.
    pub ready: Option<HookSettings>,
    /// Called in a throw-away microVM of the snapshot.
    pub validate: Option<HookSettings>,
    /// Called once in each microVM.
    pub run: Option<HookSettings>,
    /// Called before a suspend.
    pub suspend: Option<HookSettings>,
    /// Called after a resume.
    pub resume: Option<HookSettings>,
    /// Called before the end.
    pub terminate: Option<HookSettings>,
}

/// How a hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSettings {
    /// How long all of its tries have, in seconds.
    pub timeout_seconds: u32,
}

impl HookSettings {
    /// How long all of its tries have.
    #[must_use]
    pub fn timeout(self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }
}

/// Sizes of an image, under the names of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    /// Bytes that the memory snapshot takes on disk.
    pub memory_snapshot_size_in_bytes: u64,
    /// Bytes of the container's files.
    pub code_install_size_in_bytes: u64,
    /// Bytes that the app has written to its disk until the snapshot was taken.
    pub disk_snapshot_size_in_bytes: u64,
}

/// What an image was made from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The artifact's URI.
    pub artifact: String,
    /// SHA-256 of the zip, or the digest of the container image.
    pub digest: String,
    /// The base image.
    pub base: BaseOrigin,
    /// Version of the builder.
    pub builder: String,
}

/// A base image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BaseOrigin {
    /// Its version in the catalogue.
    pub version: u64,
    /// The digest over what it was made from.
    pub digest: String,
}
