//! Image builds: what identifies one, and where its files lie.

use std::path::PathBuf;

use crate::id::{AccountId, BuildId, IdError, ImageUid};

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

impl ImageBuild {
    /// The build that these texts name, which come from a record.
    ///
    /// # Errors
    ///
    /// [`IdError`] if one of them is no such id.
    pub fn parse(account: &str, image_uid: &str, version: u32, build_id: &str) -> Result<Self, IdError> {
        Ok(Self {
            account: account.parse()?,
            image_uid: image_uid.parse()?,
            version,
            build_id: build_id.parse()?,
        })
    }

    /// The folder of the build's files, below the folder of all images: `ACCOUNT/IMAGE_UID/VERSION/BUILD`.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let version = self.version.to_string();
        [self.account.as_str(), self.image_uid.as_str(), &version, self.build_id.as_str()].iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn files_are_named_by_account_image_version_and_build() {
        let build = ImageBuild::parse("123456789012", "uid", 3, "id").unwrap();
        assert_eq!(build.folder(), Path::new("123456789012/uid/3/id"));
    }

    #[test]
    fn a_build_with_an_id_that_leads_elsewhere_is_none() {
        for (account, image_uid, build_id) in
            [("..", "uid", "id"), ("123456789012", "../x", "id"), ("123456789012", "uid", "/etc")]
        {
            assert!(ImageBuild::parse(account, image_uid, 1, build_id).is_err());
        }
    }
}
