//! `cargo xtask base`: a catalogue with one base image of this checkout, for the metal.
//!
//! The catalogue is made on this machine by the checkout's own code, like `hearth-image-builder base`. The parts that are made from
//! Debian's packages take minutes and are kept in the cache (`base-parts/`), so that a changed guest or kernel takes only seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use hearth_base::build::Request;
use hearth_base::parts::{Kind, Store};
use hearth_base::recipe::{Recipe, Sources};
use hearth_base::{Catalogue, KernelSource};

use crate::cache::{Cache, content_key};
use crate::command;
use crate::kernel;
use crate::packages::{self, Need, library, program};
use crate::parts::{self, Executable};
use crate::private_apt;
use crate::progress;
use crate::toolchain::Cross;

/// Name and target of the guest OS's program.
const GUEST: (&str, Executable) = ("hearth-guest", Executable::Binary("hearth-guest"));
/// Folder in the cache with the parts of base images that are made from Debian's packages.
const PARTS: &str = "base-parts";
/// The parts of every base image.
const PARTS_OF_ALL: [Kind; 2] = [Kind::Containers, Kind::Builder];
/// Must change when the code below makes a different catalogue from the same parts.
const RECIPE: &[u8] = b"2";

/// Makes the base images that the metal's tests use (2 to 3 minutes on 2 cores, once).
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Print nothing but the path of the catalogue to stdout
    #[arg(long)]
    print_path: bool,
    /// Also write a disk with the catalogue's files, which the metal can be given
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
}

impl Options {
    /// Makes the catalogue and prints its path.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let cross = Cross::prepare(cache)?;
        let catalogue = prepare(cache, &cross)?;
        if let Some(image) = &self.disk {
            disk(cache, &catalogue, image)?;
        }
        if self.print_path {
            println!("{}", catalogue.display());
        } else {
            progress::note(&format!("catalogue of base images: {}", catalogue.display()));
        }
        Ok(0)
    }
}

/// Installs the packages that are needed to make base images.
pub(crate) fn set_up(cache: &Cache) -> Result<()> {
    packages::ensure(cache, &needs())
}

/// The packages that are needed to make base images.
pub(crate) fn needs() -> Vec<Need> {
    let mut needs = vec![
        program("mmdebstrap", "mmdebstrap", "makes Debian roots"),
        library("debian-archive-keyring", "the keys that Debian's packages are signed with"),
        program("erofs-utils", "mkfs.erofs", "makes read-only disks of base images"),
        program("kmod", "depmod", "orders kernel modules"),
        program("xz-utils", "xz", "unpacks kernel modules"),
    ];
    if !cfg!(target_arch = "aarch64") {
        needs.push(program("qemu-user-static", "qemu-aarch64-static", "runs arm64 packages' scripts"));
        needs.push(program("arch-test", "arch-test", "tells mmdebstrap that they run"));
    }
    needs
}

/// The kernel of a base image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The kernel of `cargo xtask kernel`.
    Tuned,
    /// Debian's packaged kernel.
    Debian,
}

/// The folder of a catalogue whose only version is made from this checkout, with the default kernel.
pub(crate) fn prepare(cache: &Cache, cross: &Cross) -> Result<PathBuf> {
    prepare_with(cache, cross, Kernel::Tuned)
}

/// The folder of a catalogue whose only version is made from this checkout.
pub(crate) fn prepare_with(cache: &Cache, cross: &Cross, kernel: Kernel) -> Result<PathBuf> {
    set_up(cache)?;
    let kinds: &[Kind] = match kernel {
        Kernel::Tuned => &PARTS_OF_ALL,
        Kernel::Debian => &[Kind::Containers, Kind::Builder, Kind::Kernel],
    };
    let digests = parts(cache, kinds)?;
    let image = match kernel {
        Kernel::Tuned => Some(kernel::prepare(cache)?),
        Kernel::Debian => None,
    };
    let run = cache.run_folder()?;
    let guest = run.path().join(GUEST.0);
    parts::build_executable(cache, cross, "metal", GUEST, &guest)?;
    // Symbols would use memory in every guest.
    command::run(cross.binutil("strip").arg(&guest))?;
    let own = image.as_deref().map(fs::read).transpose()?.unwrap_or_default();
    let openssl = run.path().join("openssl.so");
    parts::build_openssl(cache, cross, &openssl)?;
    let key = content_key(&[RECIPE, digests.as_bytes(), &own, &fs::read(&guest)?, &fs::read(&openssl)?]);
    cache.artefact("base", &key, |folder| {
        let request = Request {
            guest,
            openssl,
            kernel: image.map_or(KernelSource::Debian, KernelSource::Image),
            recipe: Recipe::own()?,
            sources: sources()?,
            parts: Some(cache.path(PARTS)),
            refresh: false,
        };
        Ok(hearth_base::build(&Catalogue::create(folder)?, &request, &report).map(drop)?)
    })
}

/// Parts of base images that are being made.
#[derive(Debug)]
pub(crate) struct BackgroundBuild(JoinHandle<Result<()>>);

/// Starts to make the parts of base images in the background: packages' scripts run one after the other, and leave
/// processors idle.
pub(crate) fn begin(cache: &Cache) -> BackgroundBuild {
    let cache = cache.clone();
    BackgroundBuild(thread::spawn(move || match are_there(&cache)? {
        true => Ok(()),
        false => set_up(&cache).and_then(|()| parts(&cache, &PARTS_OF_ALL).map(drop)),
    }))
}

impl BackgroundBuild {
    /// Waits until the parts are made.
    pub(crate) fn finish(self) -> Result<()> {
        self.0.join().unwrap_or_else(|_| bail!("the thread that makes parts of base images panicked"))
    }
}

/// Whether all parts of base images exist.
pub(crate) fn are_there(cache: &Cache) -> Result<bool> {
    let store = Store { folder: cache.path(PARTS), refresh: false };
    if !store.folder.is_dir() {
        // On a fresh machine, not even the mirrors are known yet.
        return Ok(false);
    }
    let (recipe, sources) = (Recipe::own()?, sources()?);
    for kind in PARTS_OF_ALL {
        if !store.has(kind, (&recipe, &sources))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the parts that do not exist, and returns the digests of their files.
fn parts(cache: &Cache, kinds: &[Kind]) -> Result<String> {
    let store = Store { folder: cache.path(PARTS), refresh: private_apt::newest_wanted() };
    let (recipe, sources) = (Recipe::own()?, sources()?);
    let mut digests = String::new();
    for kind in kinds {
        let part = store.part(*kind, (&recipe, &sources), &report)?;
        digests.push_str(&part.record.file.context("a part of base images has no file")?.sha256);
        digests.push('\n');
    }
    Ok(digests)
}

fn report(text: &str) {
    progress::note(&format!("   base images: {text}"));
}

/// Writes a disk to `image` with all files of a catalogue.
pub(crate) fn disk(cache: &Cache, catalogue: &Path, image: &Path) -> Result<()> {
    set_up(cache)?;
    let mkfs = command::find_program("mkfs.erofs").context("mkfs.erofs is not on the search path")?;
    command::capture(Command::new(mkfs).args(["--quiet", "-T0"]).arg(image).arg(catalogue)).map(drop)
}

/// The mirrors from which this machine gets its own packages.
pub(crate) fn sources() -> Result<Sources> {
    let (mirror, security_mirror) = private_apt::mirrors()?;
    Ok(Sources { mirror, security_mirror, ..Sources::default() })
}
