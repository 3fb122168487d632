//! `cargo xtask golden`: what a release leaves on a host, kept so that every later release is tested with it.
//!
//! A golden input is the data folder of a stopped daemon with an image of the example `counter` and a suspended microVM of
//! it, and the monitor of that release. So it holds each format that outlives a release: the store, the image with its
//! agent, the state of the microVM, the log. `hostd/tests/e2e/goldens.rs` gives all of them to the daemon of today.
//!
//! * `golden.sh` – makes one on the metal, whose clock it sets: the life of the microVM must not end before it is resumed

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::command;
use crate::daemon;
use crate::images::Images;
use crate::metal::{self, Action, Job, Metal};
use crate::parts::Parts;
use crate::progress::{self, Steps};
use crate::toolchain;

const SCRIPT: &str = include_str!("golden.sh");
const SCRIPT_NAME: &str = "golden.sh";
/// The archive in the folder of outputs.
const ARCHIVE: &str = "golden.tar";
/// The folder with the golden inputs of all releases.
const FOLDER: &str = "hostd/tests/e2e/golden";
/// Ending of their names, which begin with the release.
const ENDING: &str = ".tar.xz";
/// Name of the folder among the inputs of the metal.
const INPUT: &str = "golden";
/// Greatest size of a golden input in bytes: it stays in the repository for ever.
const SIZE_MAX: u64 = 16 << 20;

/// The program that compresses them, which base images need, too.
const XZ: &str = "xz";

/// Makes the golden input of this release, which later releases must accept.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Replace the one that exists, which only a release that nobody has yet may do
    #[arg(long)]
    replace: bool,
}

impl Options {
    /// Makes the golden input.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let target = folder()?.join(format!("{}{ENDING}", env!("CARGO_PKG_VERSION")));
        if target.exists() && !self.replace {
            bail!("{} exists: a golden input stays as its release made it", target.display());
        }
        if metal::kvm_is_usable() {
            bail!(
                "golden inputs are made on an emulated metal, since the clock of the metal is set for that"
            );
        }
        let mut steps = Steps::default();
        let (mut parts, images, ()) = daemon::prepare(cache, &[], &mut steps, || Ok(()))?;
        parts.add_script(SCRIPT_NAME, SCRIPT)?;
        let archive = parts.path(ARCHIVE);
        steps.run("an image and a suspended microVM", || make(cache, &parts, &images, &archive))?;
        let bytes = steps.run("compress", || compress(&archive, &target))?;
        eprint!("{}", steps.table());
        progress::note(&format!("{}: {} KiB", target.display(), bytes >> 10));
        Ok(0)
    }
}

/// Adds the golden inputs of all releases to the parts, unpacked to archives that `tar` reads on the metal.
pub(crate) fn add(parts: &mut Parts) -> Result<()> {
    let unpacked = parts.path(INPUT);
    fs::create_dir_all(&unpacked)?;
    let source = folder()?;
    for entry in fs::read_dir(&source).with_context(|| format!("cannot read {}", source.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(release) = name.strip_suffix(ENDING) else { continue };
        let archive = unpacked.join(format!("{release}.tar"));
        let mut xz = Command::new(XZ);
        xz.args(["--decompress", "--stdout"]).stdin(File::open(source.join(&name))?);
        command::run(xz.stdout(create(&archive)?))?;
    }
    parts.add(unpacked, INPUT);
    Ok(())
}

fn folder() -> Result<PathBuf> {
    Ok(toolchain::repository()?.join(FOLDER))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

fn make(cache: &Cache, parts: &Parts, images: &Images, archive: &Path) -> Result<()> {
    let metal = Metal::open(cache)?;
    let mut job = Job::new(Action::Run(Images::words(&metal, SCRIPT_NAME, &[])));
    images.give(&mut job);
    parts.give(&metal, &mut job);
    job.outputs.push((ARCHIVE.into(), archive.to_owned()));
    job.timeout = Some(Duration::from_secs(1200));
    match metal.run(job)?.status {
        0 => Ok(()),
        status => bail!("{SCRIPT_NAME} exited with status {status}"),
    }
}

/// Compresses an archive; returns the size in bytes.
fn compress(archive: &Path, target: &Path) -> Result<u64> {
    let mut new = target.to_owned();
    new.as_mut_os_string().push(".new");
    let mut xz = Command::new(XZ);
    xz.args(["-9", "--extreme", "--stdout"]).arg(archive).stdin(Stdio::null());
    command::run(xz.stdout(create(&new)?))?;
    let bytes = fs::metadata(&new)?.len();
    if bytes > SIZE_MAX {
        bail!("{} has {bytes} bytes, at most {SIZE_MAX} are kept in the repository", new.display());
    }
    fs::rename(&new, target).with_context(|| format!("cannot name {}", target.display()))?;
    Ok(bytes)
}
