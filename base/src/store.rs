//! The container bases for the builder: a read-only image store of `containers/storage`, which `buildah` uses
//! in addition to its own (`additionalimagestores` in `storage.conf`, containers-storage.conf(5)). A Dockerfile's `FROM` then uses
//! a base in place; copying, hashing and unpacking each of them in the guest would take a minute.
//!
//! Layout: `overlay-images/images.json` with a folder per image for manifest and configuration, `overlay-layers/layers.json`,
//! and `overlay/<layer>/diff` with the layer's files, to which a short link in `overlay/l/` leads, since all lower folders of a
//! mount must fit into a page.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::BaseError;
use super::files::{self, FileRecord};
use super::oci::{self, Image};
use super::recipe::ContainerRecipe;

/// Mount point of the store in the builder.
pub(crate) const MOUNT_POINT: &str = "/hearth";
/// Creation time of everything in the store: a constant, so that builds do not depend on it.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// Length of a link's name.
const LINK_LENGTH: usize = 26;

/// An image store that is being written.
#[derive(Debug, Default)]
pub(crate) struct Store {
    images: Vec<Value>,
    layers: Vec<Value>,
}

impl Store {
    /// Adds an image whose files are in `root`, which becomes part of the store in `folder`.
    pub(crate) fn add(
        &mut self,
        folder: &Path,
        root: &Path,
        image: &Image,
        recipe: &ContainerRecipe,
    ) -> Result<(), BaseError> {
        let (id, layer) = (image.id(), &image.layer.sha256);
        let place = folder.join("overlay").join(layer);
        // Two names for one root share one layer.
        if !place.exists() {
            files::create_folder(&place)?;
            fs::rename(root, place.join("diff")).map_err(BaseError::file("cannot move", root))?;
            let link: String = layer.to_ascii_uppercase().chars().take(LINK_LENGTH).collect();
            files::write(&place.join("link"), &link)?;
            files::link(&folder.join("overlay/l").join(link), &format!("../{layer}/diff"))?;
            for name in ["empty", "merged", "work"] {
                files::create_folder(&place.join(name))?;
            }
            self.layers.push(json!({
                "id": layer,
                "created": CREATED,
                "compressed-diff-digest": oci::digest(&image.layer),
                "compressed-size": image.layer.size,
                "diff-digest": oci::digest(&image.layer),
                "diff-size": image.layer.size,
            }));
        }
        let config_name = format!("sha256:{id}");
        let manifest_name = format!("manifest-{}", image.digest());
        let (mut sizes, mut digests) = (json!({}), json!({}));
        let data = [(&config_name, &image.config), (&manifest_name, &image.manifest)];
        for (name, content) in data.into_iter().chain([(&"manifest".to_owned(), &image.manifest)]) {
            let record = FileRecord::of(content.as_bytes());
            files::write(&folder.join("overlay-images").join(&id).join(file_name(name)), content)?;
            insert(&mut sizes, name, record.size.into());
            insert(&mut digests, name, oci::digest(&record).into());
        }
        let names = names(recipe);
        self.images.push(json!({
            "id": id,
            "digest": image.digest(),
            "names": names,
            "names-history": names,
            "layer": layer,
            "metadata": "{}",
            "big-data-names": [config_name, manifest_name, "manifest"],
            "big-data-sizes": sizes,
            "big-data-digests": digests,
            "created": CREATED,
        }));
        Ok(())
    }

    /// Completes the store in `folder`.
    pub(crate) fn finish(self, folder: &Path) -> Result<(), BaseError> {
        write_index(&folder.join("overlay-images"), "images", self.images)?;
        write_index(&folder.join("overlay-layers"), "layers", self.layers)
    }
}

/// Names of a base in the builder. `localhost` is no registry, so that no other image can take its place.
fn names(recipe: &ContainerRecipe) -> [String; 2] {
    [format!("localhost/{}", recipe.reference()), format!("localhost/{}:latest", recipe.name)]
}

fn insert(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(object) = object {
        object.insert(name.to_owned(), value);
    }
}

/// Writes an index and its lock file, which readers open as well and cannot create on a read-only disk.
fn write_index(folder: &Path, name: &str, entries: Vec<Value>) -> Result<(), BaseError> {
    files::write(&folder.join(format!("{name}.json")), Value::from(entries).to_string())?;
    files::write(&folder.join(format!("{name}.lock")), "")
}

/// File name for a piece of an image's data: its name, or the base64 of it if it contains more than lower-case letters and digits.
fn file_name(name: &str) -> String {
    if name.chars().all(|c| c == '.' || c.is_ascii_digit() || c.is_ascii_lowercase()) {
        return name.to_owned();
    }
    format!("={}", base64(name.as_bytes()))
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u32| DIGITS.get(value as usize & 63).map_or('=', |digit| char::from(*digit));
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain([0, 0].iter()).take(3);
        let bits = group.fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            text.push(if index <= chunk.len() { digit(bits >> shift) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::tests::recipe;

    #[test]
    fn names_are_encoded_as_the_storage_library_does() {
        assert_eq!(file_name("manifest"), "manifest");
        assert_eq!(file_name("sha256:2d"), "=c2hhMjU2OjJk");
        let text = ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes()));
        assert_eq!(text, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }

    #[test]
    fn every_name_leads_to_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let (root, store) = (folder.path().join("root"), folder.path().join("store"));
        files::write(&root.join("etc/passwd"), "root").unwrap();
        let image = Image::of(&root, &recipe()).unwrap();
        let mut made = Store::default();
        made.add(&store, &root, &image, &recipe()).unwrap();
        made.finish(&store).unwrap();
        let json = |path: &str| -> Value {
            serde_json::from_slice(&files::read(&store.join(path)).unwrap()).unwrap()
        };
        let entry = &json("overlay-images/images.json")[0];
        assert_eq!(entry["names"][0], "localhost/hearth/debian:13");
        let data = store.join("overlay-images").join(entry["id"].as_str().unwrap());
        for name in entry["big-data-names"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            let record = FileRecord::read(&data.join(file_name(name))).unwrap();
            assert_eq!(entry["big-data-sizes"][name], record.size);
            assert_eq!(entry["big-data-digests"][name], oci::digest(&record));
        }
        let layer = &json("overlay-layers/layers.json")[0];
        assert_eq!(layer["id"], entry["layer"]);
        let place = store.join("overlay").join(layer["id"].as_str().unwrap());
        let link = String::from_utf8(files::read(&place.join("link")).unwrap()).unwrap();
        assert_eq!(files::read(&store.join("overlay/l").join(link).join("etc/passwd")).unwrap(), b"root");
        assert!(store.join("overlay-images/images.lock").exists());
    }
}
