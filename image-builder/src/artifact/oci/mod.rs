//! Images from registries, as OCI image layouts.
//!
//! An image is pulled for linux/arm64 into the tar of a layout (`oci-layout`, `index.json`, `blobs/sha256/…`) exactly as it is in
//! the registry: every blob is checked against its digest and size, none is unpacked. The tar is then sent to a
//! builder microVM, where `docker` unpacks it.
//!
//! * [`challenge`] – how a registry wants to be signed in to
//! * [`registry`] – one registry's HTTP: signing in, manifests, blobs
//! * [`manifest`] – checks of manifests and configurations
//! * [`layout`] – the tar

mod challenge;
mod layout;
mod manifest;
mod registry;

use std::fs::File;

use oci_client::Reference;

use self::layout::Layout;
use self::manifest::{Descriptor, Document};
use self::registry::Registry;
pub(super) use self::registry::url;
use super::download::{Download, Meter, OnProgress};
use super::error::ArtifactError;
use super::web::Web;
use super::worker::ImageTask;
use crate::failure::FailureCode;

/// Most bytes of a manifest, an index or an image's configuration: 4 MiB, the limit of registries.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// Pulls an image, as the tar of a layout, and returns its manifest's digest, like `sha256:…`. Called in a worker.
pub(super) async fn pull(
    web: Web,
    task: &ImageTask,
    tar: File,
    on_progress: OnProgress<'_>,
) -> Result<String, ArtifactError> {
    let image: Reference = task.image.parse().map_err(|_| ArtifactError::Config {
        what: "an image".to_owned(),
        why: "its reference cannot be parsed".to_owned(),
    })?;
    let (image, limits) = (&image, &task.limits);
    let registry = Registry::sign_in(web, task, image).await?;
    let mut meter = Meter::new(limits.max_image_bytes, on_progress);
    let mut layout = Layout::begin(tar)?;

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
        let mut configuration = (position == 0).then(Vec::new);
        let file = layout.blob(&blob.digest, blob.size)?;
        fetch_blob(&registry, image, blob, file, &mut meter, configuration.as_mut()).await?;
        if let Some(bytes) = configuration {
            manifest::check_config(&bytes, image)?;
        }
    }
    layout.finish((&digest, &document), &manifest)?;
    Ok(digest)
}

/// Fetches a blob into a file, and a copy of it into `kept`.
async fn fetch_blob(
    registry: &Registry<'_>,
    image: &Reference,
    blob: &Descriptor,
    file: &File,
    meter: &mut Meter<'_>,
    mut kept: Option<&mut Vec<u8>>,
) -> Result<(), ArtifactError> {
    let mut download = Download::new(file, meter);
    let mut body = registry.blob(&blob.digest).await?;
    if body.announced().is_some_and(|bytes| bytes != blob.size) {
        return Err(refused(image, "has a blob that is not as large as its manifest says"));
    }
    let mut left = blob.size;
    while let Some(bytes) = body.next().await? {
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| refused(image, "has a blob that is larger than its manifest says"))?;
        download.write(&bytes)?;
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&bytes);
        }
    }
    if left > 0 || format!("sha256:{}", download.finish()) != blob.digest {
        return Err(refused(image, "has a blob that is not what its manifest says"));
    }
    Ok(())
}

/// The error for an image from which nothing can be built.
fn refused(image: &Reference, why: &str) -> ArtifactError {
    ArtifactError::refused(FailureCode::ContainerBuildFailed, format!("The image {image} {why}."))
}
