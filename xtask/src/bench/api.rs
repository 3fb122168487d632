//! `cargo xtask bench api`: the daemon's store and API on this machine, and the operations of microVMs on the metal.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::cache::Cache;
use crate::daemon;
use crate::images::Images;
use crate::metal::options::EmulatedHostOptions;
use crate::metal::{Action, Job, Metal};
use crate::parts::{self, Executable, Parts};
use crate::progress::Steps;
use crate::rocksdb;

const PACKAGE: &str = "hearth-benches";
/// The program that measures on this machine.
const NATIVE: &str = "api-bench";
/// The program that measures on the metal.
const ON_METAL: &str = "launch-bench";
/// The program that measures machines that are kept ready.
const READY: &str = "ready-bench";
/// The file to which these programs write their figures.
const FIGURES: &str = "launch-bench.json";
const SCRIPT: &str = include_str!("launches.sh");
const SCRIPT_NAME: &str = "launches.sh";
/// Memory of the metal in MiB: for a hundred microVMs at once.
const MEMORY_MIB: u32 = 12 << 10;

/// Reads, pages and changes of state a second with a million microVMs in the store, on this machine; launch, suspend, resume and
/// terminate by step, on the metal.
#[derive(Args, Debug)]
pub(super) struct Api {
    #[command(flatten)]
    emulated_host: EmulatedHostOptions,
    /// Measure one of both only
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Option<Part>,
    /// Measure on the metal in real time instead of instructions
    #[arg(long, conflicts_with = "icount")]
    real_time: bool,
    /// MicroVMs in the store
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    microvms: u64,
    /// Where the store is made, which decides what an fsync costs; the system's folder for temporary files unless given
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: u32,
    /// How many microVMs are launched at once
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    many: u32,
    /// Tell exits by reason, faults by kind and pages touched by launch, suspend and resume instead, from the metal's tracepoints
    #[arg(long, conflicts_with = "only")]
    profile: bool,
    /// Tell instead what launches from machines that stand ready would take, and resumes of processes that were kept: an experiment,
    /// without the daemon
    #[arg(long, conflicts_with_all = ["only", "profile"])]
    ready: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Store and API
    Native,
    /// Operations of microVMs
    Metal,
}

impl Api {
    pub(super) fn run(self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        if self.only != Some(Part::Metal) && !self.profile && !self.ready {
            self.measure_here(cache, &mut steps)?;
        }
        if self.only != Some(Part::Native) {
            self.measure_on_metal(cache, &mut steps)?;
        }
        eprint!("{}", steps.table());
        Ok(0)
    }

    /// The program that measures on the metal.
    fn bench(&self) -> &'static str {
        if self.ready { READY } else { ON_METAL }
    }

    fn measure_here(&self, cache: &Cache, steps: &mut Steps) -> Result<()> {
        let bench = steps.run("build for this machine", || {
            let mut cargo = rocksdb::native_cargo(cache)?;
            cargo.args(["build", "--profile", daemon::SHIPPED, "--bin", NATIVE]);
            parts::executable_of(rocksdb::select(&mut cargo, PACKAGE), PACKAGE, Executable::Binary(NATIVE))
        })?;
        steps.run("measure on this machine", || {
            let mut command = Command::new(bench);
            command.args(["--microvms", &self.microvms.to_string(), "--rounds", &self.rounds.to_string()]);
            if let Some(folder) = &self.folder {
                command.arg("--folder").arg(folder);
            }
            let status = command.status().with_context(|| format!("cannot run {NATIVE}"))?;
            if !status.success() {
                bail!("{NATIVE}: {status}");
            }
            Ok(())
        })
    }

    fn measure_on_metal(&self, cache: &Cache, steps: &mut Steps) -> Result<()> {
        let cross = super::set_up(cache, steps)?;
        let mut parts = Parts::new(cache)?;
        let images = steps.run("build for the metal", || {
            parts.build(
                cache,
                &cross,
                "metal",
                ("hearth-vmm", Executable::Binary("hearth-vmm")),
                "hearth-vmm",
            )?;
            // Where its own time is measured, the daemon is built as shipped; otherwise, the metal runs a build that compiles faster, for
            // tests. Its client is not measured.
            let daemon = if self.profile || self.ready { daemon::PROFILE } else { daemon::SHIPPED };
            daemon::add(cache, &cross, daemon, &mut parts)?;
            let bench = self.bench();
            parts.build(cache, &cross, "metal", (PACKAGE, Executable::Binary(bench)), bench)?;
            Images::prepare(cache, &cross, "metal", &mut parts)
        })?;
        parts.add_script(SCRIPT_NAME, SCRIPT)?;
        parts.add_script(daemon::CONFIGURE_NAME, daemon::CONFIGURE)?;
        steps.run("measure on the metal", || {
            let metal = Metal::open(cache)?;
            let (rounds, many) = (self.rounds.to_string(), self.many.to_string());
            let mut words = vec![self.bench(), "--rounds", &rounds];
            if !self.ready {
                words.extend(["--many", &many]);
            }
            words.extend(self.profile.then_some("--profile"));
            let mut job = Job::new(Action::Run(Images::words(&metal, SCRIPT_NAME, &words)));
            job.emulated_host = self.emulated_host.settings();
            job.emulated_host.icount = !self.real_time;
            job.emulated_host.memory_mib = job.emulated_host.memory_mib.max(MEMORY_MIB);
            images.give(&mut job);
            parts.give(&metal, &mut job);
            let figures = parts.path(FIGURES);
            job.outputs.push((FIGURES.into(), figures.clone()));
            job.timeout = Some(std::time::Duration::from_secs(2 * 3600));
            match metal.run(job)?.status {
                0 => println!(
                    "{}",
                    fs::read_to_string(figures).context("the figures are not text")?.trim_end()
                ),
                status => bail!("{} exited with status {status}", self.bench()),
            }
            Ok(())
        })
    }
}
