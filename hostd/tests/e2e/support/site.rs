//! The state that all tests share: the daemon's data folder, with the images that were built.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The settings that the environment contains.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) hostd: PathBuf,
    pub(crate) vmm: PathBuf,
    pub(crate) catalogue: PathBuf,
    pub(crate) examples: PathBuf,
    /// The folder with golden inputs.
    pub(crate) golden: PathBuf,
    /// The daemon's folders and files.
    pub(crate) folder: PathBuf,
}

static SITE: LazyLock<Option<Site>> = LazyLock::new(|| {
    let site = Site::find();
    if site.is_none() {
        hearth_testing::skip("a variable is not set that `cargo xtask test` sets on the metal");
    }
    site
});

impl Site {
    /// The settings, if the tests run on the metal.
    pub(crate) fn get() -> Option<&'static Self> {
        SITE.as_ref()
    }

    fn find() -> Option<Self> {
        let path = |name: &str| env::var_os(name).map(PathBuf::from);
        let folder = path("HEARTH_OUT").unwrap_or_else(env::temp_dir).join("hostd-e2e");
        let site = Self {
            hostd: path("HEARTH_HOSTD")?,
            vmm: path("HEARTH_VMM")?,
            catalogue: path("HEARTH_CATALOGUE")?,
            examples: path("HEARTH_EXAMPLES")?,
            golden: path("HEARTH_GOLDEN")?,
            folder,
        };
        for folder in [&site.folder, &site.run()] {
            // Files of an earlier run belong to another release.
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder).unwrap();
        }
        Some(site)
    }

    /// The daemon's data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The daemon's run folder: paths of sockets have to be short.
    pub(crate) fn run(&self) -> PathBuf {
        PathBuf::from("/run/hearth-e2e")
    }

    /// The daemon's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("hearthd.sock")
    }

    /// The example `counter` as a zip.
    pub(crate) fn counter(&self) -> Vec<u8> {
        pack(&self.examples.join("counter"))
    }
}

/// A folder as a zip.
pub(crate) fn pack(context: &Path) -> Vec<u8> {
    let mut zip = tempfile::NamedTempFile::new().unwrap();
    hearth_image_builder::artifact::zip::pack(context, zip.as_file_mut().try_clone().unwrap()).unwrap();
    fs::read(zip.path()).unwrap()
}
