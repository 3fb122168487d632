//! `cargo xtask base`: a catalogue with one base image of this checkout, for the metal.
//!
//! It is made on this machine by the checkout's own `hearth-image-builder base`. What comes from Debian's packages takes
//! minutes and is kept in the cache (`base-parts/`), so that a changed guest or kernel costs seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cache::{Cache, content_key};
use crate::command;
use crate::kernel;
use crate::packages::{self, Need, library, program};
use crate::parts::{self, Executable};
use crate::private_apt;
use crate::progress;
use crate::toolchain::{self, Cross};

/// The guest OS's program.
const GUEST: (&str, Executable) = ("hearth-guest", Executable::Binary("hearth-guest"));
const BUILDER: &str = "hearth-image-builder";
/// Changes when the code below makes another catalogue from the same parts.
const RECIPE: &[u8] = b"1";

/// Makes the base images that the metal's tests use (some 5 minutes on 2 cores, once).
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
    /// Makes the catalogue and says where it is.
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

/// Installs what making base images needs.
pub(crate) fn set_up(cache: &Cache) -> Result<()> {
    packages::ensure(cache, &needs())
}

/// The packages that making base images needs.
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
    /// The one of `cargo xtask kernel`.
    Tuned,
    /// Debian's packaged one.
    Debian,
}

/// The folder of a catalogue whose only version is this checkout's, with the default kernel.
pub(crate) fn prepare(cache: &Cache, cross: &Cross) -> Result<PathBuf> {
    prepare_with(cache, cross, Kernel::Tuned)
}

/// The folder of a catalogue whose only version is this checkout's.
pub(crate) fn prepare_with(cache: &Cache, cross: &Cross, kernel: Kernel) -> Result<PathBuf> {
    set_up(cache)?;
    let builder = builder(cache)?;
    let sources = sources()?;
    let store = cache.path("base-parts");
    let mut ahead = Command::new(&builder);
    ahead.args(["base", "parts", "--parts"]).arg(&store).args(&sources);
    if private_apt::newest_wanted() {
        ahead.arg("--refresh");
    }
    let image = match kernel {
        Kernel::Tuned => Some(kernel::prepare(cache)?),
        Kernel::Debian => {
            ahead.arg("--debian-kernel");
            None
        }
    };
    let digests = printed(&mut ahead)?;
    let run = cache.run_folder()?;
    let guest = run.path().join(GUEST.0);
    parts::build_executable(cache, cross, "metal", GUEST, &guest)?;
    // Symbols would be in the memory of every guest.
    command::run(cross.binutil("strip").arg(&guest))?;
    let own = image.as_deref().map(fs::read).transpose()?.unwrap_or_default();
    let key = content_key(&[RECIPE, digests.as_bytes(), &own, &fs::read(&guest)?]);
    cache.artefact("base", &key, |folder| {
        let mut build = Command::new(&builder);
        build.args(["base", "build", "--catalogue"]).arg(folder).arg("--parts").arg(&store).args(&sources);
        build.arg("--kernel").arg(image.as_deref().unwrap_or(Path::new("debian"))).arg("--guest").arg(&guest);
        printed(&mut build).map(drop)
    })
}

/// One disk with everything that is in a catalogue; `image` is written.
pub(crate) fn disk(cache: &Cache, catalogue: &Path, image: &Path) -> Result<()> {
    set_up(cache)?;
    let mkfs = command::find_program("mkfs.erofs").context("mkfs.erofs is not on the search path")?;
    command::capture(Command::new(mkfs).args(["--quiet", "-T0"]).arg(image).arg(catalogue)).map(drop)
}

/// The builder, for this machine.
fn builder(cache: &Cache) -> Result<PathBuf> {
    let mut cargo = toolchain::native(cache)?;
    cargo.args(["build", "--package", BUILDER, "--bin", BUILDER]);
    parts::executable_of(&mut cargo, Executable::Binary(BUILDER))
}

/// Where this machine's own packages come from.
fn sources() -> Result<Vec<String>> {
    let (mirror, security) = private_apt::mirrors()?;
    Ok(vec!["--mirror".into(), mirror, "--security-mirror".into(), security.unwrap_or_else(|| "none".into())])
}

/// Runs a command whose progress is for the user, and returns what it printed.
fn printed(command: &mut Command) -> Result<String> {
    let what = command::line(command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let output = child
        .and_then(std::process::Child::wait_with_output)
        .with_context(|| format!("cannot run `{what}`"))?;
    if !output.status.success() {
        bail!("`{what}` failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
