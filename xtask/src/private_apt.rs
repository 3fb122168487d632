//! Packages of other suites and architectures, downloaded and unpacked into the cache, never installed.
//!
//! A private apt root (lists, archives, an empty dpkg status) is in the cache, so the machine's own apt state is
//! neither used nor changed; only the mirror comes from the machine's configuration. A version stays once it was resolved:
//! later runs need no network. `HEARTH_REFRESH=1` resolves the newest version again. A mirror may have dropped what the lists
//! name, most often in testing: then they are read again, once.

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

/// The packages of the metal and of guests: the suite with the kernel (and its source) that both run.
pub(crate) const METAL: Source = Source { suite: STABLE, architecture: "arm64" };
/// The suite of all packages but those that it does not have.
const STABLE: &str = "trixie";
/// The suite with packages that [`STABLE`] does not have.
const TESTING: &str = "testing";
/// Name of artefacts that are several packages.
const TREE: &str = "tree";
/// Lists younger than this are not fetched again.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// Where packages come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// Name of Debian's suite.
    suite: &'static str,
    /// Debian's name of the architecture.
    architecture: &'static str,
}

/// The mirror does not have the versions of packages that its lists name.
#[derive(Debug, thiserror::Error)]
#[error(
    "the mirror does not give {packages} in the versions that its package lists of {suite} name. It may have newer ones by \
     now, or be out of reach: run the same command with HEARTH_REFRESH=1, which reads the lists and resolves the versions again"
)]
struct Vanished {
    packages: String,
    suite: &'static str,
}

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
            .with_context(|| format!("{meta} in {} depends on no {prefix}… package:\n{text}", METAL.suite))
    })
}

/// Reads the lists of packages unless they are recent, so that an unreachable mirror is noticed early.
pub(crate) fn read_lists(cache: &Cache) -> Result<()> {
    PrivateApt::open(cache, METAL)?.update_if_old()
}

fn fetch_as(cache: &Cache, pin: &str, resolve: impl Fn(&PrivateApt) -> Result<String>) -> Result<Unpacked> {
    pinned(cache, METAL, pin, |apt| {
        let package = resolve(apt)?;
        let shown = command::capture(apt.tool("apt-cache").args(["show", "--no-all-versions", &package]))?;
        let version = field(&shown, "Version")
            .with_context(|| format!("{} has no package {package}", METAL.suite))?
            .to_owned();
        cache.artefact("debs", &artefact_key(&package, &version), |folder| {
            let size = field(&shown, "Size").and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
            progress::note(&format!("   downloading {package} {version} ({} MB)", size / 1_000_000));
            let mut download = apt.tool("apt-get");
            download.current_dir(folder).args(["-qq", "download", &format!("{package}={version}")]);
            apt.download(&mut download, &package)?;
            unpack_only_deb(folder)
        })?;
        Ok(Pin { package, version })
    })
}

/// Whether the newest packages are requested, instead of those that the cache has.
pub(crate) fn newest_wanted() -> bool {
    env::var_os("HEARTH_REFRESH").is_some_and(|value| value == "1")
}

/// The packages `names` with all their dependencies, unpacked into one folder; their scripts are not run.
/// `finish` does the necessary part of the scripts' work, and `recipe` identifies it in the cache key.
pub(crate) fn fetch_tree(
    cache: &Cache,
    source: Source,
    names: &[&str],
    recipe: &str,
    finish: impl Fn(&Path) -> Result<()>,
) -> Result<Unpacked> {
    let wanted = content_key(&[names.join(" ").as_bytes(), recipe.as_bytes()]);
    pinned(cache, source, &format!("tree-{wanted}"), |apt| {
        let install = |more: &[&str]| {
            let mut install = apt.tool("apt-get");
            install.args(["-qq", "-y", "--no-install-recommends"]).args(more).arg("install").args(names);
            install
        };
        // One line per archive, with name, version and checksum.
        let archives = command::capture(&mut install(&["--print-uris"]))?;
        let version = content_key(&[archives.as_bytes(), wanted.as_bytes()]);
        cache.artefact("debs", &artefact_key(TREE, &version), |folder| {
            let (count, listed) = (archives.lines().count(), names.join(", "));
            progress::note(&format!("   downloading {listed} with what they need ({count} packages)"));
            let downloaded = folder.join("archives");
            fs::create_dir_all(downloaded.join("partial"))?;
            let place = format!("Dir::Cache::archives={}/", downloaded.display());
            let mut download = install(&["--download-only", "-o", &place]);
            apt.download(download.stdout(std::io::stderr()), &listed)?;
            for entry in fs::read_dir(&downloaded)? {
                let archive = entry?.path();
                if archive.extension().is_some_and(|end| end == "deb") {
                    command::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
                }
            }
            fs::remove_dir_all(downloaded)?;
            finish(folder)
        })?;
        Ok(Pin { package: TREE.to_owned(), version })
    })
}

/// What a name stands for: an artefact of the cache.
struct Pin {
    package: String,
    version: String,
}

impl Pin {
    fn read(cache: &Cache, file: &str) -> Option<Self> {
        let pin: serde_json::Value = serde_json::from_slice(&fs::read(cache.path(file)).ok()?).ok()?;
        let text = |name| Some(pin.get(name)?.as_str()?.to_owned());
        Some(Self { package: text("package")?, version: text("version")? })
    }

