//! The programs for the metal: the VMM, the test guest's initramfs, the hostile guest, test and bench binaries.
//!
//! Everything is built for aarch64 and linked statically, except programs with RocksDB. Builds run under one lock and their results are
//! copied to a folder of the run, so that two checkouts with one target folder do not get each other's binaries.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use hearth_base::cpio::Archive;
use serde_json::Value;

use crate::cache::{Cache, RunFolder};
use crate::command;
use crate::file_system;
use crate::guest_root;
use crate::metal::{Job, Metal};
use crate::rocksdb;
use crate::toolchain::{Cross, Link, TARGET};

const VMM: &str = "hearth-vmm";
const TEST_GUEST: &str = "hearth-test-guest";
const E2FSCK: &str = "e2fsck";
const EXT4_IMAGE: &str = "ext4.img";
const GUEST: &str = "hearth-guest";
const GUEST_OS: &str = "guest-os.cpio";
const GUEST_ROOT: &str = "guest-root.img";
/// The daemon.
pub(crate) const HOSTD: &str = "hearthd";
/// The daemon's command-line client.
pub(crate) const CLI: &str = "hearth";
/// Environment variables of a job: the paths of those inputs that it has.
const VARIABLES: [(&str, &str); 11] = [
    ("HEARTH_VMM", VMM),
    ("HEARTH_GUEST_KERNEL", "Image"),
    ("HEARTH_GUEST_INITRD", "test-guest.cpio"),
    ("HEARTH_HOSTILE_IMAGE", "hostile.Image"),
    ("HEARTH_E2FSCK", E2FSCK),
    ("HEARTH_EXT4_IMAGE", EXT4_IMAGE),
    ("HEARTH_GUEST_OS", GUEST_OS),
    ("HEARTH_GUEST_ROOT", GUEST_ROOT),
    ("HEARTH_HOSTD", HOSTD),
    ("HEARTH_CLI", CLI),
    ("HEARTH_GOLDEN", "golden"),
];
const HOSTILE: &str = "hearth-hostile-guest";
const HOSTILE_MANIFEST: &str = "vmm/hostile-guest/Cargo.toml";

const OPENSSL: &str = "hearth-openssl";
const OPENSSL_MANIFEST: &str = "openssl/Cargo.toml";

/// A crate's executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Executable {
    /// A binary target.
    Binary(&'static str),
    /// The only binary target of a package.
    OnlyBinary,
    /// An integration test.
    Test(&'static str),
    /// The unit tests of a package's library.
    LibraryTest,
}

/// A program to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramRequest<'a> {
    /// Package of the program.
    pub(crate) package: &'a str,
    /// Cargo target of the program: a binary or an integration test.
    pub(crate) executable: Executable,
    /// Name of the program among the parts.
    pub(crate) name: &'a str,
}

/// Built parts in a folder of this run.
#[derive(Debug)]
pub(crate) struct Parts {
    folder: RunFolder,
    inputs: Vec<(PathBuf, String)>,
}

impl Parts {
    /// A folder for parts.
    pub(crate) fn new(cache: &Cache) -> Result<Self> {
        Ok(Self { folder: cache.run_folder()?, inputs: Vec::new() })
    }

    /// Path of a file in this run's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds an existing file.
    pub(crate) fn add(&mut self, path: PathBuf, name: &str) {
        self.inputs.push((path, name.to_string()));
    }

    /// Adds an executable script.
    pub(crate) fn add_script(&mut self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        let written =
            fs::write(&path, text).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        self.add(path, name);
        Ok(())
    }

    /// Builds an executable and adds it as `name`.
    pub(crate) fn build(
        &mut self,
        cache: &Cache,
        cross: &Cross,
        profile: &str,
        (package, executable): (&str, Executable),
        name: &str,
    ) -> Result<()> {
        let copy = self.path(name);
        build_executable(cache, cross, profile, (package, executable), &copy)?;
        self.add(copy, name);
        Ok(())
    }

