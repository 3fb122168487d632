//! What running the daemon takes on the metal, beside what builds of images need: `hearthd` and its client `hearth`.

use anyhow::Result;

use crate::cache::Cache;
use crate::parts::{Executable, Parts};
use crate::toolchain::Cross;

/// The profile that the daemon is shipped with: it unwinds, and what overflows panics.
pub(crate) const SHIPPED: &str = "daemon";
/// The same for what the metal runs, compiled faster. Tests of the daemon are built with it as well, so that both share what they are made of.
pub(crate) const PROFILE: &str = "metal-daemon";

/// The daemon's package.
pub(crate) const PACKAGE: &str = "hearth-hostd";
/// The daemon.
pub(crate) const HOSTD: &str = "hearthd";
/// Its command-line client.
pub(crate) const CLI: &str = "hearth";

/// A script for jobs that start the daemon: it leaves its configuration in `$home/hearthd.toml`.
pub(crate) const CONFIGURE: &str = include_str!("configure.sh");
/// Its name among the inputs.
pub(crate) const CONFIGURE_NAME: &str = "configure.sh";

/// Builds the daemon with a profile of its own and the client with one of others, and adds them to what is carried to the metal.
pub(crate) fn add(
    cache: &Cache,
    cross: &Cross,
    (daemon, others): (&str, &str),
    parts: &mut Parts,
) -> Result<()> {
    parts.build_with_rocksdb(cache, cross, daemon, (PACKAGE, Executable::Binary(HOSTD)), HOSTD)?;
    parts.build(cache, cross, others, ("hearth-cli", Executable::Binary(CLI)), CLI)
}
