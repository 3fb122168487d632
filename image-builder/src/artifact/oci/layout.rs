//! An OCI image layout folder, and its tar.
//!
//! <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md>

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tar::{Builder, EntryType, Header};

use super::manifest::is_sha256;
use crate::artifact::error::ArtifactError;

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs";
const ALGORITHM: &str = "sha256";

/// A layout that is being made.
pub(super) struct Layout {
    path: PathBuf,
}

impl Layout {
    /// A new folder without an image.
    pub(super) async fn create(path: &Path) -> Result<Self, ArtifactError> {
        let making = ArtifactError::io("making a folder for the image");
        tokio::fs::create_dir(path).await.map_err(making)?;
        let layout = Self { path: path.to_owned() };
        let blobs = layout.path.join(BLOBS).join(ALGORITHM);
        tokio::fs::create_dir_all(blobs).await.map_err(ArtifactError::io("making a folder for the image"))?;
        Ok(layout)
    }

    /// Path of the blob with this digest, which must have been checked.
    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        self.path.join(BLOBS).join(ALGORITHM).join(hex)
    }

    /// Adds the manifest and refers to it in the index, which completes the layout.
    pub(super) async fn finish(
        &self,
        digest: &str,
        media_type: &str,
        manifest: Bytes,
    ) -> Result<(), ArtifactError> {
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": media_type,
                "digest": digest,
                "size": manifest.len(),
                "platform": {"os": "linux", "architecture": "arm64"},
            }],
        });
        let files = [
            (self.blob(digest), manifest),
            (self.path.join(MARKER), Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#)),
            (self.path.join(INDEX), Bytes::from(index.to_string())),
        ];
        for (path, bytes) in files {
            tokio::fs::write(path, bytes).await.map_err(ArtifactError::io("writing the image's folder"))?;
        }
        Ok(())
    }
}

/// Writes a fetched layout folder as a tar: sorted, owner and group 0, no times. The same image gives the same bytes. Blocks.
///
/// # Errors
///
/// A read or write failed. The tar then has no end, and the caller must report the error to its reader.
pub fn write_tar(layout: &Path, out: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(out);
    let blobs = format!("{BLOBS}/{ALGORITHM}");
    let mut names = Vec::new();
    for entry in fs::read_dir(layout.join(&blobs))? {
        let name = entry?.file_name();
        let name = name.to_str().filter(|name| is_sha256(&format!("sha256:{name}"))).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the image's folder has a file that is no blob")
        })?;
        names.push(format!("{blobs}/{name}"));
    }
    names.extend([INDEX.to_owned(), MARKER.to_owned()]);
    names.sort();
    for directory in [BLOBS, blobs.as_str()] {
        tar.append_data(&mut header(EntryType::Directory, 0, 0o755), directory, io::empty())?;
    }
    for name in names {
        let file = File::open(layout.join(&name))?;
        let size = file.metadata()?.len();
        tar.append_data(&mut header(EntryType::Regular, size, 0o644), name, file)?;
    }
    tar.into_inner()?.flush()
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
