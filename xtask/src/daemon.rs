//! Programs that are needed on the metal to run the daemon, in addition to those for builds of images: `hearthd` and its client.

use anyhow::Result;

use crate::base;
use crate::cache::Cache;
use crate::first_run::{self, Goal, Pending};
use crate::images::Images;
use crate::kernel;
use crate::metal;
use crate::packages::Need;
use crate::parts::{CLI, Executable, HOSTD, Parts, ProgramRequest};
use crate::progress::Steps;
use crate::rocksdb;
use crate::toolchain::{Cross, Link};

/// The profile with which the daemon is shipped: panics unwind, and integer overflows panic.
pub(crate) const SHIPPED: &str = "daemon";
/// A profile like [`SHIPPED`] that compiles faster, for the metal: daemon, client, image builder and their tests share dependencies.
pub(crate) const PROFILE: &str = "metal-daemon";

/// The daemon's package.
pub(crate) const PACKAGE: &str = rocksdb::PACKAGE;

/// A script for jobs that start the daemon: it writes the daemon's configuration to `$home/hearthd.toml`.
pub(crate) const CONFIGURE: &str = include_str!("configure.sh");
/// Name of the script among the inputs.
pub(crate) const CONFIGURE_NAME: &str = "configure.sh";

/// The daemon and its client.
pub(crate) const PROGRAMS: [ProgramRequest<'static>; 2] = [
    ProgramRequest { package: PACKAGE, executable: Executable::Binary(HOSTD), name: HOSTD },
    ProgramRequest { package: "hearth-cli", executable: Executable::Binary(CLI), name: CLI },
];

/// Builds the daemon and its client and adds them to the parts for the metal.
pub(crate) fn add(cache: &Cache, cross: &Cross, profile: &str, parts: &mut Parts) -> Result<()> {
    parts.build_several(cache, cross, (Link::Dynamic, profile), (&PROGRAMS, &[]))
}

/// Sets this machine up, and builds what a script on the metal needs that starts the daemon: the daemon, its client, the monitor, base
/// images and the script that configures the daemon. `needs` are programs that the caller uses on this machine, and `fetch` is what else it
/// needs from other machines: it comes before the long work.
pub(crate) fn prepare<T>(
    cache: &Cache,
    needs: &[Need],
    steps: &mut Steps,
    fetch: impl FnOnce() -> Result<T>,
) -> Result<(Parts, Images, T)> {
    let (cross, mut pending, fetched) = steps.run("set-up", || {
        let pending = first_run::prepare(cache, Goal::OnMetal, needs)?;
        let fetched = fetch()?;
        metal::set_up(cache)?;
        Ok((Cross::prepare(cache)?, pending, fetched))
    })?;
    let bases = base::begin(cache);
    let mut parts = Parts::new(cache)?;
    steps.run("build for the metal", || {
        let monitor = ("hearth-vmm", Executable::Binary("hearth-vmm"));
        parts.build(cache, &cross, "metal", monitor, "hearth-vmm")?;
        add(cache, &cross, PROFILE, &mut parts)
    })?;
    pending.tell_rest(cache);
    steps.run("guest kernel", || kernel::prepare(cache))?;
    pending.tell_rest(cache);
    let images = steps.run("base image", || {
        bases.finish()?;
        Images::prepare(cache, &cross, "metal", &mut parts)
    })?;
    Pending::all_built(cache)?;
    parts.add_script(CONFIGURE_NAME, CONFIGURE)?;
    Ok((parts, images, fetched))
}
