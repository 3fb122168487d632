//! `base.json`: the description of a base image and of its inputs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use super::debian::Package;
pub use super::files::FileRecord;
use super::recipe::{Recipe, Sources};
use super::{BaseError, files};

/// Version of the format that this code writes and reads.
pub const FORMAT: u32 = 1;
/// Name of the file.
pub(crate) const FILE: &str = "base.json";

/// A base image's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format, [`FORMAT`].
    pub format: u32,
    /// The base image's version; newer ones are greater.
    pub version: u64,
    /// Time of the build, in seconds since 1970. It is not part of any digest.
    pub created: u64,
    /// All other files of the version, by name.
    pub files: BTreeMap<String, FileRecord>,
    /// SHA-256 over everything in [`Inputs`], as JSON.
    pub inputs_sha256: String,
    /// Inputs of the base image.
    pub inputs: Inputs,
    /// The container bases in `containers.erofs`.
    pub containers: Vec<Container>,
}

/// Inputs of a base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The guest's kernel.
    pub kernel: Kernel,
    /// The program `hearth-guest`.
    pub guest: FileRecord,
    /// The provider of OpenSSL; none in base images of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openssl: Option<FileRecord>,
    /// The recipe: the requested packages.
    pub recipe: Recipe,
    /// The mirrors of the packages.
    pub sources: Sources,
    /// All packages on the builder's root disk, unpacked.
    pub builder_packages: Vec<Package>,
    /// All packages in each container base, by its name and tag.
    pub container_packages: BTreeMap<String, Vec<Package>>,
}

/// A guest's kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `image` for an existing file, `debian` for Debian's packaged kernel.
    pub kind: String,
    /// The release in the kernel's banner, as in `6.12.107`.
    pub release: String,
    /// Digest and size of the kernel.
    pub image: FileRecord,
    /// The kernel's package, if it is a packaged one.
    pub packages: Vec<Package>,
    /// The modules in the initramfs, in load order.
    pub modules: Vec<String>,
}

/// A container base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name in a Dockerfile, as in `hearth/debian:13`.
    pub reference: String,
    /// Digest of its OCI manifest, as in `sha256:…`.
    pub digest: String,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is damaged, or has an unknown format.
    pub fn read(path: &Path) -> Result<Self, BaseError> {
        Self::parse(&files::read(path)?).map_err(|reason| BaseError::unusable(path, reason))
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged = |error| format!("it is damaged: {error}");
        let Format { format } = serde_json::from_slice(text).map_err(damaged)?;
        if format != FORMAT {
            return Err(format!("its format is {format}, and only {FORMAT} is known here"));
        }
        serde_json::from_slice(text).map_err(damaged)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn manifest(files: BTreeMap<String, FileRecord>) -> Manifest {
        let record = FileRecord::of(b"");
        Manifest {
            format: FORMAT,
            version: 1,
            created: 0,
            files,
            inputs_sha256: String::new(),
            inputs: Inputs {
                kernel: Kernel {
                    kind: "image".into(),
                    release: "6".into(),
                    image: record.clone(),
                    packages: vec![],
                    modules: vec![],
                },
                guest: record,
                openssl: None,
                recipe: Recipe::own().unwrap(),
                sources: Sources::default(),
                builder_packages: vec![],
                container_packages: BTreeMap::new(),
            },
            containers: vec![],
        }
    }

    #[test]
    fn other_formats_are_refused_by_their_number() {
        let mut other = serde_json::to_value(manifest(BTreeMap::new())).unwrap();
        assert!(Manifest::parse(other.to_string().as_bytes()).is_ok());
        other["format"] = 2.into();
        assert!(Manifest::parse(other.to_string().as_bytes()).unwrap_err().contains("format is 2"));
        assert!(Manifest::parse(b"{").unwrap_err().contains("damaged"));
        assert!(Manifest::parse(b"{\"format\":1}").unwrap_err().contains("damaged"));
    }
}
