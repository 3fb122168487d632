//! RocksDB, which the daemon keeps its state in: C++ that takes more than 20 minutes to compile, so it is compiled rarely.
//!
//! A build gets it from the first of these that there is:
//!
//! 1. what the caller's own `ROCKSDB_LIB_DIR` (and `ROCKSDB_STATIC`) says,
//! 2. an archive in the cache, `rocksdb/<version>-<target>/librocksdb.a`,
//! 3. an archive beside the checkout, `../shared/prebuilt/rocksdb-<version>/<target>/librocksdb.a`, which is copied to the cache,
//! 4. its sources, which cargo compiles.
//!
//! What holds it is linked dynamically with the C and C++ libraries, so that its builds have a target folder of their own.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::packages::{self, Need, library, program};
use crate::progress;
use crate::toolchain::{self, Cross, Link, TARGET};

/// The feature of `hearth-hostd` that brings it.
pub(crate) const FEATURE: &str = "rocksdb";
/// Where the caller has it.
const FOLDER: &str = "ROCKSDB_LIB_DIR";
const STATIC: &str = "ROCKSDB_STATIC";
const ARCHIVE: &str = "librocksdb.a";
/// The crate whose version ends with that of its sources.
const CRATE: &str = "librocksdb-sys";
/// Archives that somebody has built, in the folder beside the checkout.
const PREBUILT: &str = "../shared/prebuilt";

/// Cargo for aarch64, for what holds RocksDB. As with [`Cross::cargo`], `--target` is left to the caller.
pub(crate) fn cross_cargo(cache: &Cache, cross: &Cross) -> Result<Command> {
    let mut cargo = cross.cargo(Link::Dynamic)?;
    provide(cache, TARGET, &mut cargo)?;
    Ok(cargo)
}

/// Cargo for this machine, for what holds RocksDB.
pub(crate) fn native_cargo(cache: &Cache) -> Result<Command> {
    let target = if cfg!(target_arch = "aarch64") { TARGET } else { "x86_64-unknown-linux-gnu" };
    let mut cargo = toolchain::native_apart(cache, "-rocksdb")?;
    provide(cache, target, &mut cargo)?;
    Ok(cargo)
}

/// Tells a build where RocksDB is, and installs what its crate needs.
fn provide(cache: &Cache, target: &str, cargo: &mut Command) -> Result<()> {
    packages::ensure(cache, &needs())?;
    if env::var_os(FOLDER).is_some() {
        return Ok(());
    }
    match archive(cache, &toolchain::repository()?, target)? {
        Some(folder) => {
            cargo.env(FOLDER, folder).env(STATIC, "1");
        }
        None => progress::note(
            "   RocksDB is compiled from its sources where that was not done yet: 20 minutes on 2 cores",
        ),
    }
    Ok(())
}

/// The packages that its crate needs.
pub(crate) fn needs() -> Vec<Need> {
    let mut needs = vec![program("g++", "g++", "compiles RocksDB and links what holds it")];
    // Whoever says where libclang is has it.
    if env::var_os("LIBCLANG_PATH").is_none() {
        needs.push(library("libclang-dev", "reads RocksDB's headers"));
    }
    needs
}

/// The folder with the archive of a target, if there is one.
fn archive(cache: &Cache, repository: &Path, target: &str) -> Result<Option<PathBuf>> {
    let lock = fs::read_to_string(repository.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let version = version(&lock).with_context(|| format!("Cargo.lock has no {CRATE}"))?;
    let key = format!("{version}-{target}");
    let prebuilt = repository.join(PREBUILT).join(format!("rocksdb-{version}")).join(target).join(ARCHIVE);
    if cache.existing("rocksdb", &key).is_none() && !prebuilt.is_file() {
        return Ok(None);
    }
    let folder = cache.artefact("rocksdb", &key, |folder| {
        progress::note(&format!("   taking RocksDB {version} from {}", prebuilt.display()));
        fs::copy(&prebuilt, folder.join(ARCHIVE))
            .map(drop)
            .with_context(|| format!("cannot copy {}", prebuilt.display()))
    })?;
    Ok(Some(folder))
}

/// Whether the metal's needs no compiling: there is an archive, or its sources were compiled; an answer for announcing how long
/// things take, nothing more.
pub(crate) fn is_there(cache: &Cache) -> Result<bool> {
    if env::var_os(FOLDER).is_some() || archive(cache, &toolchain::repository()?, TARGET)?.is_some() {
        return Ok(true);
    }
    Ok(toolchain::builds_of(cache, CRATE).iter().any(|folder| folder.join("out").join(ARCHIVE).is_file()))
}

/// The version of RocksDB in a lock file, like `11.8.1`.
fn version(lock: &str) -> Option<&str> {
    let (_, rest) = lock.split_once(&format!("name = \"{CRATE}\"\nversion = \""))?;
    let (whole, _) = rest.split_once('"')?;
    whole.split_once('+').map(|(_, own)| own)
}

/// Adds to a cargo command what selects a package with RocksDB in it.
pub(crate) fn select(cargo: &mut Command, package: impl AsRef<OsStr>) -> &mut Command {
    cargo.arg("--package").arg(package).args(["--features", FEATURE])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str =
        "[[package]]\nname = \"librocksdb-sys\"\nversion = \"0.19.0+11.8.1\"\nsource = \"x\"\n";

    #[test]
    fn the_version_stands_in_the_lock_file() {
        assert_eq!(version(LOCK), Some("11.8.1"));
        assert_eq!(version("[[package]]\nname = \"other\"\nversion = \"1\"\n"), None);
        let own = fs::read_to_string(toolchain::repository().unwrap().join("Cargo.lock")).unwrap();
        assert!(version(&own).is_some());
    }

    #[test]
    fn an_archive_beside_the_checkout_is_copied_once() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("checkout");
        fs::create_dir(&repository).unwrap();
        fs::write(repository.join("Cargo.lock"), LOCK).unwrap();
        let cache = Cache::at(folder.path().join("cache")).unwrap();
        assert_eq!(archive(&cache, &repository, "t").unwrap(), None);
        let prebuilt = folder.path().join("shared/prebuilt/rocksdb-11.8.1/t");
        fs::create_dir_all(&prebuilt).unwrap();
        fs::write(prebuilt.join(ARCHIVE), "!<arch>").unwrap();
        let found = archive(&cache, &repository, "t").unwrap().unwrap();
        assert!(found.starts_with(folder.path().join("cache")));
        fs::remove_dir_all(prebuilt).unwrap();
        assert_eq!(archive(&cache, &repository, "t").unwrap().as_ref(), Some(&found));
        assert_eq!(fs::read_to_string(found.join(ARCHIVE)).unwrap(), "!<arch>");
        assert_eq!(archive(&cache, &repository, "another").unwrap(), None);
    }
}
