//! Programs that are needed on the metal to run the daemon, in addition to those for builds of images: `hearthd` and its client.

use anyhow::Result;

use crate::cache::Cache;
use crate::parts::{CLI, Executable, HOSTD, Parts, ProgramRequest};
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
