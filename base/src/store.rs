//! The container bases for the builder: what `dockerd` keeps of images, as it lies in its folder with the storage driver `overlay2`. A
//! Dockerfile's `FROM` then uses a base in place; loading each of them in the guest would take a minute.
//!
//! | Path | What |
//! |---|---|
//! | `image/overlay2/repositories.json` | the names of the images |
//! | `image/overlay2/imagedb/content/sha256/ID` | an image's configuration |
//! | `image/overlay2/layerdb/sha256/LAYER/{diff,size,cache-id}` | a layer: digest, bytes, where its files are |
//! | `policy.json` | what BuildKit must not ask a registry for: names of bases that are not here |
//! | `overlay2/CACHE-ID/{diff,link}`, `overlay2/l/LINK` | its files, and a short name for them: all folders of a mount must fit into a page |
//!
//! The builder copies the small files to its scratch disk and mounts the folders `diff` of this read-only disk beside them. Of a layer
//! that `dockerd` has loaded there is also the recipe of its tar, which only a push of it needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::BaseError;
use super::files;
use super::oci::{self, Image};
use super::recipe::ContainerRecipe;

/// Folder of images and layers.
const IMAGES: &str = "image/overlay2";
/// Folder of layers' files.
const LAYERS: &str = "overlay2";
/// The policy of sources.
const POLICY: &str = "policy.json";
/// Length of a link's name.
const LINK_LENGTH: usize = 26;

/// An image store that is being written.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// Images' digests by repository and name.
    repositories: BTreeMap<String, BTreeMap<String, String>>,
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
        let layer = &image.layer.sha256;
        let place = folder.join(LAYERS).join(layer);
        // Two names for one root share one layer.
        if !place.exists() {
            files::create_folder(&place)?;
            let bytes = files::bytes(root)?;
            fs::rename(root, place.join("diff")).map_err(BaseError::file("cannot move", root))?;
            let link: String = layer.to_ascii_uppercase().chars().take(LINK_LENGTH).collect();
            files::write(&place.join("link"), &link)?;
            files::link(&folder.join(LAYERS).join("l").join(link), &format!("../{layer}/diff"))?;
            // The digest of a chain of one layer is that of the layer.
            let record = folder.join(IMAGES).join("layerdb/sha256").join(layer);
            files::write(&record.join("diff"), oci::digest(&image.layer))?;
            files::write(&record.join("size"), bytes.to_string())?;
            files::write(&record.join("cache-id"), layer)?;
        }
        let id = image.id();
        files::write(&folder.join(IMAGES).join("imagedb/content/sha256").join(&id), &image.config)?;
        let names = self.repositories.entry(recipe.name.clone()).or_default();
        for tag in [recipe.tag.as_str(), "latest"] {
            names.insert(format!("{}:{tag}", recipe.name), format!("sha256:{id}"));
        }
        Ok(())
    }

    /// Completes the store in `folder`.
    pub(crate) fn finish(self, folder: &Path) -> Result<(), BaseError> {
        let repositories = json!({ "Repositories": self.repositories });
        files::write(&folder.join(IMAGES).join("repositories.json"), repositories.to_string())?;
        files::write(&folder.join(POLICY), self.policy().to_string())
    }

    /// Names of bases are names of Docker's registry to BuildKit, where anybody may own them: one that is not here is refused instead
    /// of pulled. The last rule that matches decides.
    fn policy(&self) -> Value {
        let rule = |action: &str, name: &str| json!({ "action": action, "selector": { "identifier": format!("docker-image://docker.io/{name}") } });
        let mut rules = vec![rule("DENY", "hearth/*")];
        for (repository, names) in &self.repositories {
            let library = if repository.contains('/') { "" } else { "library/" };
            rules.push(rule("DENY", &format!("{library}{repository}:*")));
            for name in names.keys() {
                // As it is written, and when its digest was looked up.
                rules.push(rule("ALLOW", &format!("{library}{name}")));
                rules.push(rule("ALLOW", &format!("{library}{name}@*")));
            }
        }
        json!({ "rules": rules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FileRecord;
    use crate::oci::tests::recipe;

    #[test]
    fn every_name_leads_to_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let (root, store) = (folder.path().join("root"), folder.path().join("store"));
        files::write(&root.join("etc/passwd"), "root").unwrap();
        let image = Image::of(&root, &recipe()).unwrap();
        let mut made = Store::default();
        made.add(&store, &root, &image, &recipe()).unwrap();
        made.finish(&store).unwrap();
        let text = |path: &str| String::from_utf8(files::read(&store.join(path)).unwrap()).unwrap();
        let json = |path: &str| -> Value { serde_json::from_str(&text(path)).unwrap() };
        let names = &json("image/overlay2/repositories.json")["Repositories"]["hearth/debian"];
        let digest = names["hearth/debian:13"].as_str().unwrap();
        assert_eq!(names["hearth/debian:latest"], digest);
        let id = digest.strip_prefix("sha256:").unwrap();
        let config = format!("image/overlay2/imagedb/content/sha256/{id}");
        assert_eq!(FileRecord::of(text(&config).as_bytes()).sha256, id);
        let layer = json(&config)["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned();
        let record = format!("image/overlay2/layerdb/{}", layer.replace(':', "/"));
        assert_eq!((text(&format!("{record}/diff")), text(&format!("{record}/size"))), (layer, "4".into()));
        let place = format!("overlay2/{}", text(&format!("{record}/cache-id")));
        let link = text(&format!("{place}/link"));
        assert_eq!(text(&format!("overlay2/l/{link}/etc/passwd")), "root");
        let rules: Vec<String> = json("policy.json")["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| format!("{} {}", rule["action"], rule["selector"]["identifier"]).replace('"', ""))
            .collect();
        assert_eq!(
            rules[..2],
            ["hearth/*", "hearth/debian:*"].map(|name| format!("DENY docker-image://docker.io/{name}"))
        );
        assert!(rules.contains(&"ALLOW docker-image://docker.io/hearth/debian:13@*".to_owned()), "{rules:?}");
    }
}