    /// Builds several executables with one call of cargo and adds them: common dependencies are compiled once, with the
    /// features that any of them needs.
    pub(crate) fn build_several(
        &mut self,
        cache: &Cache,
        cross: &Cross,
        (link, profile): (Link, &str),
        (requested, packages): (&[ProgramRequest<'_>], &[&str]),
    ) -> Result<()> {
        if requested.is_empty() {
            return Ok(());
        }
        let mut cargo = match link {
            Link::Dynamic => rocksdb::cross_cargo(cache, cross)?,
            Link::Static | Link::Own => cross.cargo(link)?,
        };
        cargo.args(["build", "--profile", profile, "--target", TARGET]).args(selection(requested, packages)?);
        let _lock = cache.lock("cross-build")?;
        let (what, messages) = build(&mut cargo)?;
        for ProgramRequest { package, executable, name } in requested {
            let built = find_executable(&messages, package, *executable)
                .with_context(|| format!("`{what}` made no {executable:?} of {package}"))?;
            let copy = self.path(name);
            copy_stripped(cross, &built, &copy)?;
            self.add(copy, name);
        }
        Ok(())
    }

    /// Builds and adds what every job with microVMs needs: `hearth-vmm`, `test-guest.cpio` and `hostile.Image`.
    pub(crate) fn build_all(&mut self, cache: &Cache, cross: &Cross, profile: &str) -> Result<()> {
        self.build(cache, cross, profile, (VMM, Executable::Binary(VMM)), VMM)?;
        self.build(cache, cross, profile, (TEST_GUEST, Executable::Binary(TEST_GUEST)), TEST_GUEST)?;
        if let Some((init, _)) = self.inputs.pop() {
            let archive = self.path("test-guest.cpio");
            fs::write(&archive, guest_initramfs(&fs::read(init)?))?;
            self.add(archive, "test-guest.cpio");
        }
        let _lock = cache.lock("cross-build")?;
        let mut cargo = cross.cargo(Link::Own)?;
        cargo.args(["build", "--release", "--manifest-path", HOSTILE_MANIFEST, "--target", TARGET]);
        let elf = executable_of(&mut cargo, HOSTILE, Executable::OnlyBinary)?;
        let image = self.path("hostile.Image");
        command::run(cross.binutil("objcopy").args(["-O", "binary"]).arg(elf).arg(&image))?;
        self.add(image, "hostile.Image");
        Ok(())
    }

    /// Adds what tests of file systems need: `e2fsck`, which runs on the metal, and `ext4.img`, an empty file system.
    pub(crate) fn add_file_system(&mut self, cache: &Cache) -> Result<()> {
        self.add(file_system::checker(cache)?, E2FSCK);
        self.add(file_system::image(cache)?, EXT4_IMAGE);
        Ok(())
    }

    /// Adds what tests of the guest OS need: `guest-os.cpio`, whose init is the agent, and `guest-root.img`, a root disk.
    pub(crate) fn add_guest_os(&mut self, cache: &Cache, cross: &Cross, profile: &str) -> Result<()> {
        self.build(cache, cross, profile, (GUEST, Executable::Binary(GUEST)), GUEST)?;
        if let Some((init, _)) = self.inputs.pop() {
            command::run(cross.binutil("strip").arg(&init))?;
            let archive = self.path(GUEST_OS);
            fs::write(&archive, guest_initramfs(&fs::read(init)?))?;
            self.add(archive, GUEST_OS);
        }
        self.add(guest_root::image(cache)?, GUEST_ROOT);
        Ok(())
    }

    /// Adds the parts to a job's inputs, and their paths to its environment.
    pub(crate) fn give(&self, metal: &Metal, job: &mut Job) {
        job.inputs.extend(self.inputs.iter().cloned());
        let inputs = metal.inputs();
        for (variable, name) in VARIABLES {
            if self.inputs.iter().any(|(_, input)| input == name) {
                job.environment.push((variable.into(), inputs.join(name).into_os_string()));
            }
        }
    }
}

/// Builds a static executable for aarch64 and copies it to `copy`, without debug information: it is copied to the
/// metal, and a guest's executable is in every snapshot.
pub(crate) fn build_executable(
    cache: &Cache,
    cross: &Cross,
    profile: &str,
    (package, executable): (&str, Executable),
    copy: &Path,
) -> Result<()> {
    let _lock = cache.lock("cross-build")?;
    let mut cargo = cross.cargo(Link::Static)?;
    command_for(&mut cargo, profile, executable).args(["--package", package]);
    copy_stripped(cross, &executable_of(&mut cargo, package, executable)?, copy)
}

/// Builds the provider of OpenSSL for aarch64 and copies it to `copy`.
pub(crate) fn build_openssl(cache: &Cache, cross: &Cross, copy: &Path) -> Result<()> {
    let _lock = cache.lock("cross-build")?;
    let mut cargo = cross.cargo(Link::Own)?;
    cargo.args(["build", "--release", "--manifest-path", OPENSSL_MANIFEST, "--target", TARGET]);
    let (what, messages) = build(&mut cargo)?;
    let built = find_library(&messages, OPENSSL).with_context(|| format!("`{what}` made no library"))?;
    copy_stripped(cross, &built, copy)
}

/// The subcommand of cargo that builds an executable.
fn command_for<'a>(cargo: &'a mut Command, profile: &str, executable: Executable) -> &'a mut Command {
    match executable {
        Executable::Binary(target) => cargo.args(["build", "--bin", target]),
        Executable::OnlyBinary => cargo.arg("build"),
        Executable::Test(target) => cargo.args(["test", "--no-run", "--test", target]),
        Executable::LibraryTest => cargo.args(["test", "--no-run", "--lib"]),
    };
    cargo.args(["--profile", profile, "--target", TARGET])
}

