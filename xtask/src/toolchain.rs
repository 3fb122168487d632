//! Compilers: cargo for this machine, and a toolchain for aarch64 binaries.
//!
//! The aarch64 target comes from rustup if its toolchain has it or can fetch it, else from Debian's own Rust with
//! its arm64 standard library. After a failed fetch, rustup is not tried again for a day, so that runs without a network do not wait.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, content_key};
use crate::command;
use crate::lock::Lock;
use crate::packages::{self, Need, library, program};
use crate::progress;

/// Target of the programs for the metal.
pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Time limit of a fetch by rustup, after which Debian's Rust is used.
const RUSTUP_LIMIT: Duration = Duration::from_secs(20);
/// How long a fetch is not retried after a failure.
const RUSTUP_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Folder of the programs in Debian's packages.
const DEBIAN_BIN: &str = "/usr/bin";

/// The folder of the workspace.
pub(crate) fn repository() -> Result<PathBuf> {
    let own = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&own).parent().context("xtask lies outside the workspace")?;
    if !root.join("xtask").is_dir() {
        bail!("{} is not the workspace any more; run it as `cargo xtask`", root.display());
    }
    Ok(root.to_path_buf())
}

/// Cargo's target folder for this machine.
fn target_folder(cache: &Cache) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache.path("target"), PathBuf::from)
}

/// Cargo for this machine, run in the workspace.
pub(crate) fn native(cache: &Cache) -> Result<Command> {
    let mut cargo = command::clean("cargo");
    let folder = target_folder(cache);
    claim(&repository()?, &folder)?;
    cargo.current_dir(repository()?).env("CARGO_TARGET_DIR", folder);
    Ok(cargo)
}

/// Claims a target folder and its siblings for this checkout. To cargo, packages of two checkouts are the same, and it compares only the
/// times of their files: if another checkout has built last here, and this one's sources are older, its results would be taken for this
/// one's. So the sources get the current time if another checkout has built last here.
fn claim(checkout: &Path, folder: &Path) -> Result<()> {
    let mark = folder.join("hearth-checkout");
    let own = checkout.as_os_str().as_bytes();
    if fs::read(&mark).is_ok_and(|last| last == own) {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let now = SystemTime::now();
    renew(checkout, now)
        .with_context(|| format!("cannot set the times of files in {}", checkout.display()))?;
    fs::write(&mark, own).with_context(|| format!("cannot write {}", mark.display()))
}

/// Sets the time of all files of a checkout, except build results and git's files.
fn renew(folder: &Path, time: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        if kind.is_dir() {
            if name != "target" && name != ".git" {
                renew(&entry.path(), time)?;
            }
        } else if kind.is_file() {
            File::options().append(true).open(entry.path())?.set_modified(time)?;
        }
    }
    Ok(())
}

/// Cargo like [`native`], with a separate target folder, for builds whose environment would make all others start anew.
pub(crate) fn native_apart(cache: &Cache, ending: &str) -> Result<Command> {
    let mut cargo = native(cache)?;
    cargo.env("CARGO_TARGET_DIR", sibling(&target_folder(cache), ending));
    Ok(cargo)
}

/// The packages that every aarch64 build needs.
pub(crate) fn needs() -> Vec<Need> {
    if cfg!(target_arch = "aarch64") {
        return vec![program("gcc", "gcc", "links aarch64 binaries")];
    }
    vec![
        program("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc", "links aarch64 binaries"),
        program("g++-aarch64-linux-gnu", "aarch64-linux-gnu-g++", "compiles C++ for aarch64"),
        library("libc6-dev-arm64-cross", "the C library of aarch64 binaries"),
    ]
}

/// How aarch64 binaries are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Statically, so that they run on a machine without libraries.
    Static,
    /// With the machine's C and C++ libraries, for programs with C++ code.
    Dynamic,
    /// As the package itself configures.
    Own,
}

/// A toolchain for aarch64.
#[derive(Clone, Debug)]
pub(crate) struct Cross {
    source: Source,
    target_folder: PathBuf,
    /// The folder whose mark names the checkout that has built last in it and in its siblings: one mark, because setting the times of
    /// the sources makes all of them build again.
    claimed: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// This machine is aarch64.
    Native,
    Rustup,
    Debian,
}

impl Cross {
    /// Finds or installs a toolchain.
    pub(crate) fn prepare(cache: &Cache) -> Result<Self> {
        packages::ensure(cache, &needs())?;
        let source = if cfg!(target_arch = "aarch64") {
            Source::Native
        } else if rustup_has_target() || rustup_adds_target(cache)? {
            Source::Rustup
        } else {
            debian(cache)?
        };
        let folder = match source {
            Source::Native => target_folder(cache),
            Source::Rustup => sibling(&target_folder(cache), "-cross"),
            Source::Debian => sibling(&target_folder(cache), "-cross-debian"),
        };
        Ok(Self { source, target_folder: folder, claimed: target_folder(cache) })
    }

