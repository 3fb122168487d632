//! OCI images (github.com/opencontainers/image-spec) with one layer: its digest, configuration and manifest.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use super::BaseError;
use super::files::FileRecord;
use super::programs;
use super::recipe::ContainerRecipe;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The search path in Docker's images.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image without its layer's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// Digest and size of the layer as a tar.
    pub(crate) layer: FileRecord,
    /// The configuration.
    pub(crate) config: String,
    /// The manifest.
    pub(crate) manifest: String,
}

impl Image {
    /// The image whose only layer contains the files in `root`.
    pub(crate) fn of(root: &Path, recipe: &ContainerRecipe) -> Result<Self, BaseError> {
        let layer = pack(root)?;
        let config = config(&layer, recipe).to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &FileRecord::of(config.as_bytes())),
            "layers": [descriptor(LAYER, &layer)],
        });
        Ok(Self { layer, config, manifest: manifest.to_string() })
    }

    /// The image's identity, the SHA-256 of its configuration.
    pub(crate) fn id(&self) -> String {
        FileRecord::of(self.config.as_bytes()).sha256
    }

    /// The digest of the image's manifest, as in `sha256:…`.
    pub(crate) fn digest(&self) -> String {
        digest(&FileRecord::of(self.manifest.as_bytes()))
    }
}

/// A record's digest, as in `sha256:…`.
pub(crate) fn digest(record: &FileRecord) -> String {
    format!("sha256:{}", record.sha256)
}

/// The record of a root as a tar, whose bytes depend only on the files. The tar itself is not kept.
fn pack(root: &Path) -> Result<FileRecord, BaseError> {
    let mut tar = programs::command("tar");
    tar.args(["--create", "--format=pax", "--sort=name", "--numeric-owner", "--one-file-system"]);
    tar.args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--xattrs"]);
    tar.arg("--xattrs-include=security.capability").arg("--directory").arg(root).arg(".");
    let not_started = |source| BaseError::NotStarted { program: "tar".into(), source };
    let mut child = tar.stdout(Stdio::piped()).spawn().map_err(not_started)?;
    let record = match child.stdout.take() {
        Some(mut stdout) => FileRecord::from_reader(&mut stdout),
        None => Ok(FileRecord::of(b"")),
    };
    let status = child.wait().map_err(not_started)?;
    if !status.success() {
        return Err(BaseError::Failed { program: "tar".into(), status, output: "(see above)".into() });
    }
    record.map_err(BaseError::file("cannot read the tar of", root))
}

fn config(layer: &FileRecord, recipe: &ContainerRecipe) -> Value {
    json!({
        "architecture": "arm64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Env": [PATH], "Cmd": recipe.command, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
        "history": [{
            "created": "1970-01-01T00:00:00Z",
            "created_by": format!("hearth base image {}: {}", recipe.reference(), recipe.packages.join(" ")),
        }],
    })
}

fn descriptor(kind: &str, blob: &FileRecord) -> Value {
    json!({ "mediaType": kind, "digest": digest(blob), "size": blob.size })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{debian, files};

    pub(crate) fn recipe() -> ContainerRecipe {
        ContainerRecipe {
            name: "hearth/debian".into(),
            tag: "13".into(),
            packages: vec!["ca-certificates".into()],
            command: vec!["/bin/bash".into()],
        }
    }

    #[test]
    fn the_manifest_names_configuration_and_layer() {
        let root = tempfile::tempdir().unwrap();
        files::write(&root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let image = Image::of(root.path(), &recipe()).unwrap();
        let manifest: Value = serde_json::from_str(&image.manifest).unwrap();
        let config: Value = serde_json::from_str(&image.config).unwrap();
        assert_eq!(manifest["config"]["digest"], format!("sha256:{}", image.id()));
        assert_eq!(manifest["layers"][0]["digest"], digest(&image.layer));
        assert_eq!(manifest["layers"][0]["size"], image.layer.size);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&image.layer));
        assert!(image.layer.size > 1000);
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let image = |name: &str, files: [&str; 3]| {
            let root = folder.path().join(name);
            for file in files {
                files::write(&root.join(file), file).unwrap();
            }
            debian::date_generated_files(&root, 0, 5).unwrap();
            Image::of(&root, &recipe()).unwrap()
        };
        assert_eq!(image("one", ["a", "b/c", "d"]), image("two", ["d", "b/c", "a"]));
    }
}
