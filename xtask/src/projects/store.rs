//! The store of a registry with one image, as Distribution keeps it (github.com/distribution/distribution, registry/storage/paths.go), which
//! is what Debian's `docker-registry` is: it serves the store as it is, without a push that would copy and hash all of it on the metal.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Makes a store in `folder` with an image whose only layer is the tar `layer`, which becomes part of it.
pub(super) fn write(folder: &Path, (name, tag): (&str, &str), layer: &Path, config: &Value) -> Result<()> {
    let place = Store { root: folder.join("docker/registry/v2"), name };
    let (digest, size) = digest_of(layer)?;
    place.add_blob(&digest, |path| fs::rename(layer, path))?;
    place.link("_layers", &digest)?;
    let config = json!({
        "architecture": "arm64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "Debian's packages, for tests" }],
    })
    .to_string();
    let config_digest = place.add_text(&config)?;
    place.link("_layers", &config_digest)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config_digest, "size": config.len() },
        "layers": [{ "mediaType": LAYER, "digest": digest, "size": size }],
    })
    .to_string();
    let manifest = place.add_text(&manifest)?;
    place.link("_manifests/revisions", &manifest)?;
    place.link(&format!("_manifests/tags/{tag}/index"), &manifest)?;
    place.write(&format!("_manifests/tags/{tag}/current/link"), &manifest)
}

/// The part of a store that belongs to one repository, and its blobs.
struct Store<'a> {
    root: PathBuf,
    name: &'a str,
}

impl Store<'_> {
    fn add_blob(&self, digest: &str, put: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
        let hex = digest.trim_start_matches("sha256:");
        let start = hex.get(..2).context("a digest has two characters")?;
        let folder = self.root.join("blobs/sha256").join(start).join(hex);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join("data");
        put(&path).with_context(|| format!("cannot make {}", path.display()))
    }

    fn add_text(&self, text: &str) -> Result<String> {
        let digest = named(&Sha256::digest(text.as_bytes()));
        self.add_blob(&digest, |path| fs::write(path, text))?;
        Ok(digest)
    }

    /// Says that the repository has this blob.
    fn link(&self, kind: &str, digest: &str) -> Result<()> {
        self.write(&format!("{kind}/{}/link", digest.replace(':', "/")), digest)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.root.join("repositories").join(self.name).join(name);
        let written =
            fs::create_dir_all(path.parent().unwrap_or(&path)).and_then(|()| fs::write(&path, text));
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Digest and size of a file.
fn digest_of(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let size = io::copy(&mut file, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((named(&hash.finalize()), size))
}

fn named(hash: &[u8]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_leads_to_the_layer() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer.tar");
        fs::write(&layer, "files").unwrap();
        write(folder.path(), ("library/x", "1"), &layer, &json!({ "Cmd": ["x"] })).unwrap();
        let root = folder.path().join("docker/registry/v2");
        let text = |path: String| fs::read_to_string(root.join(path)).unwrap();
        let blob = |digest: &str| {
            let hex = digest.strip_prefix("sha256:").unwrap();
            text(format!("blobs/sha256/{}/{hex}/data", &hex[..2]))
        };
        let repository = "repositories/library/x";
        let manifest = text(format!("{repository}/_manifests/tags/1/current/link"));
        let link = manifest.replace(':', "/");
        for kind in ["_manifests/revisions", "_manifests/tags/1/index"] {
            assert_eq!(text(format!("{repository}/{kind}/{link}/link")), manifest);
        }
        let manifest: Value = serde_json::from_str(&blob(&manifest)).unwrap();
        let digest = manifest["layers"][0]["digest"].as_str().unwrap();
        assert_eq!((blob(digest), manifest["layers"][0]["size"].as_u64()), ("files".to_owned(), Some(5)));
        assert_eq!(text(format!("{repository}/_layers/{}/link", digest.replace(':', "/"))), digest);
        let config: Value =
            serde_json::from_str(&blob(manifest["config"]["digest"].as_str().unwrap())).unwrap();
        assert_eq!(
            (config["rootfs"]["diff_ids"][0].as_str(), config["config"]["Cmd"][0].as_str()),
            (Some(digest), Some("x"))
        );
        assert!(!layer.exists());
    }
}
