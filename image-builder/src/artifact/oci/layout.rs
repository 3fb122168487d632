//! An image as the tar of an OCI image layout.
//!
//! <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md>
//!
//! The tar is written while the image is pulled: a worker can write the one file that it was given, and a builder microVM gets exactly
//! these bytes.

use std::fs::File;
use std::io::{self, Write as _};

use tar::{EntryType, Header};

use super::manifest::Manifest;
use crate::artifact::error::ArtifactError;

const BLOBS: &str = "blobs";
const ALGORITHM: &str = "sha256";

/// Bytes of a block of a tar. A tar ends with two that are empty.
const BLOCK: u64 = 512;

/// A layout that is being written: owner and group 0, no times. The same image gives the same bytes.
pub(super) struct Layout {
    tar: File,
    /// Bytes that the entry under way lacks to full blocks.
    padding: u64,
}

impl Layout {
    /// A layout without an image.
    pub(super) fn begin(tar: File) -> Result<Self, ArtifactError> {
        let mut layout = Self { tar, padding: 0 };
        for directory in [BLOBS.to_owned(), format!("{BLOBS}/{ALGORITHM}")] {
            layout.header(EntryType::Directory, &directory, 0, 0o755)?;
        }
        Ok(layout)
    }

    /// Begins a blob, whose digest must have been checked. All `size` bytes of it have to be written to the file that is returned, before
    /// anything else is done with the layout.
    pub(super) fn blob(&mut self, digest: &str, size: u64) -> Result<&File, ArtifactError> {
        self.file(&blob_path(digest), size)
    }

    /// Adds the manifest and refers to it in the index, and in the index of `docker save`, by which `docker load` finds the blobs. This
    /// completes the layout.
    pub(super) fn finish(
        mut self,
        (digest, document): (&str, &[u8]),
        manifest: &Manifest,
    ) -> Result<(), ArtifactError> {
        let saved = serde_json::json!([{
            "Config": blob_path(manifest.config_digest()),
            "RepoTags": null,
            "Layers": manifest.layer_digests().map(blob_path).collect::<Vec<_>>(),
        }]);
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": manifest.media_type,
                "digest": digest,
                "size": document.len(),
                "platform": {"os": "linux", "architecture": "arm64"},
            }],
        });
        let (index, saved) = (index.to_string(), saved.to_string());
        self.blob(digest, document.len() as u64)?.write_all(document).map_err(writing)?;
        let documents = [
            ("index.json", index.as_bytes()),
            ("manifest.json", saved.as_bytes()),
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ];
        for (name, bytes) in documents {
            self.file(name, bytes.len() as u64)?.write_all(bytes).map_err(writing)?;
        }
        self.padding += 2 * BLOCK;
        self.pad()
    }

    fn file(&mut self, name: &str, size: u64) -> Result<&File, ArtifactError> {
        self.header(EntryType::Regular, name, size, 0o644)?;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(&self.tar)
    }

    fn header(&mut self, kind: EntryType, name: &str, size: u64, mode: u32) -> Result<(), ArtifactError> {
        self.pad()?;
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path(name).map_err(writing)?;
        header.set_size(size);
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.tar.write_all(header.as_bytes()).map_err(writing)
    }

    fn pad(&mut self) -> Result<(), ArtifactError> {
        let zeros = vec![0; usize::try_from(std::mem::take(&mut self.padding)).unwrap_or_default()];
        self.tar.write_all(&zeros).map_err(writing)
    }
}

/// Where a blob is in the layout.
fn blob_path(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    format!("{BLOBS}/{ALGORITHM}/{hex}")
}

fn writing(source: io::Error) -> ArtifactError {
    ArtifactError::Io { what: "writing the image", source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn every_tar_reader_finds_the_layout() {
        let mut file = tempfile::tempfile().unwrap();
        let mut layout = Layout::begin(file.try_clone().unwrap()).unwrap();
        let blobs: Vec<_> = [0, 1, 511, 512, 513].map(|size| (format!("{size:064x}"), vec![7; size])).into();
        for (hex, bytes) in &blobs {
            layout.blob(&format!("sha256:{hex}"), bytes.len() as u64).unwrap().write_all(bytes).unwrap();
        }
        let named = |hex: &str| format!("sha256:{hex}");
        let layers: Vec<_> =
            blobs[1..].iter().map(|(hex, _)| serde_json::json!({"digest": named(hex), "size": 1})).collect();
        let manifest = serde_json::json!({
            "mediaType": "type", "config": {"digest": named(&blobs[0].0), "size": 1}, "layers": layers,
        });
        let manifest = serde_json::from_value(manifest).unwrap();
        layout.finish((&named(&"a".repeat(64)), b"manifest"), &manifest).unwrap();
        assert!(file.stream_position().unwrap().is_multiple_of(BLOCK));
        file.rewind().unwrap();
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries().unwrap() {
            let (mut entry, mut content) = (entry.unwrap(), Vec::new());
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().to_str().unwrap().to_owned(), content);
        }
        assert_eq!(files.len(), 2 + blobs.len() + 4);
        let saved: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(saved[0]["Config"], format!("blobs/sha256/{}", blobs[0].0));
        assert_eq!(saved[0]["Layers"].as_array().unwrap().len(), 4);
        assert_eq!(saved[0]["Layers"][3], format!("blobs/sha256/{}", blobs[4].0));
        for (hex, bytes) in blobs {
            assert_eq!(files[&format!("blobs/sha256/{hex}")], bytes);
        }
        assert_eq!(files[&format!("blobs/sha256/{}", "a".repeat(64))], b"manifest");
        assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    }
}
