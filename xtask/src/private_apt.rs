//! Packages of other suites and architectures, downloaded and unpacked into the cache, never installed.
//!
//! A private apt root (lists, archives, an empty dpkg status) is in the cache, so the machine's own apt state is
//! neither used nor changed; only the mirror comes from the machine's configuration. A version stays once it was resolved:
//! later runs need no network. `HEARTH_REFRESH=1` resolves the newest version again.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cache::{Cache, content_key};
use crate::command;
use crate::mirrors::{self, source_line};
use crate::packages;
use crate::progress;

/// The Debian suite with the kernel (and its source) that both the metal and the guests run.
const SUITE: &str = "trixie";
/// The architecture of the metal and of guests.
pub(crate) const METAL: &str = "arm64";
/// Lists younger than this are not fetched again.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A package's files.
#[derive(Clone, Debug)]
pub(crate) struct Unpacked {
    /// Name and version, as in `busybox-static 1:1.37.0-6`.
    pub(crate) version: String,
    /// Folder of the package's files.
    pub(crate) root: PathBuf,
}

/// The arm64 (or architecture-independent) package `name`, unpacked.
pub(crate) fn fetch(cache: &Cache, name: &str) -> Result<Unpacked> {
    fetch_as(cache, name, |_| Ok(name.to_string()))
}

/// The first package that the meta package `meta` depends on, among those whose name starts with `prefix`.
pub(crate) fn fetch_through(cache: &Cache, meta: &str, prefix: &str) -> Result<Unpacked> {
    fetch_as(cache, meta, |apt| {
        let text = command::capture(apt.tool("apt-cache").args(["depends", meta]))?;
        first_dependency(&text, prefix)
            .with_context(|| format!("{meta} in {SUITE} depends on no {prefix}… package:\n{text}"))
    })
}

/// Reads the lists of packages unless they are recent, so that an unreachable mirror is noticed early.
pub(crate) fn read_lists(cache: &Cache) -> Result<()> {
    PrivateApt::open(cache, METAL)?.update_if_old()
}

fn fetch_as(cache: &Cache, pin: &str, resolve: impl Fn(&PrivateApt) -> Result<String>) -> Result<Unpacked> {
    let pin_file = format!("{}/pins/{pin}.json", folder_of(METAL));
    if !newest_wanted()
        && let Some(found) = pinned(cache, &pin_file)
    {
        return Ok(found);
    }
    let apt = PrivateApt::open(cache, METAL)?;
    apt.update_if_old()?;
    let package = resolve(&apt)?;
    let shown = command::capture(apt.tool("apt-cache").args(["show", "--no-all-versions", &package]))?;
    let version = field(&shown, "Version").with_context(|| format!("{SUITE} has no package {package}"))?;
    let root = cache.artefact("debs", &artefact_key(&package, version), |folder| {
        let size = field(&shown, "Size").and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
        progress::note(&format!("   downloading {package} {version} ({} MB)", size / 1_000_000));
        let mut download = apt.tool("apt-get");
        download.current_dir(folder).args(["-qq", "download", &format!("{package}={version}")]);
        if command::run(&mut download).is_err() {
            // The mirror has newer versions than the lists.
            apt.update()?;
            command::run(&mut download)?;
        }
        unpack_only_deb(folder)
    })?;
    cache.write_file(&pin_file, json!({ "package": package, "version": version }).to_string().as_bytes())?;
    Ok(Unpacked { version: format!("{package} {version}"), root })
}

/// Whether the newest packages are requested, instead of those that the cache has.
pub(crate) fn newest_wanted() -> bool {
    env::var_os("HEARTH_REFRESH").is_some_and(|value| value == "1")
}

/// The packages `names` of an architecture with all their dependencies, unpacked into one folder; their scripts are not run.
/// `finish` does the necessary part of the scripts' work, and `recipe` identifies it in the cache key.
pub(crate) fn fetch_tree(
    cache: &Cache,
    architecture: &str,
    names: &[&str],
    recipe: &str,
    finish: impl FnOnce(&Path) -> Result<()>,
) -> Result<Unpacked> {
    let wanted = content_key(&[names.join(" ").as_bytes(), recipe.as_bytes()]);
    let pin_file = format!("{}/pins/tree-{wanted}.json", folder_of(architecture));
    if !newest_wanted()
        && let Some(found) = pinned(cache, &pin_file)
    {
        return Ok(found);
    }
    let apt = PrivateApt::open(cache, architecture)?;
    apt.update_if_old()?;
    let install = |more: &[&str]| {
        let mut install = apt.tool("apt-get");
        install.args(["-qq", "-y", "--no-install-recommends"]).args(more).arg("install").args(names);
        install
    };
    // One line per archive, with name, version and checksum.
    let archives = command::capture(&mut install(&["--print-uris"]))?;
    let version = content_key(&[archives.as_bytes(), wanted.as_bytes()]);
    let root = cache.artefact("debs", &artefact_key("tree", &version), |folder| {
        let count = archives.lines().count();
        progress::note(&format!(
            "   downloading {} with what they need ({count} packages)",
            names.join(", ")
        ));
        let downloaded = folder.join("archives");
        fs::create_dir_all(downloaded.join("partial"))?;
        let place = format!("Dir::Cache::archives={}/", downloaded.display());
        let mut download = install(&["--download-only", "-o", &place]);
        download.stdout(std::io::stderr());
        if command::run(&mut download).is_err() {
            // The mirror has newer versions than the lists.
            apt.update()?;
            command::run(&mut download)?;
        }
        for entry in fs::read_dir(&downloaded)? {
            let archive = entry?.path();
            if archive.extension().is_some_and(|end| end == "deb") {
                command::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
            }
        }
        fs::remove_dir_all(downloaded)?;
        finish(folder)
    })?;
    cache.write_file(&pin_file, json!({ "package": "tree", "version": version }).to_string().as_bytes())?;
    Ok(Unpacked { version: format!("tree {version}"), root })
}

