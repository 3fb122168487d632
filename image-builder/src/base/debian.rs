//! Debian roots: folders with an arm64 Debian, made from packages by `mmdebstrap`.
//!
//! A root is either *unpacked* (what the packages' archives hold, on any machine in seconds) or *configured* (their scripts
//! have run as well, which on other architectures takes emulation and minutes). The same packages give the same root: what
//! packages bring has the time that it has in them, and everything else the recipe's.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::programs::{self, Program};
use super::recipe::{Recipe, Sources};
use super::{BaseError, Progress, emulation, files};

/// Programs that making roots needs.
const PROGRAMS: [Program; 4] = [
    Program::new("mmdebstrap", "mmdebstrap"),
    Program::new("apt-get", "apt"),
    Program::new("dpkg-deb", "dpkg"),
    Program::new("unshare", "util-linux"),
];
/// Where an unpacked root's list of packages is left by [`LIST_PACKAGES`].
const PACKAGE_LIST: &str = "hearth-packages";
/// Runs when all archives are unpacked and still there.
const LIST_PACKAGES: &str = r#"for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb -W --showformat 'Package: ${Package}\nStatus: install ok unpacked\nArchitecture: ${Architecture}\nVersion: ${Version}\n\n' "$deb"; done > "$1/hearth-packages""#;
/// What stays out of roots: documentation and translations, as in other slim images. dpkg in the root keeps to it.
const LEFT_OUT: [&str; 10] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/groff/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/bash-completion/completions/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
];

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture: `arm64` or `all`.
    pub architecture: String,
}

/// How far a root's packages are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Only what was named and what it depends on, nothing run.
    Unpacked,
    /// With Debian's smallest set, all scripts run.
    Configured,
}

/// A root that has been made.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    /// What is in it, by name.
    pub(crate) packages: Vec<Package>,
    /// When its making began, in seconds since 1970: what is not older is not from a package.
    pub(crate) started: u64,
}

/// Makes a root with `packages` in the folder `root`, which does not exist yet and whose parent is for temporary files.
/// What it leaves behind of this machine is removed.
pub(crate) fn make_root(
    root: &Path,
    packages: &[String],
    state: State,
    (recipe, sources): (&Recipe, &Sources),
    progress: Progress<'_>,
) -> Result<Root, BaseError> {
    programs::require_root("making a Debian root")?;
    programs::require(&PROGRAMS)?;
    if !Path::new(&sources.keyring).exists() {
        return Err(BaseError::Missing {
            programs: sources.keyring.clone(),
            packages: "debian-archive-keyring".into(),
        });
    }
    let variant = match state {
        State::Unpacked => "extract",
        State::Configured => {
            emulation::prepare(progress)?;
            "minbase"
        }
    };
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut command = programs::isolated("mmdebstrap");
    command.args(["--mode=root", "--format=directory", "--arch=arm64", "--quiet"]);
    command.arg(format!("--variant={variant}")).arg(format!("--include={}", packages.join(",")));
    command.args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""]);
    command.args(["--aptopt=Acquire::Retries \"3\"", "--aptopt=APT::Sandbox::User \"root\""]);
    command.args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")));
    if state == State::Unpacked {
        command.arg(format!("--extract-hook={LIST_PACKAGES}"));
    }
    command.arg(&recipe.suite).arg(root).args(sources.lines(&recipe.suite));
    command.env("SOURCE_DATE_EPOCH", recipe.generated_files_date.to_string());
    command.env("TMPDIR", root.parent().unwrap_or(root)).env("DEBIAN_FRONTEND", "noninteractive");
    programs::run(&mut command)?;
    let list = match state {
        State::Unpacked => root.join(PACKAGE_LIST),
        State::Configured => root.join("var/lib/dpkg/status"),
    };
    let packages = parse_packages(&String::from_utf8_lossy(&files::read(&list)?));
    if state == State::Unpacked {
        files::remove(&list)?;
    }
    if packages.is_empty() {
        return Err(BaseError::unusable(&list, "it names no packages"));
    }
    remove_traces(root)?;
    Ok(Root { packages, started })
}

