//! Manifests, indexes and configurations of images. They come from a registry, so nothing in them is trusted.

use std::collections::HashSet;

use oci_client::Reference;
use serde::Deserialize;

use super::{MAX_DOCUMENT_BYTES, refused};
use crate::artifact::error::ArtifactError;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Media types that are accepted from a registry.
pub(super) const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// The document that an image reference refers to.
pub(super) enum Document {
    Manifest(Manifest),
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// An image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default)]
    pub(super) media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// A blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
}

/// Images for several platforms.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    manifests: Vec<IndexEntry>,
}

#[derive(Debug, Deserialize)]
pub(super) struct IndexEntry {
    pub(super) digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Platform {
    fn is_arm64(&self) -> bool {
        self.os == "linux" && self.architecture == "arm64"
    }
}

impl Document {
    pub(super) fn parse(bytes: &[u8], image: &Reference) -> Result<Self, ArtifactError> {
        let malformed = |_| refused(image, "has a manifest that is none");
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.schema_version != 2 {
            return Err(refused(image, "has a manifest of a version that is not supported"));
        }
        match head.media_type.as_deref() {
            Some(OCI_INDEX | DOCKER_INDEX) => {}
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => {}
            // OCI allows a manifest without a media type.
            None => {}
            Some(_) => return Err(refused(image, "has a manifest of a kind that is not supported")),
        }
        let is_index = match head.media_type.as_deref() {
            Some(media_type) => matches!(media_type, OCI_INDEX | DOCKER_INDEX),
            None => head.manifests.is_some(),
        };
        if is_index {
            return serde_json::from_slice(bytes).map(Self::Index).map_err(malformed);
        }
        let mut manifest: Manifest = serde_json::from_slice(bytes).map_err(malformed)?;
        if manifest.media_type.is_empty() {
            OCI_MANIFEST.clone_into(&mut manifest.media_type);
        }
        Ok(Self::Manifest(manifest))
    }
}

impl Index {
    /// The first image for linux/arm64.
    pub(super) fn for_arm64(&self, image: &Reference) -> Result<&IndexEntry, ArtifactError> {
        let is_arm64 = |entry: &&IndexEntry| entry.platform.as_ref().is_some_and(Platform::is_arm64);
        let entry = self
            .manifests
            .iter()
            .find(is_arm64)
            .ok_or_else(|| refused(image, "has no variant for linux/arm64"))?;
        if !is_sha256(&entry.digest) {
            return Err(refused(image, "has a digest that is not sha256"));
        }
        Ok(entry)
    }
}

impl Manifest {
    /// Digest of the configuration.
    pub(super) fn config_digest(&self) -> &str {
        &self.config.digest
    }

    /// Digests of the layers, the lowest first.
    pub(super) fn layer_digests(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.digest.as_str())
    }

    /// The blobs to fetch, each once, the configuration first.
    pub(super) fn blobs(
        &self,
        image: &Reference,
        max_layers: usize,
    ) -> Result<Vec<Descriptor>, ArtifactError> {
        if !CONFIGS.contains(&self.config.media_type.as_str()) {
            return Err(refused(image, "is not a container image"));
        }
        if self.layers.len() > max_layers {
            return Err(refused(image, &format!("has more than {max_layers} layers")));
        }
        if self.layers.iter().any(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
            return Err(refused(image, "has a layer of a kind that is not supported"));
        }
        if self.config.size > MAX_DOCUMENT_BYTES as u64 {
            return Err(refused(image, "has a configuration that is too large"));
        }
        let (mut blobs, mut seen) = (Vec::new(), HashSet::new());
        for blob in std::iter::once(&self.config).chain(&self.layers) {
            if !is_sha256(&blob.digest) {
                return Err(refused(image, "has a digest that is not sha256"));
            }
            if seen.insert(&blob.digest) {
                blobs.push(blob.clone());
            }
        }
        Ok(blobs)
    }
}

/// Checks that a configuration is that of an image for linux/arm64.
pub(super) fn check_config(bytes: &[u8], image: &Reference) -> Result<(), ArtifactError> {
    let platform: Platform =
        serde_json::from_slice(bytes).map_err(|_| refused(image, "has a configuration that is none"))?;
    if platform.is_arm64() {
        return Ok(());
    }
    let other: String =
        format!("{}/{}", platform.os, platform.architecture).escape_debug().take(40).collect();
    Err(refused(image, &format!("is for {other}, not for linux/arm64")))
}

/// Whether this is `sha256:` and 64 hexadecimal digits in lower case, which makes it safe as a file name.
pub(super) fn is_sha256(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn image() -> Reference {
        "registry.example/app:1".parse().unwrap()
    }

    fn manifest(config: &str, layers: &[(&str, &str)]) -> Result<Vec<Descriptor>, ArtifactError> {
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, digest)| serde_json::json!({"mediaType": kind, "digest": digest, "size": 1}))
            .collect();
        let json = serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType": config, "digest": DIGEST, "size": 2},
            "layers": layers,
        });
        match Document::parse(json.to_string().as_bytes(), &image())? {
            Document::Manifest(manifest) => manifest.blobs(&image(), 2),
            Document::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn the_configuration_comes_first_and_every_blob_once() {
        let other = DIGEST.replace("e3", "00");
        let blobs = manifest(CONFIGS[0], &[(LAYERS[1], &other), (LAYERS[1], &other)]).unwrap();
        let digests: Vec<_> = blobs.iter().map(|blob| blob.digest.as_str()).collect();
        assert_eq!(digests, [DIGEST, &other]);
    }

    #[test]
    fn what_is_no_container_image_is_refused() {
        assert!(manifest("application/vnd.cncf.helm.config.v1+json", &[]).is_err());
        assert!(
            manifest(CONFIGS[0], &[("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", DIGEST)])
                .is_err()
        );
        assert!(manifest(CONFIGS[0], &[(LAYERS[0], DIGEST); 3]).is_err());
    }

    #[test]
    fn a_digest_that_could_be_a_path_is_refused() {
        for digest in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            "sha512:00",
            &DIGEST.to_uppercase(),
            &format!("{DIGEST}0"),
        ] {
            assert!(!is_sha256(digest), "{digest}");
            assert!(manifest(CONFIGS[0], &[(LAYERS[0], digest)]).is_err(), "{digest}");
        }
        assert!(is_sha256(DIGEST));
    }

    #[test]
    fn malformed_documents_are_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion": 1}"#,
            r#"{"schemaVersion": 2}"#,
            r#"{"schemaVersion": 2, "mediaType": "application/vnd.oci.empty.v1+json"}"#,
            r#"{"schemaVersion": 2, "manifests": [{}]}"#,
        ] {
            assert!(Document::parse(text.as_bytes(), &image()).is_err(), "{text}");
        }
    }
}
