//! Images from registries, as OCI image layouts on disk.
//!
//! An image is pulled for linux/arm64 into a layout folder (`oci-layout`, `index.json`, `blobs/sha256/…`) exactly as it is in
//! the registry: every blob is checked against its digest and size, none is unpacked. The folder is then sent as a tar to a
//! builder microVM, where `buildah` unpacks it.
//!
//! * [`registry`] – one registry's HTTP: signing in, manifests, blobs
//! * [`manifest`] – checks of manifests and configurations
//! * [`layout`] – the folder, and its tar

pub mod layout;
mod manifest;
mod registry;

use std::path::Path;

use oci_client::Reference;

use self::layout::Layout;
use self::manifest::{Descriptor, Document};
use self::registry::Registry;
use super::config::{ArtifactLimits, RegistryConfig};
use super::download::{Download, Meter, OnProgress};
use super::error::ArtifactError;
use crate::failure::FailureCode;

/// Most bytes of a manifest, an index or an image's configuration: 4 MiB, the limit of registries.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Pulls an image into a new layout folder at `path` and returns its manifest's digest, like `sha256:…`.
pub(super) async fn pull(
    config: &RegistryConfig,
    limits: &ArtifactLimits,
    image: &Reference,
    path: &Path,
    on_progress: OnProgress<'_>,
) -> Result<String, ArtifactError> {
    let registry = Registry::sign_in(config, image).await?;
    let mut meter = Meter::new(limits.max_image_bytes, on_progress);
    let layout = Layout::create(path).await?;

    let (mut digest, mut document) = registry.manifest(image.digest()).await?;
    if let Document::Index(index) = Document::parse(&document, image)? {
        let entry = index.for_arm64(image)?;
        (digest, document) = registry.manifest(Some(&entry.digest)).await?;
    }
    let Document::Manifest(manifest) = Document::parse(&document, image)? else {
        return Err(refused(image, "is an index of indexes"));
    };
    let blobs = manifest.blobs(image, limits.max_layers)?;
    meter.expect(blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add))?;

    // The configuration comes first: it shows whether the other blobs are needed at all.
    for (position, blob) in blobs.iter().enumerate() {
        let path = layout.blob(&blob.digest);
        fetch_blob(&registry, image, blob, &path, &mut meter).await?;
        if position == 0 {
            let bytes = tokio::fs::read(&path)
                .await
                .map_err(ArtifactError::io("reading an image's configuration"))?;
            manifest::check_config(&bytes, image)?;
        }
    }
    layout.finish(&digest, &manifest.media_type, document).await?;
    Ok(digest)
}

async fn fetch_blob(
    registry: &Registry<'_>,
    image: &Reference,
    blob: &Descriptor,
    path: &Path,
    meter: &mut Meter<'_>,
) -> Result<(), ArtifactError> {
    let mut download = Download::create(path, meter).await?;
    let mut stream = registry.blob(&blob.digest).await?;
    let mut left = blob.size;
    while let Some(bytes) = stream.next().await? {
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| refused(image, "has a blob that is larger than its manifest says"))?;
        download.write(&bytes).await?;
    }
    let sha256 = download.finish().await?;
    if left > 0 || format!("sha256:{sha256}") != blob.digest {
        return Err(refused(image, "has a blob that is not what its manifest says"));
    }
    Ok(())
}

/// The error for an image from which nothing can be built.
fn refused(image: &Reference, why: &str) -> ArtifactError {
    ArtifactError::refused(FailureCode::ContainerBuildFailed, format!("The image {image} {why}."))
}