/// The arguments of cargo that select these programs and their features.
fn selection(requested: &[ProgramRequest<'_>], packages: &[&str]) -> Result<Vec<String>> {
    let mut arguments = BTreeSet::new();
    for package in requested.iter().map(|requested| &requested.package).chain(packages) {
        arguments.insert(("--package", (*package).to_owned()));
        if *package == rocksdb::PACKAGE {
            arguments.insert(("--features", format!("{package}/{}", rocksdb::FEATURE)));
        }
    }
    for ProgramRequest { package, executable, .. } in requested {
        arguments.insert(match executable {
            Executable::Binary(target) => ("--bin", (*target).to_owned()),
            Executable::Test(target) => ("--test", (*target).to_owned()),
            Executable::OnlyBinary | Executable::LibraryTest => {
                bail!("{executable:?} of {package} is built by itself")
            }
        });
    }
    Ok(arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
}

/// Copies a program without debug information.
fn copy_stripped(cross: &Cross, built: &Path, copy: &Path) -> Result<()> {
    fs::copy(built, copy).with_context(|| format!("cannot copy {}", built.display()))?;
    command::run(cross.binutil("strip").arg(copy))
}

/// A guest's initramfs whose only program is its init.
fn guest_initramfs(init: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "tmp"] {
        archive.folder(folder);
    }
    archive.console();
    archive.file("init", 0o755, init);
    archive.finish()
}

/// Runs a cargo build and returns the path of a package's executable.
pub(crate) fn executable_of(cargo: &mut Command, package: &str, executable: Executable) -> Result<PathBuf> {
    let (what, messages) = build(cargo)?;
    find_executable(&messages, package, executable)
        .with_context(|| format!("`{what}` made no {executable:?} of {package}"))
}

/// Runs a cargo build; returns its command line and cargo's messages.
fn build(cargo: &mut Command) -> Result<(String, String)> {
    cargo.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let what = command::line(cargo);
    let output = cargo
        .stderr(Stdio::inherit())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .with_context(|| format!("cannot run `{what}`"))?;
    if !output.status.success() {
        bail!("`{what}` failed ({})", output.status);
    }
    Ok((what, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The path of a package's executable in cargo's messages.
fn find_executable(messages: &str, package: &str, executable: Executable) -> Option<PathBuf> {
    let (name, kind) = match executable {
        Executable::Binary(name) => (Some(name), "bin"),
        Executable::OnlyBinary => (None, "bin"),
        Executable::Test(name) => (Some(name), "test"),
        Executable::LibraryTest => (None, "lib"),
    };
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let target = message.get("target")?;
        let kinds = target.get("kind")?.as_array()?;
        let named = name.is_none_or(|name| target.get("name").is_some_and(|found| found == name));
        let same = named && kinds.iter().any(|entry| entry == kind);
        let ours = package_of(message.get("package_id")?.as_str()?) == Some(package);
        // A library that was only compiled has no executable.
        (same && ours).then(|| message.get("executable")?.as_str().map(PathBuf::from))?
    })
}

/// The path of a package's shared object in cargo's messages.
fn find_library(messages: &str, package: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let shared = message.get("target")?.get("kind")?.as_array()?.iter().any(|kind| kind == "cdylib");
        let ours = package_of(message.get("package_id")?.as_str()?) == Some(package);
        let file = message.get("filenames")?.as_array()?.first()?.as_str()?;
        (shared && ours).then(|| PathBuf::from(file))
    })
}

