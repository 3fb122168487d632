//! The emulated metal's kernel and initramfs, both in the cache.
//!
//! Kernel and modules come from one of Debian's arm64 kernels, the tools from its static busybox; `init.sh` is PID 1.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use hearth_base::cpio::Archive;

use super::HostKernel;
use crate::cache::{Cache, content_key};
use crate::modules;
use crate::private_apt::{self, Unpacked, only_entry};
use crate::progress;

const INIT: &str = include_str!("init.sh");
const MODULES: &str = include_str!("modules.txt");
/// Must change when the code below makes a different initramfs from the same parts.
const RECIPE: &[u8] = b"1";

/// The files that QEMU boots.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// The initramfs.
    pub(crate) initramfs: PathBuf,
}

impl Image {
    /// Downloads and builds the files that the cache does not have yet.
    pub(crate) fn prepare(cache: &Cache, kernel: HostKernel) -> Result<Self> {
        let package = match kernel {
            HostKernel::Cloud => "linux-image-cloud-arm64",
            HostKernel::LargePages => "linux-image-arm64-16k",
        };
        let kernel = private_apt::fetch_through(cache, package, "linux-image-6.12")
            .context("the metal needs Debian's arm64 kernel")?;
        let busybox =
            private_apt::fetch(cache, "busybox-static").context("the metal needs Debian's static busybox")?;
        let key = content_key(&[
            RECIPE,
            INIT.as_bytes(),
            MODULES.as_bytes(),
            kernel.version.as_bytes(),
            busybox.version.as_bytes(),
        ]);
        let built = cache.artefact("metal", &key, |folder| {
            progress::note(&format!("   building the metal's initramfs ({})", kernel.version));
            Ok(fs::write(folder.join("initramfs.cpio"), initramfs(&kernel, &busybox)?)?)
        })?;
        Ok(Self {
            kernel: only_entry(&kernel.root.join("boot"), "vmlinuz-")?,
            initramfs: built.join("initramfs.cpio"),
        })
    }
}

fn initramfs(kernel: &Unpacked, busybox: &Unpacked) -> Result<Vec<u8>> {
    let tree = only_entry(&kernel.root.join("usr/lib/modules"), "")?;
    let version = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let chosen = modules::choose(&tree, MODULES)?;
    let program = fs::read(busybox.root.join("usr/bin/busybox"))
        .or_else(|_| fs::read(busybox.root.join("bin/busybox")))
        .context("the busybox package holds no busybox")?;

    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "bin", "sbin", "usr/bin", "usr/sbin"] {
        archive.folder(folder);
    }
    archive.console();
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("bin/busybox", 0o755, &program);
    // Other links are made at boot. These two are needed earlier: init's interpreter, and the program that the kernel runs to load modules.
    archive.symlink("bin/sh", "busybox");
    archive.symlink("sbin/modprobe", "../bin/busybox");
    let modules = format!("lib/modules/{version}");
    for module in chosen.values() {
        archive.file(&format!("{modules}/{}", module.path), 0o644, &module.content);
    }
    archive.file(&format!("{modules}/modules.dep"), 0o644, modules::dependency_index(&chosen).as_bytes());
    archive.file(&format!("{modules}/modules.alias"), 0o644, modules::alias_index(&chosen).as_bytes());
    let builtin = fs::read(tree.join("modules.builtin"))?;
    archive.file(&format!("{modules}/modules.builtin"), 0o644, &builtin);
    Ok(archive.finish())
}
