//! Debian roots: folders with an arm64 Debian, made from packages by `mmdebstrap`.
//!
//! A root is either *unpacked* (the content of the packages' archives, made on any machine in seconds) or *configured* (their scripts
//! have run as well; on other architectures than arm64 see [`super::twins`]). The same packages give the same root: files of
//! packages keep the times that they have in them, and all other files get the recipe's.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde::{Deserialize, Serialize};

use super::bootstrap::Bootstrap;
use super::programs::{self, Program};
use super::recipe::{Recipe, Sources};
use super::twins::Twins;
use super::{BaseError, Progress, emulation, files};

/// Programs that are needed to make roots.
const PROGRAMS: [Program; 4] = [
    Program::new("mmdebstrap", "mmdebstrap"),
    Program::new("apt-get", "apt"),
    Program::new("dpkg-deb", "dpkg"),
    Program::new("unshare", "util-linux"),
];
/// Path of a configured root's list of packages.
const STATUS: &str = "var/lib/dpkg/status";
/// Path to which [`LIST_PACKAGES`] writes an unpacked root's list of packages.
const PACKAGE_LIST: &str = "hearth-packages";
/// Hook that lists the packages: it runs when all archives are unpacked and not yet deleted.
const LIST_PACKAGES: &str = r#"for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb -W --showformat 'Package: ${Package}\nStatus: install ok unpacked\nArchitecture: ${Architecture}\nVersion: ${Version}\n\n' "$deb"; done > "$1/hearth-packages""#;
/// Path to which [`KEEP_PACKAGES`] moves the packages of a root that is configured later. The next path is its list of essential ones.
const PACKAGES: &str = "hearth-packages.d";
const ESSENTIAL: &str = "hearth-essential";
/// Hook that keeps the archives, and lists the packages that every Debian has.
const KEEP_PACKAGES: &str = r#"set -e; mkdir "$1/hearth-packages.d"; mv "$1"/var/cache/apt/archives/*.deb "$1/hearth-packages.d"
APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --simulate install '?essential' > "$1/hearth-essential""#;
/// Packages that every configured root has, in addition to the named ones.
const SMALLEST: [&str; 3] = ["?essential", "?priority(required)", "apt"];
/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// Architecture of the package: `arm64` or `all`.
    pub architecture: String,
}

/// How far a root's packages are installed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State<'a> {
    /// Only the named packages and their dependencies; no script was run.
    Unpacked,
    /// With Debian's smallest set of packages, and all scripts run, by this machine's programs (the twins) or by arm64's own.
    Configured(Option<&'a Twins>),
}

/// A root.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    /// The packages in it, sorted by name.
    pub(crate) packages: Vec<Package>,
    /// Time at which its making began, in seconds since 1970: files from packages are older.
    pub(crate) started: u64,
}

/// Makes a root with `packages` in the folder `root`, which does not exist yet and whose parent is for temporary files.
/// Traces of this machine in it are removed.
pub(crate) fn make_root(
    root: &Path,
    packages: &[String],
    state: State<'_>,
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
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let bootstrap = |variant, packages, hook| {
        Bootstrap { root, architecture: "arm64", variant, packages, hook }.run((recipe, sources))
    };
    let list = match state {
        State::Unpacked => {
            bootstrap("extract", packages, Some(LIST_PACKAGES))?;
            root.join(PACKAGE_LIST)
        }
        State::Configured(None) => {
            emulation::prepare(progress)?;
            bootstrap("minbase", packages, None)?;
            root.join(STATUS)
        }
        State::Configured(Some(twins)) => {
            emulation::prepare(progress)?;
            let all: Vec<String> =
                SMALLEST.iter().map(|name| (*name).to_owned()).chain(packages.iter().cloned()).collect();
            bootstrap("extract", &all, Some(KEEP_PACKAGES))?;
            twins.install(root, PACKAGES, recipe)?;
            mark_automatic(root, packages)?;
            root.join(STATUS)
        }
    };
    let packages = parse_packages(&String::from_utf8_lossy(&files::read(&list)?));
    if matches!(state, State::Unpacked) {
        files::remove(&list)?;
    }
    if packages.is_empty() {
        return Err(BaseError::unusable(&list, "it names no packages"));
    }
    remove_traces(root)?;
    Ok(Root { packages, started })
}

/// Marks for apt the packages that are there only as dependencies, as apt would have done if it had installed them itself: all but
/// the named ones and those that every Debian has.
fn mark_automatic(root: &Path, named: &[String]) -> Result<(), BaseError> {
    let essential = root.join(ESSENTIAL);
    let said = files::read(&essential)?;
    files::remove(&essential)?;
    let status = files::read(&root.join(STATUS))?;
    let text = automatic(&String::from_utf8_lossy(&status), &String::from_utf8_lossy(&said), named);
    files::write(&root.join("var/lib/apt/extended_states"), text)
}

/// apt's list of these packages, from dpkg's status and apt's simulated installation of the essential ones.
fn automatic(status: &str, essential: &str, named: &[String]) -> String {
    let installs = |line: &'_ str| line.strip_prefix("Inst ")?.split(' ').next().map(str::to_owned);
    let mut others: BTreeSet<String> = essential.lines().filter_map(installs).collect();
    others.extend(named.iter().cloned());
    others.insert("apt".into());
    let names: BTreeSet<String> = status
        .split("\n\n")
        .filter(|paragraph| field(paragraph, "Priority:").is_none_or(|priority| priority != "required"))
        .filter_map(|paragraph| field(paragraph, "Package:"))
        .filter(|name| !others.contains(name))
        .collect();
    names.iter().map(|name| format!("Package: {name}\nArchitecture: arm64\nAuto-Installed: 1\n\n")).collect()
}

/// Removes files that depend on this machine or this installation.
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
        "var/lib/dpkg/diversions-old",
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

/// Removes files that programs have written; empty files with other owners than root belong to packages.
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

/// Sets the time of all files that are not older than `started` to `date`, both in seconds since 1970.
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
    let time = Timespec { tv_sec: seconds.try_into().unwrap_or(0), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The packages of a dpkg status file, by name.
fn parse_packages(status: &str) -> Vec<Package> {
    let mut packages: Vec<_> = status.split("\n\n").filter_map(parse_package).collect();
    packages.sort_unstable();
    packages
}

fn parse_package(paragraph: &str) -> Option<Package> {
    let state = field(paragraph, "Status:")?;
    (state.starts_with("install ok") || state.starts_with("hold ok")).then_some(())?;
    Some(Package {
        name: field(paragraph, "Package:")?,
        version: field(paragraph, "Version:")?,
        architecture: field(paragraph, "Architecture:")?,
    })
}

/// The value of a field of a paragraph; `name` includes the colon.
fn field(paragraph: &str, name: &str) -> Option<String> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
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
    fn packages_that_others_need_are_marked() {
        let paragraph = |name: &str, priority: &str| format!("Package: {name}\nPriority: {priority}\n\n");
        let status = [
            ("libc6", "optional"),
            ("mawk", "required"),
            ("apt", "important"),
            ("python3", "optional"),
            ("libffi8", "optional"),
        ]
        .map(|(name, priority)| paragraph(name, priority))
        .concat();
        let essential =
            "Reading package lists...\nInst libc6 (2.41 Debian:13/stable [arm64])\nConf libc6 (2.41)\n";
        let text = automatic(&status, essential, &["python3".into()]);
        assert_eq!(text, "Package: libffi8\nArchitecture: arm64\nAuto-Installed: 1\n\n");
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
