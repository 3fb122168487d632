//! An empty ext4 file system for guests, and the program that checks it on the metal.
//!
//! The metal has no programs for either: the file system is made here, the checker comes from Debian's arm64 packages.

use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, content_key};
use crate::command;
use crate::packages;
use crate::private_apt;

/// Bytes of the file system: room for a journal and some megabytes of files.
const SIZE: u64 = 32 << 20;
/// Arguments of mke2fs: the features do not depend on this machine's settings, and the guest need not initialise anything later.
const ARGUMENTS: [&str; 13] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-O",
    FEATURES,
    "-b",
    "4096",
    "-m",
    "0",
    "-E",
    "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    "--",
];
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,metadata_csum,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize";

/// The path of a static `e2fsck` for aarch64.
pub(crate) fn checker(cache: &Cache) -> Result<PathBuf> {
    let package = private_apt::fetch(cache, "e2fsck-static")
        .context("the tests check file systems with Debian's static e2fsck")?;
    ["usr/sbin/e2fsck.static", "sbin/e2fsck.static"]
        .map(|path| package.root.join(path))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("{} holds no e2fsck", package.version))
}

/// The path of an image with an empty ext4 file system.
pub(crate) fn image(cache: &Cache) -> Result<PathBuf> {
    packages::ensure(cache, &[packages::program("e2fsprogs", "mke2fs", "makes file systems for guests")])?;
    let key = content_key(&[&SIZE.to_le_bytes(), ARGUMENTS.join(" ").as_bytes()]);
    let folder = cache.artefact("ext4", &key, |folder| {
        let path = folder.join("image");
        File::create(&path)?.set_len(SIZE)?;
        // mke2fs is only on root's search path.
        let search = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
        command::run(Command::new("mke2fs").env("PATH", search).args(ARGUMENTS).arg(&path))
    })?;
    Ok(folder.join("image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_holds_a_file_system_and_hardly_anything_else() {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _};
        let folder = tempfile::tempdir().unwrap();
        let image = File::open(image(&Cache::at(folder.path().to_path_buf()).unwrap()).unwrap()).unwrap();
        let mut magic = [0; 2];
        image.read_exact_at(&mut magic, 0x438).unwrap();
        assert_eq!(magic, [0x53, 0xef], "an ext4 superblock has its magic number there");
        let metadata = image.metadata().unwrap();
        assert_eq!(metadata.len(), SIZE);
        assert!(metadata.blocks() * 512 < SIZE / 2, "holes stay holes");
    }
}