fn pinned(cache: &Cache, pin_file: &str) -> Option<Unpacked> {
    let pin: serde_json::Value = serde_json::from_slice(&fs::read(cache.path(pin_file)).ok()?).ok()?;
    let (package, version) = (pin.get("package")?.as_str()?, pin.get("version")?.as_str()?);
    let root = cache.existing("debs", &artefact_key(package, version))?;
    Some(Unpacked { version: format!("{package} {version}"), root })
}

fn artefact_key(package: &str, version: &str) -> String {
    format!("{package}_{}", version.replace([':', '/'], "%"))
}

/// Replaces the only downloaded archive in `folder` by its content.
fn unpack_only_deb(folder: &Path) -> Result<()> {
    let archive = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get download left no archive")?;
    command::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
    Ok(fs::remove_file(archive)?)
}

/// The mirror that this machine's apt uses for Debian itself, and the one for security updates, if it uses any.
pub(crate) fn mirrors() -> Result<(String, Option<String>)> {
    mirrors::mirrors().or_else(|_| {
        // A fresh installation has no lists, which are needed to recognise Debian's mirror.
        packages::refresh_lists()?;
        mirrors::mirrors()
    })
}

/// Path of an architecture's private apt root in the cache.
fn folder_of(architecture: &str) -> String {
    if architecture == METAL { format!("apt/{SUITE}") } else { format!("apt/{SUITE}-{architecture}") }
}

struct PrivateApt {
    root: PathBuf,
    architecture: String,
    _lock: crate::lock::Lock,
}

impl PrivateApt {
    fn open(cache: &Cache, architecture: &str) -> Result<Self> {
        packages::ensure(
            cache,
            &[
                packages::program("apt", "apt-get", "downloads packages of other suites"),
                packages::library("debian-archive-keyring", "the keys they are signed with"),
            ],
        )?;
        let (mirror, _) = mirrors()?;
        let line = source_line(&mirror, SUITE);
        let lock = cache.lock("private-apt")?;
        let root = cache.path(folder_of(architecture));
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("status"), "")?;
        let list = root.join("sources.list");
        if fs::read_to_string(&list).unwrap_or_default() != line {
            fs::write(&list, line)?;
            // Lists of another mirror are not valid for this one.
            let _ = fs::remove_file(root.join("updated"));
        }
        Ok(Self { root, architecture: architecture.to_string(), _lock: lock })
    }

    /// An apt tool that uses only the private root.
    fn tool(&self, name: &str) -> Command {
        let root = self.root.display();
        let mut tool = Command::new(name);
        for option in [
            format!("Dir::State={root}/state"),
            format!("Dir::State::status={root}/status"),
            format!("Dir::Cache={root}/cache"),
            format!("Dir::Etc::sourcelist={root}/sources.list"),
            "Dir::Etc::sourceparts=-".into(),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "Acquire::Retries=3".into(),
        ] {
            tool.args(["-o", &option]);
        }
        tool
    }

    fn update_if_old(&self) -> Result<()> {
        let stamp = fs::metadata(self.root.join("updated")).and_then(|meta| meta.modified());
        let age = stamp.ok().and_then(|time| time.elapsed().ok());
        if env::var_os("HEARTH_REFRESH").is_none() && age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        self.update()
    }

    fn update(&self) -> Result<()> {
        progress::note(&format!("   reading Debian's package lists ({SUITE}, {})", self.architecture));
        let mut update = self.tool("apt-get");
        // Partial lists are an error here: missing packages would be reported as not existing.
        update.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]);
        command::run(&mut update).with_context(|| format!("cannot read the package lists of {SUITE}"))?;
        fs::write(self.root.join("updated"), "")?;
        Ok(())
    }
}

/// A field of a control paragraph.
fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

/// The first `Depends:` of `apt-cache depends` with the prefix.
fn first_dependency(text: &str, prefix: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix))
        .map(|name| name.split(':').next().unwrap_or(name).to_string())
}

/// Finds the only entry of a folder whose name starts with `prefix`.
pub(crate) fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (Some(_), false) => bail!("more than one {prefix}… in {}", folder.display()),
        (None, _) => bail!("no {prefix}… in {}", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_output_is_read() {
        let depends =
            "linux-image-cloud-arm64\n  PreDepends: x\n  Depends: linux-image-6.12.1-cloud-arm64:arm64\n";
        assert_eq!(
            first_dependency(depends, "linux-image-").as_deref(),
            Some("linux-image-6.12.1-cloud-arm64")
        );
        assert_eq!(first_dependency(depends, "linux-headers-"), None);
        assert_eq!(field("Package: a\nVersion: 1:2-3\n", "Version"), Some("1:2-3"));
        assert_eq!(field("Package: a\n", "Version"), None);
    }

    #[test]
    fn each_architecture_has_an_apt_of_its_own() {
        assert_eq!(folder_of(METAL), "apt/trixie");
        assert_eq!(folder_of("amd64"), "apt/trixie-amd64");
    }

    #[test]
    fn keys_are_file_names() {
        assert_eq!(artefact_key("busybox-static", "1:1.37.0-6"), "busybox-static_1%1.37.0-6");
    }
}