    /// Cargo for aarch64, run in the workspace. `--target` is left to the caller, after the subcommand.
    pub(crate) fn cargo(&self, link: Link) -> Result<Command> {
        let mut cargo = match self.source {
            Source::Native | Source::Rustup => command::clean("cargo"),
            Source::Debian => debian_cargo(),
        };
        claim(&repository()?, &self.claimed)?;
        cargo.current_dir(repository()?).env("CARGO_TARGET_DIR", &self.target_folder);
        if self.source != Source::Native {
            cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
        }
        if link == Link::Static {
            cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
        }
        Ok(cargo)
    }

    /// A program of the aarch64 binutils.
    pub(crate) fn binutil(&self, name: &str) -> Command {
        Command::new(self.gnu(name))
    }

    /// The name of a program of GNU's compilers and binutils for aarch64.
    pub(crate) fn gnu(&self, name: &str) -> String {
        match self.source {
            Source::Native => name.to_owned(),
            Source::Rustup | Source::Debian => format!("aarch64-linux-gnu-{name}"),
        }
    }
}

/// Debian's cargo with Debian's compiler, even if rustup's come first on the search path.
fn debian_cargo() -> Command {
    let mut cargo = command::clean(format!("{DEBIAN_BIN}/cargo"));
    cargo.env_remove("RUSTUP_TOOLCHAIN").env("RUSTC", format!("{DEBIAN_BIN}/rustc"));
    let mut path = OsString::from(DEBIAN_BIN);
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    cargo.env("PATH", path);
    cargo
}

/// Whether the compiler `rustc` has the target's standard library.
fn has_target(rustc: &mut Command) -> bool {
    let Ok(folder) = command::capture(rustc.args(["--print", "target-libdir", "--target", TARGET])) else {
        return false;
    };
    fs::read_dir(folder.trim()).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    })
}

fn rustup_has_target() -> bool {
    let mut rustc = command::clean("rustc");
    if let Ok(root) = repository() {
        rustc.current_dir(root);
    }
    has_target(&mut rustc)
}

fn rustup_adds_target(cache: &Cache) -> Result<bool> {
    if command::find_program("rustup").is_none() {
        return Ok(false);
    }
    let _lock = Lock::of_machine("rustup")?;
    if rustup_has_target() {
        return Ok(true);
    }
    let toolchain = command::capture(command::clean("rustc").current_dir(repository()?).arg("-vV"))?;
    let memory = format!("toolchain/failed-{}", content_key(&[toolchain.as_bytes()]));
    let tried = fs::metadata(cache.path(&memory)).and_then(|meta| meta.modified()).ok();
    if tried.and_then(|time| time.elapsed().ok()).is_some_and(|age| age < RUSTUP_PAUSE) {
        return Ok(false);
    }
    progress::note(&format!("   rustup target add {TARGET}"));
    let mut rustup = command::clean("rustup");
    rustup.current_dir(repository()?).args(["target", "add", TARGET]);
    if command::succeeds_within(&mut rustup, RUSTUP_LIMIT)? && rustup_has_target() {
        return Ok(true);
    }
    progress::note("   rustup cannot fetch the target; using Debian's Rust");
    cache.write_file(&memory, b"")?;
    Ok(false)
}

fn debian(cache: &Cache) -> Result<Source> {
    packages::ensure(
        cache,
        &[
            library("rustc-web", "compiles for aarch64"),
            library("cargo-web", "builds with that compiler"),
            library("rust-web-clippy", "checks what only aarch64 compiles"),
            library("libstd-rust-web-dev:arm64", "Rust's standard library for aarch64"),
        ],
    )?;
    let mut rustc = command::clean(format!("{DEBIAN_BIN}/rustc"));
    if !has_target(rustc.env_remove("RUSTUP_TOOLCHAIN")) {
        bail!(
            "neither rustup nor {DEBIAN_BIN}/rustc can compile for {TARGET}; try `rustup target add {TARGET}`"
        );
    }
    Ok(Source::Debian)
}

fn sibling(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_os_string();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_programs_come_first_for_debian_cargo() {
        let cargo = debian_cargo();
        let path = cargo.get_envs().find(|(name, _)| *name == "PATH").unwrap().1.unwrap().to_os_string();
        assert!(path.to_string_lossy().starts_with("/usr/bin:"));
        assert!(cargo.get_envs().any(|(name, value)| name == "RUSTUP_TOOLCHAIN" && value.is_none()));
    }

    #[test]
    fn the_repository_is_where_xtask_is() {
        assert!(repository().unwrap().join("xtask/Cargo.toml").is_file());
    }

    #[test]
    fn a_checkout_that_was_not_the_last_to_build_is_newer_than_what_was_built() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("cache/target");
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let source = |name: &str| folder.path().join(name).join("package/lib.rs");
        for name in ["one", "other"] {
            fs::create_dir_all(source(name).parent().unwrap()).unwrap();
            fs::write(source(name), "").unwrap();
        }
        let time = |name: &str| fs::metadata(source(name)).unwrap().modified().unwrap();
        for (name, renewed) in [("one", true), ("one", false), ("other", true), ("one", true)] {
            renew(folder.path(), old).unwrap();
            claim(&folder.path().join(name), &target).unwrap();
            assert_eq!(time(name) > old, renewed, "{name}");
        }
    }

    #[test]
    fn siblings_lie_beside_their_folder() {
        assert_eq!(sibling(Path::new("/a/target"), "-cross"), PathBuf::from("/a/target-cross"));
    }
}
