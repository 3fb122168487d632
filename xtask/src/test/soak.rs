//! `cargo xtask soak`: the daemon's test with hostile guests and clients beside an honest account (`hostd/tests/e2e/soak/`), for as long as
//! is wanted. `cargo xtask test --full` and `--only daemon` run its short form.

use anyhow::Result;
use clap::Args;

use super::suites::Suite;
use crate::cache::Cache;

/// Variable with the minutes that the test attacks.
pub(super) const MINUTES: &str = "HEARTH_SOAK_MINUTES";
/// The suite with the test.
pub(super) const SUITE: &str = "daemon";
/// The test's name.
pub(super) const TEST: &str = "soak::";

/// Attacks a daemon on the metal with five hostile guests and hostile clients, and measures an honest account beside them.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// How long the attack lasts, in minutes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=45))]
    minutes: u8,
}

impl Options {
    /// Runs the test.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let options = super::Options {
            fast: false,
            full: false,
            only: Some(Suite::named(SUITE).map_err(anyhow::Error::msg)?),
            outside: false,
            arguments: vec![TEST.into()],
            soak_minutes: Some(self.minutes),
        };
        options.run(cache)
    }
}