/// The package's name in its identifier: `URL#NAME@VERSION`, or `URL#VERSION` if the URL ends with the name.
fn package_of(id: &str) -> Option<&str> {
    let (url, rest) = id.rsplit_once('#')?;
    match rest.split_once('@') {
        Some((name, _)) => Some(name),
        None => url.rsplit('/').next(),
    }
}

/// The words of a command line that begins with a path.
pub(crate) fn words(
    program: &Path,
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Vec<OsString> {
    let mut words = vec![program.as_os_str().to_os_string()];
    words.extend(arguments.into_iter().map(Into::into));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"
{"reason":"compiler-artifact","package_id":"path+file:///w/a#hearth-a@0.1.0","target":{"kind":["lib"],"name":"e2e"},"executable":null}
{"reason":"compiler-artifact","package_id":"path+file:///w/a#hearth-a@0.1.0","target":{"kind":["bin"],"name":"e2e"},"executable":"/t/bin"}
{"reason":"compiler-artifact","package_id":"path+file:///w/b#0.1.0","target":{"kind":["test"],"name":"e2e"},"executable":"/t/e2e-1"}
{"reason":"compiler-artifact","package_id":"path+file:///w/a#hearth-a@0.1.0","target":{"kind":["test"],"name":"e2e"},"executable":"/t/e2e-2"}
{"reason":"compiler-artifact","package_id":"path+file:///w/a#hearth-a@0.1.0","target":{"kind":["lib"],"name":"a_b"},"executable":"/t/a_b-1"}
{"reason":"compiler-artifact","package_id":"path+file:///w/c#hearth-c@0.1.0","target":{"kind":["cdylib"],"name":"c"},"filenames":["/t/libc.so"],"executable":null}
{"reason":"build-finished","success":true}
"#;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let find = |package, executable| find_executable(MESSAGES, package, executable);
        assert_eq!(find("b", Executable::Test("e2e")), Some("/t/e2e-1".into()));
        assert_eq!(find("hearth-a", Executable::Test("e2e")), Some("/t/e2e-2".into()));
        assert_eq!(find("hearth-a", Executable::Binary("e2e")), Some("/t/bin".into()));
        assert_eq!(find("hearth-a", Executable::Binary("other")), None);
        assert_eq!(find("hearth-a", Executable::OnlyBinary), Some("/t/bin".into()));
        assert_eq!(find("hearth-a", Executable::LibraryTest), Some("/t/a_b-1".into()));
        assert_eq!(find("b", Executable::LibraryTest), None);
        assert_eq!(find_library(MESSAGES, "hearth-c"), Some("/t/libc.so".into()));
        assert_eq!(find_library(MESSAGES, "hearth-a"), None);
    }

    #[test]
    fn several_programs_are_selected_at_once() {
        let requested = |package, executable| ProgramRequest { package, executable, name: "x" };
        let several = [
            requested("a", Executable::Test("e2e")),
            requested(rocksdb::PACKAGE, Executable::Test("e2e")),
            requested("a", Executable::Binary("b")),
        ];
        assert_eq!(
            selection(&several, &["a"]).unwrap().join(" "),
            "--bin b --features hearth-hostd/rocksdb --package a --package hearth-hostd --test e2e"
        );
        assert!(selection(&[requested("a", Executable::LibraryTest)], &[]).is_err());
    }

    #[test]
    fn a_guest_has_an_init() {
        let archive = guest_initramfs(b"\x7fELF");
        assert!(archive.windows(5).any(|window| window == b"init\0"));
    }
}
