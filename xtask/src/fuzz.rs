//! Runs the VMM's fuzzers (`vmm/monitor/fuzz`), a minute each. Corpora grow in the cache from run to run.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::command;
use crate::progress::Steps;
use crate::toolchain;
use crate::tools::Tool;

const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.1" };
const FUZZ_FOLDER: &str = "vmm/monitor/fuzz";
const SECONDS_EACH: u32 = 60;

/// Runs every fuzz target, one step each.
pub(crate) fn run_all(cache: &Cache, steps: &mut Steps) -> Result<()> {
    let targets = steps.run("fuzzers: set-up", || {
        let nightly = command::clean("rustc").env("RUSTUP_TOOLCHAIN", "nightly").arg("-V").output();
        if !nightly.is_ok_and(|output| output.status.success()) {
            bail!("fuzzing needs a nightly compiler: rustup toolchain install nightly");
        }
        let list = command::capture(fuzz(cache)?.args(["list", "--fuzz-dir", FUZZ_FOLDER]))?;
        let targets: Vec<String> =
            list.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
        if targets.is_empty() {
            bail!("{FUZZ_FOLDER} has no targets");
        }
        Ok(targets)
    })?;
    for target in &targets {
        steps.run(&format!("fuzz {target}"), || run(cache, target))?;
    }
    Ok(())
}

fn run(cache: &Cache, target: &str) -> Result<()> {
    let corpus = cache.path("fuzz").join(target).join("corpus");
    let found = cache.path("fuzz").join(target).join("found");
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder)?;
    }
    let mut command = fuzz(cache)?;
    command
        .args(["run", "--fuzz-dir", FUZZ_FOLDER, "--target-dir"])
        .arg(cache.path("target-fuzz"))
        .arg(target);
    command.arg(&corpus);
    command.arg("--").arg(format!("-max_total_time={SECONDS_EACH}"));
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command::run(&mut command).with_context(|| format!("what broke it is in {}", found.display()))
}

fn fuzz(cache: &Cache) -> Result<Command> {
    let mut command = command::clean(CARGO_FUZZ.program(cache)?);
    // Sanitizers and coverage need the nightly compiler, whatever compiler runs xtask.
    command.env("RUSTUP_TOOLCHAIN", "nightly").current_dir(toolchain::repository()?);
    Ok(command)
}
