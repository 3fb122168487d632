//! `cargo xtask kernel`: the tuned guest kernel, built from Debian's kernel source and `kernel/guest.config`.
//!
//! The source package is unpacked into the cache, never installed. The cache key covers everything that the result depends on:
//! the configuration, the source's version and the compiler's.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cache::{Cache, content_key};
use crate::command;
use crate::packages::{self, library, program};
use crate::private_apt::{self, Unpacked, only_entry};
use crate::progress;

const CONFIG: &str = include_str!("../kernel/guest.config");
/// Must change when the code below makes a different kernel from the same parts.
const RECIPE: &[u8] = b"1";

/// Builds the tuned arm64 guest kernel (7 to 11 minutes on 2 cores, once).
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Print nothing but the path of the Image to stdout
    #[arg(long)]
    print_path: bool,
}

impl Options {
    /// Builds the kernel and prints its path.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let image = prepare(cache)?;
        if self.print_path {
            println!("{}", image.display());
        } else {
            let size = fs::metadata(&image)?.len();
            progress::note(&format!("guest kernel: {} ({size} bytes)", image.display()));
        }
        Ok(0)
    }
}

/// Whether some kernel is built; only for estimates, because it may not be the one that [`prepare`] needs.
pub(crate) fn is_built(cache: &Cache) -> bool {
    fs::read_dir(cache.path("kernel")).is_ok_and(|mut entries| entries.next().is_some())
}

/// The path of the kernel's `Image`, which is built if the cache does not have it.
pub(crate) fn prepare(cache: &Cache) -> Result<PathBuf> {
    let compiler = compiler();
    packages::ensure(cache, &[compiler])?;
    let source =
        private_apt::fetch(cache, "linux-source-6.12").context("the guest kernel needs its source")?;
    let gcc = compiler.program.unwrap_or_default();
    let version = command::capture(Command::new(gcc).arg("--version"))?;
    let version = version.lines().next().unwrap_or_default();
    let key = content_key(&[RECIPE, CONFIG.as_bytes(), source.version.as_bytes(), version.as_bytes()]);
    let built = cache.artefact("kernel", &key, |folder| {
        progress::note(&format!("   building the guest kernel from {}", source.version));
        packages::ensure(cache, &build_needs())?;
        build(&source, folder)
    })?;
    Ok(built.join("Image"))
}

fn compiler() -> packages::Need {
    if cfg!(target_arch = "aarch64") {
        program("gcc", "gcc", "compiles the guest kernel")
    } else {
        program("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc", "compiles the guest kernel")
    }
}

/// The packages that [`prepare`] needs, as far as that is known.
pub(crate) fn needs(cache: &Cache) -> Vec<packages::Need> {
    let mut needs = vec![compiler()];
    if !is_built(cache) {
        needs.extend(build_needs());
    }
    needs
}

fn build_needs() -> [packages::Need; 9] {
    let why = "builds the guest kernel";
    [
        program("gcc", "gcc", why),
        library("libc6-dev", why),
        program("make", "make", why),
        program("flex", "flex", why),
        program("bison", "bison", why),
        program("bc", "bc", why),
        program("perl", "perl", why),
        program("xz-utils", "xz", "unpacks the kernel's source"),
        library("libssl-dev", why),
    ]
}

/// Writes `Image`, `config` and `build.log` to `folder`.
fn build(source: &Unpacked, folder: &Path) -> Result<()> {
    let log = folder.join("build.log");
    let tree = folder.join("source");
    fs::create_dir(&tree)?;
    let archive = only_entry(&source.root.join("usr/src"), "linux-source-")?;
    let mut tar = Command::new("tar");
    tar.args(["--strip-components=1", "-xf"]).arg(&archive).arg("-C").arg(&tree);
    command::run_logged(&mut tar, &log, "unpacking the source")?;

    let wanted = folder.join("guest.config");
    fs::write(&wanted, CONFIG)?;
    command::run_logged(
        make(&tree).env("KCONFIG_ALLCONFIG", &wanted).arg("allnoconfig"),
        &log,
        "configuring",
    )?;
    let config = fs::read_to_string(tree.join(".config")).context("the kernel has no configuration")?;
    let lost = not_taken(CONFIG, &config);
    if !lost.is_empty() {
        bail!(
            "these lines of kernel/guest.config did not take (a dependency is missing, or the name is gone): {}",
            lost.join(", ")
        );
    }
    let jobs = command::cores();
    let mut image = make(&tree);
    command::run_logged(image.arg(format!("-j{jobs}")).arg("Image"), &log, "compiling the guest kernel")?;
    fs::rename(tree.join("arch/arm64/boot/Image"), folder.join("Image"))
        .context("the build left no Image")?;
    fs::rename(tree.join(".config"), folder.join("config"))?;
    Ok(fs::remove_dir_all(&tree)?)
}

fn make(tree: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C").arg(tree).arg("ARCH=arm64");
    if !cfg!(target_arch = "aarch64") {
        make.arg("CROSS_COMPILE=aarch64-linux-gnu-");
    }
    // Constant values, so that the same parts give the same bytes.
    make.env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970");
    make.env("KBUILD_BUILD_USER", "hearth").env("KBUILD_BUILD_HOST", "hearth");
    // If xtask itself is run by make, that make's flags must not be inherited.
    make.env_remove("MAKEFLAGS").env_remove("MFLAGS");
    make
}

/// The lines of a fragment that a configuration does not have.
fn not_taken<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let settings = |text: &'a str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once('=').map(|(name, value)| (name, value, line)))
    };
    let have: HashMap<&str, &str> = config
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect();
    settings(fragment)
        .filter(|(name, value, _)| have.get(name).copied().unwrap_or("n") != *value)
        .map(|(_, _, line)| line)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_did_not_take_are_named() {
        let config = "# comment\nCONFIG_A=y\nCONFIG_N=32\n# CONFIG_OFF is not set\n";
        let fragment = "# why\nCONFIG_A=y\nCONFIG_N=32\nCONFIG_OFF=n\nCONFIG_LOST=y\nCONFIG_N=8\n\n";
        assert_eq!(not_taken(fragment, config), ["CONFIG_LOST=y", "CONFIG_N=8"]);
    }

    #[test]
    fn the_fragment_says_everything_once() {
        let mut names: Vec<&str> = CONFIG.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
