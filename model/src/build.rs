//! The files of builds, and where they lie.

use std::path::PathBuf;

use crate::id::{AccountId, BuildId, ImageUid, is_path_component};

/// Identifies the files of a build.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Artifact {
    /// Account that owns the image.
    pub account: AccountId,
    /// The image's uid.
    pub image_uid: ImageUid,
    /// Number of the version.
    pub version: u32,
    /// Id of the build.
    pub build_id: BuildId,
}

/// Error: an id of the artifact could lead out of the folder of all images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no files of a build")]
pub struct NoFiles(pub Artifact);

impl Artifact {
    /// The folder of the build's files, below the folder of all images: `ACCOUNT/IMAGE_UID/VERSION/BUILD`.
    ///
    /// # Errors
    ///
    /// [`NoFiles`]. Ids come from records, and are checked nevertheless.
    pub fn folder(&self) -> Result<PathBuf, NoFiles> {
        let version = self.version.to_string();
        let parts = [self.account.as_str(), self.image_uid.as_str(), &version, self.build_id.as_str()];
        let safe = parts.iter().all(|part| is_path_component(part));
        if safe { Ok(parts.iter().collect()) } else { Err(NoFiles(self.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn artifact() -> Artifact {
        Artifact {
            account: "123456789012".into(),
            image_uid: "uid".into(),
            version: 3,
            build_id: "id".into(),
        }
    }

    #[test]
    fn files_are_named_by_account_image_version_and_build() {
        assert_eq!(artifact().folder().unwrap(), Path::new("123456789012/uid/3/id"));
    }

    #[test]
    fn no_id_leads_out_of_the_folder_of_images() {
        for id in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0", "ü"] {
            for artifact in [
                Artifact { account: id.into(), ..artifact() },
                Artifact { image_uid: id.into(), ..artifact() },
                Artifact { build_id: id.into(), ..artifact() },
            ] {
                assert_eq!(artifact.folder(), Err(NoFiles(artifact)), "{id:?}");
            }
        }
        let error = Artifact { build_id: "..".into(), ..artifact() }.folder().unwrap_err().to_string();
        assert!(
            error.contains(r#"build_id: "..""#) && error.ends_with("names no files of a build"),
            "{error}"
        );
    }
}
