//! The start of a run: missing requirements of the machine are reported in the first seconds and not after half an hour, and the
//! work that has to be done once is announced with its duration on this machine.
//!
//! * [`requirements`] – checks that the machine has what the run needs
//! * [`work`] – work that is done once, and what of it remains

mod requirements;
mod work;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::packages::{self, Need};
use crate::{base, command, kernel, metal, private_apt, progress, rocksdb, toolchain};
pub(crate) use requirements::available_mib;
pub(crate) use work::Pending;

/// The kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Only native checks.
    Natively,
    /// Also microVMs and builds on the metal.
    OnMetal,
}

/// Checks the machine, announces the work, installs packages and fetches dependencies: all steps that need other
/// machines or a human being come first. Returns the work that remains.
pub(crate) fn prepare(cache: &Cache, goal: Goal, more: &[Need]) -> Result<Pending> {
    let mut needs = more.to_vec();
    needs.extend(toolchain::needs());
    needs.extend(base::needs());
    needs.extend(rocksdb::needs());
    if goal == Goal::OnMetal {
        needs.extend(kernel::needs(cache));
        needs.extend(metal::needs());
    }
    let pending = Pending::find(cache, goal)?;
    requirements::check(cache, goal, &pending, packages::any_missing(&needs))?;
    pending.announce(cache);
    packages::ensure(cache, &needs)?;
    if pending.downloads() {
        private_apt::read_lists(cache)?;
        progress::note("   fetching what is not here of the dependencies in Cargo.lock");
        let mut fetch = toolchain::native(cache)?;
        command::run(fetch.args(["--quiet", "fetch", "--locked"])).context(
            "the crates that Hearth is built of cannot be fetched; does this machine reach their registry?",
        )?;
    }
    Ok(pending)
}
