//! `cargo xtask bench proxy`: compares the endpoints with nginx, on this machine.
//!
//! nginx and h2load are Debian's, from the same suite as everything else here, unpacked into the cache with all libraries that
//! they need: the same on every machine, nothing is installed, and no service is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::daemon;
use crate::parts::{self, Executable};
use crate::private_apt::{self, Source};
use crate::progress::Steps;
use crate::toolchain;
use crate::unpacked::Script;

const PACKAGE: &str = "hearth-benches";
const BENCH: &str = "proxy-bench";
/// The feature of [`PACKAGE`] that includes the daemon.
const FEATURE: &str = "hostd";
const PACKAGES: [&str; 2] = ["nginx", "nghttp2-client"];
/// Paths of the programs in these packages.
const NGINX: &str = "usr/sbin/nginx";
const H2LOAD: &str = "usr/bin/h2load";
/// Must change when [`finish`] makes a different tree from the same packages.
const RECIPE: &str = "proxy-bench 2";

/// The endpoints' proxy beside nginx as reverse proxy, on this machine: requests a second, latency that is added, bytes a second.
#[derive(Args, Debug)]
pub(super) struct Proxy {
    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: u32,
    /// For how long requests are counted each time
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    seconds: u32,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Proxy {
    pub(super) fn run(self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        let tree = steps.run("nginx and h2load", || {
            private_apt::fetch_tree(cache, Source::stable(), &PACKAGES, RECIPE, finish)
                .context("nginx and h2load are Debian's packages")
        })?;
        let bench = steps.run("build for this machine", || {
            let mut cargo = toolchain::native(cache)?;
            cargo.args(["build", "--profile", daemon::SHIPPED, "--package", PACKAGE]);
            cargo.args(["--features", FEATURE, "--bin", BENCH]);
            parts::executable_of(&mut cargo, PACKAGE, Executable::Binary(BENCH))
        })?;
        steps.run("measure on this machine", || {
            let mut command = Command::new(bench);
            command.arg("--nginx").arg(tree.root.join(script(NGINX)));
            command.arg("--h2load").arg(tree.root.join(script(H2LOAD)));
            command.args(["--rounds", &self.rounds.to_string(), "--seconds", &self.seconds.to_string()]);
            if let Some(file) = &self.json {
                command.arg("--json").arg(file);
            }
            let status = command.status().with_context(|| format!("cannot run {BENCH}"))?;
            if !status.success() {
                bail!("{BENCH}: {status}");
            }
            Ok(())
        })?;
        eprint!("{}", steps.table());
        Ok(0)
    }
}

/// Name of the script in the tree's root that runs a program of the tree.
fn script(program: &str) -> &str {
    program.rsplit_once('/').map_or(program, |(_, name)| name)
}

/// Makes scripts that run the tree's programs.
fn finish(root: &Path) -> Result<()> {
    let write = |program| Script { program, ..Script::default() }.write(root, script(program));
    [NGINX, H2LOAD].into_iter().try_for_each(write)
}
