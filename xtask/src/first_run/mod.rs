//! The beginning of a run: what the machine lacks is said in the first seconds and not after half an hour, and what is to be
//! done before the run's own work is announced with how long it takes here.
//!
//! * [`machine`] – what can be known of the machine at once
//! * [`work`] – what is downloaded and compiled once, and what of it is left

mod machine;
mod work;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::packages::{self, Need};
use crate::{base, command, kernel, metal, private_apt, progress, rocksdb, toolchain};
pub(crate) use machine::available_mib;
pub(crate) use work::Pending;

/// What a run is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Native checks alone.
    Natively,
    /// Also microVMs and builds on the metal.
    OnMetal,
}

/// Looks at the machine, announces what is to be done, installs packages and fetches dependencies: all that needs other
/// machines or a human being comes first. Returns what is left to be done.
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
    machine::check(cache, goal, &pending, packages::any_missing(&needs))?;
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
