//! Image builds: what identifies one, and where its files lie.

use std::path::PathBuf;

use crate::id::{AccountId, BuildId, ImageUid, is_path_component};

/// Identifies an image build and its files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageBuild {
    /// Account that owns the image.
    pub account: AccountId,
    /// The image's uid.
    pub image_uid: ImageUid,
    /// Number of the version.
    pub version: u32,
    /// Id of the build.
    pub build_id: BuildId,
}

/// Error: an id of the build could lead out of the folder of all images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no files of a build")]
pub struct InvalidBuild(pub ImageBuild);

impl ImageBuild {
    /// The folder of the build's files, below the folder of all images: `ACCOUNT/IMAGE_UID/VERSION/BUILD`.
    ///
    /// # Errors
    ///
    /// [`InvalidBuild`]. Ids come from records, and are checked nevertheless.
    pub fn folder(&self) -> Result<PathBuf, InvalidBuild> {
        let version = self.version.to_string();
        let parts = [self.account.as_str(), self.image_uid.as_str(), &version, self.build_id.as_str()];
        let safe = parts.iter().all(|part| is_path_component(part));
        if safe { Ok(parts.iter().collect()) } else { Err(InvalidBuild(self.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn build() -> ImageBuild {
        ImageBuild {
            account: "123456789012".into(),
            image_uid: "uid".into(),
            version: 3,
            build_id: "id".into(),
        }
    }

    #[test]
    fn files_are_named_by_account_image_version_and_build() {
        assert_eq!(build().folder().unwrap(), Path::new("123456789012/uid/3/id"));
    }

    #[test]
    fn no_id_leads_out_of_the_folder_of_images() {
        for id in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0", "ü"] {
            for build in [
                ImageBuild { account: id.into(), ..build() },
                ImageBuild { image_uid: id.into(), ..build() },
                ImageBuild { build_id: id.into(), ..build() },
            ] {
                assert_eq!(build.folder(), Err(InvalidBuild(build)), "{id:?}");
            }
        }
        let error = ImageBuild { build_id: "..".into(), ..build() }.folder().unwrap_err().to_string();
        assert!(
            error.contains(r#"build_id: "..""#) && error.ends_with("names no files of a build"),
            "{error}"
        );
    }
}
