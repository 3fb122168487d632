//! Compiles RocksDB from the sources in its crate, in a fraction of the time that the crate's own build takes.
//!
//! The crate compiles each of 342 files separately, and most of that time is spent reading the same headers again. Here, dozens of
//! files are compiled at a time, as one (RocksDB's own `make unity.a` does this with all of them), without debug information, and
//! without files that nothing in it calls. The result is the same version with the same options: the format of stores is the same.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::command;
use crate::progress;

/// The crate with the sources.
pub(super) const CRATE: &str = "librocksdb-sys";
/// The crate with lz4, with which the store compresses.
const LZ4: &str = "lz4-sys";
/// Must change when the same sources give a different archive.
pub(super) const RECIPE: &str = "1";
/// Bytes of sources that are compiled as one. The compiler needs 1 GiB of memory for this size.
const GROUP: u64 = 400 << 10;
/// The crate's definitions on Linux, with its feature `lz4` (its `build.rs`).
const DEFINES: [&str; 11] = [
    "LZ4=1",
    "NDEBUG=1",
    "HAVE_ALIGNED_NEW",
    "HAVE_UINT128_EXTENSION",
    "OS_LINUX",
    "ROCKSDB_PLATFORM_POSIX",
    "ROCKSDB_LIB_IO_POSIX",
    "ROCKSDB_SCHED_GETCPU_PRESENT",
    "ROCKSDB_AUXV_GETAUXVAL_PRESENT",
    "ROCKSDB_FALLOCATE_PRESENT",
    "ROCKSDB_RANGESYNC_PRESENT",
];
/// Compiler flags: the crate's at opt-level 2, with a section per function, so that the linker can leave out functions that are
/// not called.
const FLAGS: [&str; 9] = [
    "-std=c++20",
    "-O2",
    "-g0",
    "-w",
    "-fPIC",
    "-ffunction-sections",
    "-fdata-sections",
    "-include",
    "cstdint",
];
/// Prefixes of files that the rest does not call: databases and caches of other kinds, tools, and RocksDB's own tests.
const UNUSED: [&str; 10] = [
    "utilities/agg_merge/",
    "utilities/blob_db/",
    "utilities/cache_dump_load",
    "utilities/cassandra/",
    "utilities/env_mirror.cc",
    "utilities/fault_injection",
    "utilities/persistent_cache/",
    "utilities/simulator_cache/",
    "test_util/transaction_test_util.cc",
    "tools/dump/",
];

/// Paths of the sources.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    /// Folder of the crate.
    rocksdb: PathBuf,
    /// Folder of lz4's headers.
    lz4: PathBuf,
}

/// Programs for the target.
#[derive(Clone, Debug)]
pub(super) struct Compiler {
    pub(super) compile: PathBuf,
    pub(super) archive: PathBuf,
}

impl Sources {
    /// Finds the sources in cargo's registry, with `cargo` running in the workspace. Downloads missing ones.
    pub(super) fn find(cargo: &mut Command) -> Result<Self> {
        let metadata = command::capture(cargo.args([
            "metadata",
            "--locked",
            "--all-features",
            "--format-version",
            "1",
        ]))?;
        let metadata: Value = serde_json::from_str(&metadata).context("cargo's metadata cannot be read")?;
        let folder = |name: &str| {
            let packages = metadata.get("packages")?.as_array()?;
            let package =
                packages.iter().find(|package| package.get("name").is_some_and(|own| own == name))?;
            Path::new(package.get("manifest_path")?.as_str()?).parent().map(Path::to_path_buf)
        };
        let find = |name| folder(name).with_context(|| format!("cargo does not say where {name} is"));
        Ok(Self { rocksdb: find(CRATE)?, lz4: find(LZ4)?.join("liblz4/lib") })
    }

    /// The files that are compiled, with their sizes in bytes.
    fn files(&self) -> Result<Vec<(String, u64)>> {
        let list = self.rocksdb.join("rocksdb_lib_sources.txt");
        let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let used = used(&text)?;
        let size = |file: &str| {
            let path = self.rocksdb.join("rocksdb").join(file);
            fs::metadata(&path)
                .map(|meta| meta.len())
                .with_context(|| format!("cannot find {}", path.display()))
        };
        used.into_iter().map(|file| Ok((file.to_owned(), size(file)?))).collect()
    }

    /// Writes the archive `into`; `folder` also holds intermediate files.
    pub(super) fn compile(&self, compiler: &Compiler, folder: &Path, into: &Path) -> Result<()> {
        let files = self.files()?;
        // The largest groups start first, because they take longest.
        let mut groups = groups(&files);
        groups.sort_by_key(|(size, _)| Reverse(*size));
        // The crate's own file with the version, without a date.
        let mut parts = vec![(self.rocksdb.join("build_version.cc"), folder.join("build_version.o"))];
        for (number, (_, files)) in groups.into_iter().enumerate() {
            let source = folder.join(format!("{number:02}.cc"));
            let text: String = files.iter().map(|file| format!("#include \"{file}\"\n")).collect();
            fs::write(&source, text).with_context(|| format!("cannot write {}", source.display()))?;
            let object = source.with_extension("o");
            parts.push((source, object));
        }
        self.compile_all(compiler, &parts)?;
        let objects = parts.iter().map(|(_, object)| object);
        command::capture(Command::new(&compiler.archive).arg("crs").arg(into).args(objects)).map(drop)
    }