    fn write(&self, cache: &Cache, file: &str) -> Result<()> {
        let pin = json!({ "package": self.package, "version": self.version });
        cache.write_file(file, pin.to_string().as_bytes()).map(drop)
    }

    fn unpacked(&self, cache: &Cache) -> Option<Unpacked> {
        let root = cache.existing("debs", &artefact_key(&self.package, &self.version))?;
        Some(Unpacked { version: format!("{} {}", self.package, self.version), root })
    }
}

/// The artefact that was fetched for `name` before; otherwise that which `fetch` puts into the cache.
fn pinned(
    cache: &Cache,
    source: Source,
    name: &str,
    fetch: impl Fn(&PrivateApt) -> Result<Pin>,
) -> Result<Unpacked> {
    let file = format!("{}/pins/{name}.json", source.folder());
    if !newest_wanted()
        && let Some(found) = Pin::read(cache, &file).and_then(|pin| pin.unpacked(cache))
    {
        return Ok(found);
    }
    let apt = PrivateApt::open(cache, source)?;
    apt.update_if_old()?;
    let pin = again_if_vanished(|| fetch(&apt), || apt.update())?;
    pin.write(cache, &file)?;
    pin.unpacked(cache).with_context(|| format!("{} is no longer in the cache", pin.package))
}

/// Fetches, and once more after `update` if the mirror does not have what the lists name.
fn again_if_vanished<T>(fetch: impl Fn() -> Result<T>, update: impl FnOnce() -> Result<()>) -> Result<T> {
    match fetch() {
        Err(error) if error.is::<Vanished>() => {
            update()?;
            fetch()
        }
        fetched => fetched,
    }
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

impl Source {
    /// The testing suite, for this machine.
    pub(crate) fn testing() -> Self {
        Self { suite: TESTING, architecture: packages::own_architecture() }
    }

    /// The suite of the metal, for this machine.
    pub(crate) fn stable() -> Self {
        Self { suite: STABLE, architecture: packages::own_architecture() }
    }

    /// Path of its private apt root in the cache.
    fn folder(self) -> String {
        let Self { suite, architecture } = self;
        if suite == METAL.suite && architecture == METAL.architecture {
            format!("apt/{suite}")
        } else {
            format!("apt/{suite}-{architecture}")
        }
    }
}

struct PrivateApt {
    root: PathBuf,
    source: Source,
    _lock: crate::lock::Lock,
}

impl PrivateApt {
    fn open(cache: &Cache, source: Source) -> Result<Self> {
        packages::ensure(
            cache,
            &[
                packages::program("apt", "apt-get", "downloads packages of other suites"),
                packages::library("debian-archive-keyring", "the keys they are signed with"),
            ],
        )?;
        let (mirror, _) = mirrors()?;
        let line = source_line(&mirror, source.suite);
        let lock = cache.lock("private-apt")?;
        let root = cache.path(source.folder());
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
        Ok(Self { root, source, _lock: lock })
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
            format!("APT::Architecture={}", self.source.architecture),
            format!("APT::Architectures={}", self.source.architecture),
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

    /// Runs a download of `packages`.
    fn download(&self, download: &mut Command, packages: &str) -> Result<()> {
        let suite = self.source.suite;
        command::run(download).context(Vanished { packages: packages.to_owned(), suite })
    }

    fn update(&self) -> Result<()> {
        let Source { suite, architecture } = self.source;
        progress::note(&format!("   reading Debian's package lists ({suite}, {architecture})"));
        let mut update = self.tool("apt-get");
        // Partial lists are an error here: missing packages would be reported as not existing.
        update.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]);
        command::run(&mut update).with_context(|| format!("cannot read the package lists of {suite}"))?;
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
    use std::cell::Cell;

    use anyhow::anyhow;

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
    fn each_suite_and_architecture_has_an_apt_of_its_own() {
        assert_eq!(METAL.folder(), "apt/trixie");
        let folder = |suite, architecture| Source { suite, architecture }.folder();
        assert_eq!(folder(STABLE, "amd64"), "apt/trixie-amd64");
        assert_eq!(folder(TESTING, "arm64"), "apt/testing-arm64");
    }

    #[test]
    fn lists_are_read_again_once_if_the_mirror_has_other_versions() {
        let vanished = || Vanished { packages: "awscli".to_owned(), suite: TESTING };
        let updates = Cell::new(0);
        let update = || {
            updates.set(updates.get() + 1);
            Ok(())
        };
        let renewed = again_if_vanished(
            || if updates.get() == 0 { Err(anyhow!("apt").context(vanished())) } else { Ok("newer") },
            update,
        );
        assert_eq!((renewed.unwrap(), updates.get()), ("newer", 1));
        let error =
            again_if_vanished(|| Err::<(), _>(anyhow!("apt").context(vanished())), update).unwrap_err();
        let told = format!("{error:#}");
        assert!(told.contains("awscli") && told.contains("HEARTH_REFRESH=1"), "{told}");
        assert_eq!(updates.get(), 2);
        again_if_vanished(|| Err::<(), _>(anyhow!("no room on the disk")), update).unwrap_err();
        assert_eq!(updates.get(), 2);
    }

    #[test]
    fn keys_are_file_names() {
        assert_eq!(artefact_key("busybox-static", "1:1.37.0-6"), "busybox-static_1%1.37.0-6");
    }
}
