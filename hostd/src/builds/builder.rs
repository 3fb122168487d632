//! Carries out builds with the image builder.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hearth_image_builder::build::Builder;
use hearth_image_builder::build::event::Sink;
use hearth_proto::microvms::v1::SnapshotBuild;

use super::build::{Build, BuildFailure, Job};

/// Builds images into the folders of a host's images.
#[derive(Debug)]
pub struct ImageBuilder {
    builder: Builder,
    images: PathBuf,
}

impl ImageBuilder {
    /// `images` is the folder of all images, on the file system of the builder's work folder.
    #[must_use]
    pub fn new(builder: Builder, images: PathBuf) -> Self {
        Self { builder, images }
    }
}

#[async_trait]
impl Build for ImageBuilder {
    async fn build(&self, job: &Job, sink: Sink) -> Result<SnapshotBuild, BuildFailure> {
        let out = self.images.join(job.build.folder());
        if let Some(parent) = out.parent() {
            let made = make_durable(&self.images, parent).await;
            made.map_err(|source| BuildFailure::Folder { path: parent.to_owned(), source })?;
        }
        let image = self.builder.build(&job.request, &out, sink, std::future::pending()).await?;
        let sizes = image.manifest().sizes;
        let size = |bytes: u64| Some(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(SnapshotBuild {
            memory_snapshot_size_in_bytes: size(sizes.memory_snapshot_size_in_bytes),
            code_install_size_in_bytes: size(sizes.code_install_size_in_bytes),
            disk_snapshot_size_in_bytes: size(sizes.disk_snapshot_size_in_bytes),
        })
    }
}

/// Makes the folders from `root` down to `folder` durable, so that a power failure does not remove them together with
/// their contents.
async fn make_durable(root: &Path, folder: &Path) -> std::io::Result<()> {
    let (root, folder) = (root.to_owned(), folder.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)?;
        for above in folder.ancestors().take_while(|above| above.starts_with(&root)) {
            std::fs::File::open(above)?.sync_all()?;
        }
        Ok(())
    });
    made.await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use hearth_image_builder::build::BuildError;
    use hearth_image_builder::failure::StateReason;
    use hearth_model::hooks::{HookOutcome, ImageHook};

    use super::*;

    #[test]
    fn the_user_reads_the_reason_and_the_operator_what_exactly() {
        let timeout = std::time::Duration::from_secs(300);
        let reason = StateReason::Hook { hook: ImageHook::Ready, outcome: HookOutcome::TimedOut, timeout };
        let failed = BuildFailure::from(BuildError::Failed { reason, detail: "after 12 tries".into() });
        assert_eq!(failed.reason(true), "Ready hook invocation timed out after PT5M");
        assert!(failed.to_string().contains("after 12 tries"), "{failed}");
        let failed = BuildFailure::from(BuildError::Platform("/srv/x: no such file".into()));
        assert!(!failed.reason(true).contains("/srv"), "{}", failed.reason(true));
    }

    #[tokio::test]
    async fn the_folders_of_an_image_are_made() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b/c");
        make_durable(root.path(), &folder).await.unwrap();
        make_durable(root.path(), &folder).await.unwrap();
        assert!(folder.is_dir());
    }
}