    /// Compiles sources to objects on all cores. After a failure, no further compilation is started.
    fn compile_all(&self, compiler: &Compiler, parts: &[(PathBuf, PathBuf)]) -> Result<()> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let some = || -> Result<()> {
            while let Some((source, object)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = command::capture(&mut self.command(compiler, source, object)) {
                    next.store(parts.len(), Ordering::Relaxed);
                    return Err(error);
                }
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                progress::note(&format!("   RocksDB: {done} of {} parts are compiled", parts.len()));
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..command::cores()).map(|_| scope.spawn(some)).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread that compiles RocksDB panicked"),
            })
        })
    }

    fn command(&self, compiler: &Compiler, source: &Path, object: &Path) -> Command {
        let mut compile = Command::new(&compiler.compile);
        compile.args(FLAGS).args(DEFINES.map(|define| format!("-D{define}")));
        let root = self.rocksdb.join("rocksdb");
        for folder in [&root.join("include"), &root, &self.rocksdb, &self.lz4] {
            compile.arg("-I").arg(folder);
        }
        compile.arg("-c").arg(source).arg("-o").arg(object);
        compile
    }
}

/// The files in the crate's list that are compiled.
fn used(list: &str) -> Result<Vec<&str>> {
    let files: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    for unused in UNUSED {
        if !files.iter().any(|file| file.starts_with(unused)) {
            bail!("RocksDB has no {unused} any more: look again at what of it is not used");
        }
    }
    // The crate has its own file instead of this one.
    let generated = "util/build_version.cc";
    let is_used = |file: &&str| *file != generated && !UNUSED.iter().any(|start| file.starts_with(start));
    Ok(files.into_iter().filter(is_used).collect())
}

/// Groups files in their order, each group with its size: neighbours read the same headers.
fn groups(files: &[(String, u64)]) -> Vec<(u64, Vec<&str>)> {
    let mut groups: Vec<(u64, Vec<&str>)> = Vec::new();
    for (file, size) in files {
        match groups.last_mut() {
            Some((sum, group)) if *sum + size <= GROUP => {
                *sum += size;
                group.push(file);
            }
            _ => groups.push((*size, vec![file])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::repository;

    #[test]
    fn files_are_put_together_up_to_a_size() {
        let file = |name: &str, size| (name.to_owned(), size);
        let files =
            [file("a", GROUP / 2), file("b", GROUP / 2), file("c", 1), file("d", 2 * GROUP), file("e", 1)];
        assert_eq!(
            groups(&files),
            [(GROUP / 2 * 2, vec!["a", "b"]), (1, vec!["c"]), (2 * GROUP, vec!["d"]), (1, vec!["e"])]
        );
    }

    #[test]
    fn what_is_left_out_must_have_been_there() {
        let list: String = UNUSED.iter().map(|file| format!("{file}\n")).collect();
        let whole = format!("db/c.cc\n{list}util/build_version.cc\n");
        assert_eq!(used(&whole).unwrap(), ["db/c.cc"]);
        assert!(
            used(&whole.replace("tools/dump/", "tools/")).unwrap_err().to_string().contains("tools/dump/")
        );
    }

    /// A new version of the crate may need other options.
    #[test]
    fn the_crate_defines_the_same() {
        let mut cargo = command::clean("cargo");
        let sources = Sources::find(cargo.current_dir(repository().unwrap())).unwrap();
        assert!(sources.files().unwrap().len() > 250);
        assert!(sources.lz4.join("lz4.h").is_file());
        let script = fs::read_to_string(sources.rocksdb.join("build.rs")).unwrap();
        let (_, linux) = script.split_once("target.contains(\"linux\")").unwrap();
        let (linux, _) = linux.split_once("} else if").unwrap();
        let ours: Vec<&str> = DEFINES.iter().map(|define| define.split('=').next().unwrap()).collect();
        let theirs =
            linux.lines().filter_map(|line| line.trim().strip_prefix("config.define(\"")?.split('"').next());
        for define in theirs {
            assert!(ours.contains(&define), "{define} is not given");
        }
        for define in ours {
            assert!(script.contains(&format!("config.define(\"{define}\"")), "{define} is not the crate's");
        }
        for flag in ["-std=c++20", "-include", "cstdint"] {
            assert!(script.contains(&format!("\"{flag}\"")) && FLAGS.contains(&flag), "{flag}");
        }
    }
}
