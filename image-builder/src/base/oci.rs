//! OCI image layouts (github.com/opencontainers/image-spec, `image-layout.md`) with one image of one layer, a plain tar.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::BaseError;
use super::files::{self, FileRecord};
use super::programs;
use super::recipe::ContainerRecipe;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The search path of Docker's images.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes the layout `layout` of an image whose files are in `root`. Returns its manifest's digest, as in `sha256:…`.
pub(crate) fn make_layout(layout: &Path, root: &Path, recipe: &ContainerRecipe) -> Result<String, BaseError> {
    let blobs = layout.join("blobs/sha256");
    files::create_folder(&blobs)?;
    let packed = blobs.join("layer");
    pack(&packed, root)?;
    let layer = FileRecord::read(&packed)?;
    fs::rename(&packed, blobs.join(&layer.sha256)).map_err(BaseError::file("cannot rename", &packed))?;
    let config = add_blob(&blobs, &config(&layer, recipe))?;
    let manifest = add_blob(
        &blobs,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        }),
    )?;
    let mut entry = descriptor(MANIFEST, &manifest);
    if let Value::Object(entry) = &mut entry {
        entry.insert("platform".into(), json!({ "architecture": "arm64", "os": "linux" }));
        entry
            .insert("annotations".into(), json!({ "org.opencontainers.image.ref.name": local_name(recipe) }));
    }
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    files::write(&layout.join("index.json"), index.to_string())?;
    files::write(&layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    Ok(format!("sha256:{}", manifest.sha256))
}

/// The name under which the builder has an image in its own storage. `localhost` is no registry, so that nobody else's image
/// can take its place.
pub(crate) fn local_name(recipe: &ContainerRecipe) -> String {
    format!("localhost/{}", recipe.reference())
}

/// Packs a root into a tar whose bytes follow from the files alone.
fn pack(archive: &Path, root: &Path) -> Result<(), BaseError> {
    let mut tar = programs::command("tar");
    tar.args(["--create", "--format=pax", "--sort=name", "--numeric-owner", "--one-file-system"]);
    tar.args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--xattrs"]);
    tar.arg("--xattrs-include=security.capability").arg("--file").arg(archive);
    tar.arg("--directory").arg(root).arg(".");
    programs::run(&mut tar).map(drop)
}

fn config(layer: &FileRecord, recipe: &ContainerRecipe) -> Value {
    json!({
        "architecture": "arm64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Env": [PATH], "Cmd": recipe.command, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.sha256)] },
        "history": [{
            "created": "1970-01-01T00:00:00Z",
            "created_by": format!("hearth base image {}: {}", recipe.reference(), recipe.packages.join(" ")),
        }],
    })
}

fn descriptor(kind: &str, blob: &FileRecord) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{}", blob.sha256), "size": blob.size })
}

fn add_blob(blobs: &Path, content: &Value) -> Result<FileRecord, BaseError> {
    let content = content.to_string();
    let record = FileRecord::of(content.as_bytes());
    files::write(&blobs.join(&record.sha256), content)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> ContainerRecipe {
        ContainerRecipe {
            name: "hearth/debian".into(),
            tag: "13".into(),
            packages: vec!["ca-certificates".into()],
            command: vec!["/bin/bash".into()],
        }
    }

    #[test]
    fn every_digest_leads_to_its_blob() {
        let folder = tempfile::tempdir().unwrap();
        let (root, layout) = (folder.path().join("root"), folder.path().join("layout"));
        files::write(&root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let digest = make_layout(&layout, &root, &recipe()).unwrap();
        let blob = |digest: &Value| {
            let path = layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
            assert_eq!(FileRecord::read(&path).unwrap().sha256, path.file_name().unwrap().to_str().unwrap());
            files::read(&path).unwrap()
        };
        let index: Value = serde_json::from_slice(&files::read(&layout.join("index.json")).unwrap()).unwrap();
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], digest);
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "localhost/hearth/debian:13");
        let manifest: Value = serde_json::from_slice(&blob(&entry["digest"])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"]["digest"])).unwrap();
        let layer = &manifest["layers"][0];
        assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
        let tar = blob(&layer["digest"]);
        assert_eq!(layer["size"], tar.len());
        assert!(tar.windows(12).any(|window| window == b"./etc/passwd"));
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let digest = |name: &str, files: [&str; 3]| {
            let root = folder.path().join(name).join("root");
            for file in files {
                files::write(&root.join(file), file).unwrap();
            }
            crate::base::debian::date_generated_files(&root, 0, 5).unwrap();
            make_layout(&folder.path().join(name).join("layout"), &root, &recipe()).unwrap()
        };
        assert_eq!(digest("one", ["a", "b/c", "d"]), digest("two", ["d", "b/c", "a"]));
    }
}
