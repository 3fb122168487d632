//! RocksDB, in which the daemon keeps its state: C++ that takes minutes to compile, so it is compiled once.
//!
//! A build uses the first of these that exists:
//!
//! 1. the archive that the caller's own `ROCKSDB_LIB_DIR` (and `ROCKSDB_STATIC`) names,
//! 2. an archive in the cache, `rocksdb/<version>-<target>/librocksdb.a`,
//! 3. an archive beside the checkout, `../shared/prebuilt/rocksdb-<version>/<target>/librocksdb.a`, which is copied to the cache,
//! 4. the sources in its crate, which are compiled into the cache ([`compile`]). A plain `cargo build` has the crate compile
//!    them, which takes five times as long.
//!
//! Programs with RocksDB are linked dynamically with the C and C++ libraries.

mod compile;

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
use compile::{CRATE, Compiler, RECIPE, Sources};

/// The package that uses RocksDB.
pub(crate) const PACKAGE: &str = "hearth-hostd";
/// The feature of [`PACKAGE`] that enables it.
pub(crate) const FEATURE: &str = "rocksdb";
/// The caller's variables: the folder of an archive, and whether it is static.
const FOLDER: &str = "ROCKSDB_LIB_DIR";
const STATIC: &str = "ROCKSDB_STATIC";
const ARCHIVE: &str = "librocksdb.a";
/// Folder beside the checkout with archives that were built elsewhere.
const PREBUILT: &str = "../shared/prebuilt";

/// Cargo for aarch64, for programs with RocksDB. As with [`Cross::cargo`], `--target` is left to the caller.
pub(crate) fn cross_cargo(cache: &Cache, cross: &Cross) -> Result<Command> {
    let mut cargo = cross.cargo(Link::Dynamic)?;
    provide(cache, TARGET, &cross.gnu("g++"), &cross.gnu("ar"), &mut cargo)?;
    Ok(cargo)
}

/// Cargo for this machine, for programs with RocksDB.
pub(crate) fn native_cargo(cache: &Cache) -> Result<Command> {
    let target = if cfg!(target_arch = "aarch64") { TARGET } else { "x86_64-unknown-linux-gnu" };
    let mut cargo = toolchain::native_apart(cache, "-rocksdb")?;
    provide(cache, target, "g++", "ar", &mut cargo)?;
    Ok(cargo)
}

/// Passes the path of RocksDB's archive to a build; makes the archive if there is none.
fn provide(cache: &Cache, target: &str, compiler: &str, archiver: &str, cargo: &mut Command) -> Result<()> {
    packages::ensure(cache, &needs())?;
    if env::var_os(FOLDER).is_some() {
        return Ok(());
    }
    let version = own_version()?;
    let folder = match archive(cache, &toolchain::repository()?, &version, target)? {
        Some(folder) => folder,
        None => {
            let compiler = Compiler { compile: compiler.into(), archive: archiver.into() };
            compiled(cache, &version, target, &compiler)?
        }
    };
    cargo.env(FOLDER, folder).env(STATIC, "1");
    Ok(())
}

/// The packages that RocksDB's crate needs.
pub(crate) fn needs() -> Vec<Need> {
    let mut needs = vec![program("g++", "g++", "compiles RocksDB and links what holds it")];
    // A user who sets the path of libclang has it.
    if env::var_os("LIBCLANG_PATH").is_none() {
        needs.push(library("libclang-dev", "reads RocksDB's headers"));
    }
    needs
}

/// The folder with a target's archive that was built elsewhere or before, if there is one.
fn archive(cache: &Cache, repository: &Path, version: &str, target: &str) -> Result<Option<PathBuf>> {
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

/// The folder with the archive that is compiled here.
fn compiled(cache: &Cache, version: &str, target: &str, compiler: &Compiler) -> Result<PathBuf> {
    cache.artefact("rocksdb", &compiled_key(version, target), |folder| {
        progress::note(&format!("   compiling RocksDB {version} for {target}, once"));
        let sources = Sources::find(&mut toolchain::native(cache)?)?;
        let objects = folder.join("objects");
        fs::create_dir(&objects).with_context(|| format!("cannot create {}", objects.display()))?;
        sources.compile(compiler, &objects, &folder.join(ARCHIVE))?;
        fs::remove_dir_all(&objects).with_context(|| format!("cannot remove {}", objects.display()))
    })
}

fn compiled_key(version: &str, target: &str) -> String {
    format!("{version}-{target}-compiled-{RECIPE}")
}

/// Whether the archive for the metal exists already.
pub(crate) fn is_there(cache: &Cache) -> Result<bool> {
    let version = own_version()?;
    Ok(env::var_os(FOLDER).is_some()
        || archive(cache, &toolchain::repository()?, &version, TARGET)?.is_some()
        || cache.existing("rocksdb", &compiled_key(&version, TARGET)).is_some())
}

/// The version of RocksDB in this checkout's lock file.
fn own_version() -> Result<String> {
    let path = toolchain::repository()?.join("Cargo.lock");
    let lock = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    version(&lock).map(str::to_owned).with_context(|| format!("Cargo.lock has no {CRATE}"))
}

/// The version of RocksDB in a lock file, like `11.8.1`.
fn version(lock: &str) -> Option<&str> {
    let (_, rest) = lock.split_once(&format!("name = \"{CRATE}\"\nversion = \""))?;
    let (whole, _) = rest.split_once('"')?;
    whole.split_once('+').map(|(_, own)| own)
}

/// Adds the arguments to a cargo command that select a package with RocksDB.
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
        assert!(!own_version().unwrap().is_empty());
    }

    #[test]
    fn an_archive_beside_the_checkout_is_copied_once() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("checkout");
        fs::create_dir(&repository).unwrap();
        let cache = Cache::at(folder.path().join("cache")).unwrap();
        assert_eq!(archive(&cache, &repository, "11.8.1", "t").unwrap(), None);
        let prebuilt = folder.path().join("shared/prebuilt/rocksdb-11.8.1/t");
        fs::create_dir_all(&prebuilt).unwrap();
        fs::write(prebuilt.join(ARCHIVE), "!<arch>").unwrap();
        let found = archive(&cache, &repository, "11.8.1", "t").unwrap().unwrap();
        assert!(found.starts_with(folder.path().join("cache")));
        fs::remove_dir_all(prebuilt).unwrap();
        assert_eq!(archive(&cache, &repository, "11.8.1", "t").unwrap().as_ref(), Some(&found));
        assert_eq!(fs::read_to_string(found.join(ARCHIVE)).unwrap(), "!<arch>");
        assert_eq!(archive(&cache, &repository, "11.8.1", "another").unwrap(), None);
    }
}
