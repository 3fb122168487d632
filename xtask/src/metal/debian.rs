//! Debian's programs, for jobs that need more than busybox.
//!
//! For the emulated metal, they are unpacked from arm64 packages into a read-only file system, which is attached as a disk;
//! init makes its programs and libraries take precedence over busybox's. On this machine, the packages are
//! installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, content_key};
use crate::command;
use crate::packages::{self, Need};
use crate::private_apt;
use crate::progress;

/// Name of the disk, which init.sh looks for.
pub(crate) const DISK: &str = "debian";

/// The available programs.
pub(crate) const PROGRAMS: [Need; 10] = [
    packages::library("ca-certificates", "whom TLS clients on the metal trust"),
    packages::program("curl", "curl", "speaks HTTP on the metal"),
    // Busybox's shell always runs busybox's programs, independent of the search path.
    packages::program("dash", "dash", "runs commands on the metal"),
    packages::program("docker-registry", "docker-registry", "serves images on the metal"),
    packages::program("e2fsprogs", "mke2fs", "makes file systems on the metal"),
    packages::program("iproute2", "ip", "makes networks on the metal"),
    packages::library("libgcc-s1", "what C++ needs of the compiler on the metal"),
    packages::library("libstdc++6", "the C++ library of hearthd on the metal"),
    packages::program("nftables", "nft", "filters packets on the metal"),
    // Busybox's has no sparse files.
    packages::program("tar", "tar", "unpacks sparse files on the metal"),
];
/// Must change when `finish` makes a different tree from the same packages.
const RECIPE: &str = "1";
/// Folders of a tree that no program needs.
const UNUSED: [&str; 5] =
    ["usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "usr/share/lintian"];
const CERTIFICATES: &str = "usr/share/ca-certificates/mozilla";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
const INTERPRETER: &str = "usr/lib/ld-linux-aarch64.so.1";

/// Installs the programs on this machine.
pub(crate) fn install(cache: &Cache) -> Result<()> {
    packages::ensure(cache, &PROGRAMS)
}

/// The file system for the emulated metal.
pub(crate) fn image(cache: &Cache) -> Result<PathBuf> {
    packages::ensure(
        cache,
        &[packages::program("erofs-utils", "mkfs.erofs", "makes the file system of the metal's programs")],
    )?;
    let names = PROGRAMS.map(|need| need.package);
    let tree = private_apt::fetch_tree(cache, private_apt::METAL, &names, RECIPE, finish)
        .context("the metal needs programs of Debian's arm64 packages")?;
    let key = content_key(&[tree.version.as_bytes()]);
    let folder = cache.artefact("metal-debian", &key, |folder| {
        progress::note("   packing Debian's programs for the metal");
        let mut make = Command::new("mkfs.erofs");
        // It is not compressed: decompressing on an emulated processor takes longer than reading more bytes on this machine.
        make.args(["--quiet", "--all-root", "-T0"]).arg(folder.join("image")).arg(&tree.root);
        command::capture(&mut make).map(drop)
    })?;
    Ok(folder.join("image"))
}

/// Does the necessary parts of the packages' scripts.
fn finish(root: &Path) -> Result<()> {
    if !root.join(INTERPRETER).exists() {
        bail!("the C library's package holds no {INTERPRETER}");
    }
    let mut bundle = Vec::new();
    let certificates = root.join(CERTIFICATES);
    for name in sorted(&certificates)? {
        bundle.extend(fs::read(certificates.join(name))?);
    }
    let path = root.join(BUNDLE);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bundle)?;
    for folder in UNUSED {
        crate::cache::remove_folder(&root.join(folder))?;
    }
    Ok(())
}

fn sorted(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_gets_its_certificates_and_loses_what_nobody_reads() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in [INTERPRETER, "usr/share/doc/x/copyright"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "").unwrap();
        }
        fs::create_dir_all(root.join(CERTIFICATES)).unwrap();
        for (name, text) in [("b.crt", "second"), ("a.crt", "first ")] {
            fs::write(root.join(CERTIFICATES).join(name), text).unwrap();
        }
        finish(root).unwrap();
        assert_eq!(fs::read_to_string(root.join(BUNDLE)).unwrap(), "first second");
        assert!(!root.join("usr/share/doc").exists());
    }

    #[test]
    fn a_tree_without_the_c_library_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(finish(folder.path()).unwrap_err().to_string().contains(INTERPRETER));
    }
}
