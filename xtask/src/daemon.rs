//! What running the daemon takes on the metal, beside what builds of images need: `hearthd` and its client `hearth`.

use anyhow::Result;

use crate::cache::Cache;
use crate::parts::{CLI, Executable, HOSTD, Parts, Wanted};
use crate::rocksdb;
use crate::toolchain::{Cross, Link};

/// The profile that the daemon is shipped with: it unwinds, and what overflows panics.
pub(crate) const SHIPPED: &str = "daemon";
/// The same for what the metal runs, compiled faster: the daemon, its client, the image builder and their tests, which share what they are made of.
pub(crate) const PROFILE: &str = "metal-daemon";

/// The daemon's package.
pub(crate) const PACKAGE: &str = rocksdb::PACKAGE;

/// A script for jobs that start the daemon: it leaves its configuration in `$home/hearthd.toml`.
pub(crate) const CONFIGURE: &str = include_str!("configure.sh");
/// Its name among the inputs.
pub(crate) const CONFIGURE_NAME: &str = "configure.sh";

/// Both.
pub(crate) const PROGRAMS: [Wanted<'static>; 2] = [
    Wanted { package: PACKAGE, executable: Executable::Binary(HOSTD), name: HOSTD },
    Wanted { package: "hearth-cli", executable: Executable::Binary(CLI), name: CLI },
];

/// Builds the daemon and its client and adds them to what is carried to the metal.
pub(crate) fn add(cache: &Cache, cross: &Cross, profile: &str, parts: &mut Parts) -> Result<()> {
    parts.build_several(cache, cross, (Link::Dynamic, profile), &PROGRAMS)
}
