//! `image.json`: the description of an image.

use std::collections::BTreeMap;

use hearth_model::hooks::Hooks;
use hearth_model::shape::{MemoryClass, Shape};
use hearth_proto::guest::v1 as proto;
use serde::{Deserialize, Serialize};

/// The description of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format, [`Manifest::FORMAT`].
    pub format: u32,
    /// The app in the image.
    pub app: App,
    /// The app's hooks.
    pub hooks: Hooks,
    /// Whether the app's container has all capabilities.
    pub all_capabilities: bool,
    /// The requested memory class.
    pub memory: MemoryClass,
    /// Memory and vCPUs of the image's guests.
    pub shape: Shape,
    /// Whether the image's guests have a network card.
    pub network: bool,
    /// Size of the root disk in bytes.
    pub disk_bytes: u64,
    /// Sizes of the image's parts.
    pub sizes: Sizes,
    /// The image's sources.
    pub origin: Origin,
}

impl Manifest {
    /// The format that this release writes and reads.
    pub const FORMAT: u32 = 1;
}

/// The app in an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct App {
    /// ENTRYPOINT and CMD.
    pub arguments: Vec<String>,
    /// `NAME=value`: the image's variables, then the request's, then the platform's.
    pub environment: Vec<String>,
    /// WORKDIR.
    pub working_directory: String,
    /// USER.
    pub user: String,
    /// Other instructions of the Dockerfile: HEALTHCHECK, SHELL, ONBUILD, VOLUME, EXPOSE, STOPSIGNAL, LABEL, in Docker's format.
    pub container: BTreeMap<String, serde_json::Value>,
}

/// The label of images that keep their own `/etc/resolv.conf`, `hosts` and `hostname`.
const KEEP_ETC: &str = "hearth.keep-etc";
/// The label of images of which each microVM has a host name and a machine id of its own.
const OWN_NAME: &str = "hearth.own-name";
/// The label of images whose monotonic clock stands still while a microVM is suspended.
const STANDING_CLOCK: &str = "hearth.standing-clock";

impl App {
    /// Whether the image keeps its own `/etc/resolv.conf`, `hosts` and `hostname`: it has the label `hearth.keep-etc=true`.
    #[must_use]
    pub fn keeps_etc(&self) -> bool {
        self.asks_for(KEEP_ETC)
    }

    /// Whether the host name of a microVM is its id, and its `/etc/machine-id` made of it: the image has the label
    /// `hearth.own-name=true`.
    #[must_use]
    pub fn has_own_name(&self) -> bool {
        self.asks_for(OWN_NAME)
    }

    /// Whether the monotonic clock goes on after a suspend where it stood: the image has the label `hearth.standing-clock=true`.
    #[must_use]
    pub fn has_standing_clock(&self) -> bool {
        self.asks_for(STANDING_CLOCK)
    }

    fn asks_for(&self, label: &str) -> bool {
        let labels = self.container.get("Labels");
        labels.and_then(|labels| labels.get(label)).is_some_and(|value| value == "true")
    }

    /// The process with which the agent starts the app.
    #[must_use]
    pub fn process(&self) -> proto::Process {
        proto::Process {
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            working_directory: self.working_directory.clone(),
            user: self.user.clone(),
        }
    }

    /// The value of an environment variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
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
    /// Bytes that the app has written to its disk before the snapshot was taken.
    pub disk_snapshot_size_in_bytes: u64,
}

/// The sources of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The artifact's URI.
    pub artifact: String,
    /// SHA-256 of the zip, or the digest of the container image.
    pub digest: String,
    /// The base image.
    pub base: BaseOrigin,
    /// Version of the image builder.
    pub builder: String,
}

/// A base image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BaseOrigin {
    /// Version in the catalogue.
    pub version: u64,
    /// The digest over the sources of the base image.
    pub digest: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_options_where_they_are_true() {
        let app = |labels: serde_json::Value| App {
            container: BTreeMap::from([("Labels".to_owned(), labels)]),
            ..App::default()
        };
        let options = |app: &App| (app.keeps_etc(), app.has_own_name(), app.has_standing_clock());
        assert_eq!(options(&App::default()), (false, false, false));
        let all = serde_json::json!({
            "hearth.keep-etc": "true", "hearth.own-name": "true", "hearth.standing-clock": "true"
        });
        assert_eq!(options(&app(all)), (true, true, true));
        let none = serde_json::json!({ "hearth.keep-etc": "yes", "hearth.own-name": "false", "x.standing-clock": "true" });
        assert_eq!(options(&app(none)), (false, false, false));
    }
}