/// Removes what is of this machine or of this installation.
fn remove_traces(root: &Path) -> Result<(), BaseError> {
    for path in [
        "etc/resolv.conf",
        "etc/hostname",
        "etc/.pwd.lock",
        "etc/passwd-",
        "etc/group-",
        "etc/shadow-",
        "etc/gshadow-",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "var/lib/dpkg/status-old",
        "var/lib/dpkg/available",
        "var/lib/dpkg/lock",
        "var/lib/dpkg/lock-frontend",
        "var/lib/apt/lists/lock",
        "var/cache/apt/archives/lock",
        "var/cache/apt/pkgcache.bin",
        "var/cache/apt/srcpkgcache.bin",
        "var/cache/debconf/config.dat-old",
        "var/cache/debconf/templates.dat-old",
        "var/cache/ldconfig/aux-cache",
    ] {
        files::remove(&root.join(path))?;
    }
    let logs = root.join("var/log");
    if logs.is_dir() {
        remove_files_in(&logs)?;
    }
    let machine_id = root.join("etc/machine-id");
    if machine_id.exists() { files::write(&machine_id, "") } else { Ok(()) }
}

/// Removes what programs have written; empty files with owners of their own are packages'.
fn remove_files_in(folder: &Path) -> Result<(), BaseError> {
    for path in files::entries(folder)? {
        let meta = path.symlink_metadata().map_err(BaseError::file("cannot look at", &path))?;
        if meta.is_dir() {
            remove_files_in(&path)?;
        } else if meta.len() > 0 {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// Gives everything that is not older than `started` the time `date`, both in seconds since 1970.
pub(crate) fn date_generated_files(folder: &Path, started: u64, date: u64) -> Result<(), BaseError> {
    let meta = folder.symlink_metadata().map_err(BaseError::file("cannot look at", folder))?;
    if meta.is_dir() {
        for path in files::entries(folder)? {
            date_generated_files(&path, started, date)?;
        }
    }
    if u64::try_from(meta.mtime()).unwrap_or(0) >= started {
        set_time(folder, date).map_err(BaseError::file("cannot set the time of", folder))?;
    }
    Ok(())
}

fn set_time(path: &Path, seconds: u64) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let time = libc::timespec { tv_sec: seconds.try_into().unwrap_or(0), tv_nsec: 0 };
    let times = [time, time];
    // SAFETY: the path ends with a NUL and the array has the two times that the call reads; both outlive it.
    let result =
        unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The packages of a dpkg status file, by name.
fn parse_packages(status: &str) -> Vec<Package> {
    let mut packages: Vec<_> = status.split("\n\n").filter_map(parse_package).collect();
    packages.sort_unstable();
    packages
}

fn parse_package(paragraph: &str) -> Option<Package> {
    let field = |name| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(name));
        value.map(|value| value.trim().to_owned())
    };
    let state = field("Status:")?;
    (state.starts_with("install ok") || state.starts_with("hold ok")).then_some(())?;
    Some(Package {
        name: field("Package:")?,
        version: field("Version:")?,
        architecture: field("Architecture:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_from_dpkgs_status() {
        let status = "Package: zlib\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: arm64\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n\n\
                      Package: a\nStatus: install ok unpacked\nArchitecture: all\nVersion: 4\n\n";
        let packages = parse_packages(status);
        let names: Vec<_> = packages.iter().map(|package| (&*package.name, &*package.version)).collect();
        assert_eq!(names, [("a", "4"), ("zlib", "1:2-3")]);
    }

    #[test]
    fn only_what_is_new_gets_another_time() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        files::write(&old, "").unwrap();
        files::link(&new, "nowhere").unwrap();
        set_time(&old, 1000).unwrap();
        date_generated_files(folder.path(), 2000, 500).unwrap();
        let time = |path: &Path| path.symlink_metadata().unwrap().mtime();
        assert_eq!((time(&old), time(&new), time(folder.path())), (1000, 500, 500));
    }

    #[test]
    fn logs_go_and_empty_files_stay() {
        let root = tempfile::tempdir().unwrap();
        files::write(&root.path().join("var/log/apt/term.log"), "x").unwrap();
        files::write(&root.path().join("var/log/wtmp"), "").unwrap();
        files::write(&root.path().join("etc/machine-id"), "0123").unwrap();
        remove_traces(root.path()).unwrap();
        assert!(root.path().join("var/log/apt").is_dir() && root.path().join("var/log/wtmp").exists());
        assert!(!root.path().join("var/log/apt/term.log").exists());
        assert!(files::read(&root.path().join("etc/machine-id")).unwrap().is_empty());
    }
}
