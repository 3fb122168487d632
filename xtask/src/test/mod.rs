//! `cargo xtask test`: everything the project checks, in the order of what fails fastest. The first failure ends it.
//!
//! * [`suites`] – the programs with tests that run on the metal
//! * [`targets`] – which cargo targets hold tests, and that each of them runs somewhere
//! * [`foreign`] – tests that this machine does not have or cannot run, which run on the metal instead

mod foreign;
mod suites;
mod targets;

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::command::{self, find_program};
use crate::daemon;
use crate::first_run::{self, Goal, Pending};
use crate::fuzz;
use crate::images::Images;
use crate::kernel;
use crate::metal::{self, Action, Cpu, Job, Metal};
use crate::packages::{Need, library, program};
use crate::parts::{Parts, words};
use crate::progress::{self, Steps};
use crate::rocksdb;
use crate::toolchain::{self, Cross, Link, TARGET};
use crate::tools::Tool;
use foreign::Foreign;
use suites::{Processors, SUITES, Suite, System};

/// Features with which everything compiles without RocksDB.
const FEATURES: [&str; 1] = ["hearth-benches/hostd"];
/// The packages with code that only aarch64 compiles.
const CROSS_PACKAGES: [&str; 3] = ["hearth-guest", "hearth-vmm", "hearth-test-guest"];
/// Tells tests to take their time.
const FULL: &str = "HEARTH_FULL";
/// Tells tests that everything they need is here, and that none may be skipped.
const ON_METAL: &str = "HEARTH_METAL";
/// The profile of what runs on the metal.
const PROFILE: &str = "metal";
/// What native tests run beside what they test: servers and clients that others have made.
const PEERS: [Need; 18] = [
    program("systemd", "systemd-analyze", "checks the daemon's unit in tests"),
    program("docker-registry", "docker-registry", "the registry that images are pulled from in tests"),
    program("nftables", "nft", "the rules of guests' networks"),
    program("pebble", "pebble", "the ACME server that issues certificates in tests"),
    program("bind9-dnsutils", "dig", "asks for names in tests"),
    program("curl", "curl", "a client of endpoints in tests"),
    program("chromium", "chromium", "the browser behind the relay in tests"),
    library("python3-grpcio", "a client of endpoints in tests"),
    library("python3-websockets", "a client of endpoints in tests"),
    program("nodejs", "node", SERVER),
    library("node-express", SERVER),
    library("python3-flask", SERVER),
    library("python3-aiohttp", SERVER),
    library("python3-starlette", SERVER),
    library("python3-uvicorn", SERVER),
    program("golang-go", "go", SERVER),
    program("default-jdk-headless", "javac", SERVER),
    library("libtomcat10-embed-java", SERVER),
];
/// What some of them are for.
const SERVER: &str = "a server behind an endpoint in tests";
const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// Runs the checks: format, lints, unit tests, and end-to-end tests with real microVMs on the ARM64 metal.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only what needs no metal: format, lints of both architectures, native tests
    #[arg(long, conflicts_with = "full")]
    fast: bool,
    /// Also long tests, fuzzers (a minute each), licences and dependencies
    #[arg(long)]
    full: bool,
    /// Only these tests on the metal: monitor-library, store, network, guest, jail, monitor, images, platform or daemon
    #[arg(long, value_name = "TESTS", conflicts_with = "fast", value_parser = Suite::named)]
    only: Option<Suite>,
    /// With `--only`, after `--`: arguments of the tests' program, for example parts of their names
    #[arg(last = true, requires = "only")]
    arguments: Vec<String>,
}

impl Options {
    /// Runs the checks.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        if let Some(only) = self.only {
            self.run_only(cache, only, &mut steps)?;
            return Ok(0);
        }
        let goal = if self.fast { Goal::Natively } else { Goal::OnMetal };
        let (cross, mut pending) = steps.run("set-up", || {
            let pending = first_run::prepare(cache, goal, &PEERS)?;
            if !self.fast {
                metal::set_up(cache)?;
            }
            Ok((Cross::prepare(cache)?, pending))
        })?;
        let foreign = self.check_natively(cache, &mut steps)?;
        steps.run("clippy (aarch64)", || {
            let mut cargo = cross.cargo(Link::Own)?;
            cargo.args(["clippy", "--all-targets", "--target", TARGET]);
            cargo.args(CROSS_PACKAGES.iter().flat_map(|package| ["--package", package]));
            command::run(cargo.args(["--", "-D", "warnings"]))
        })?;
        steps.run("clippy (aarch64, with RocksDB)", || {
            let mut cargo = rocksdb::cross_cargo(cache, &cross)?;
            // The profile of what the metal runs: RocksDB is there then, or will be.
            cargo.args(["clippy", "--all-targets", "--profile", daemon::PROFILE, "--target", TARGET]);
            command::run(rocksdb::select(&mut cargo, daemon::PACKAGE).args(["--", "-D", "warnings"]))
        })?;
        if !self.fast {
            self.check_on_metal(cache, &cross, &foreign, &mut pending, &mut steps)?;
        }
        if self.full {
            fuzz::run_all(cache, &mut steps)?;
            steps.run("licences and dependencies", || {
                let mut deny = command::clean(CARGO_DENY.program(cache)?);
                deny.current_dir(toolchain::repository()?);
                command::run(deny.args(["check", "licenses", "bans", "sources"]))
            })?;
        }
        eprint!("{}", steps.table());
        progress::note("all checks passed");
        Ok(0)
    }

    fn check_natively(&self, cache: &Cache, steps: &mut Steps) -> Result<Foreign> {
        steps.run("format", || command::run(toolchain::native(cache)?.args(["fmt", "--all", "--check"])))?;
        steps.run("clippy (native)", || {
            let mut cargo = toolchain::native(cache)?;
            workspace(cargo.arg("clippy")).args(["--all-targets", "--", "-D", "warnings"]);
            command::run(&mut cargo)
        })?;
        steps.run("tests (native)", || {
            let targets = targets::native(&mut toolchain::native(cache)?, &FEATURES)?;
            let foreign = Foreign::find(cache)?;
            let mut cargo = toolchain::native(cache)?;
            if find_program("cargo-nextest").is_some() {
                cargo.args(["nextest", "run"]);
            } else {
                cargo.arg("test");
            }
            workspace(&mut cargo).args(targets);
            self.fullness(foreign.note_skipped(&mut cargo));
            command::run(&mut cargo)?;
            foreign.with_skipped()
        })
    }

    fn check_on_metal(
        &self,
        cache: &Cache,
        cross: &Cross,
        foreign: &Foreign,
        pending: &mut Pending,
        steps: &mut Steps,
    ) -> Result<()> {
        let built = self.build(cache, cross, (&SUITES, Some(foreign)), pending, steps)?;
        let processors: &[Cpu] =
            if metal::kvm_is_usable() { &[Cpu::NeoverseN1] } else { &[Cpu::NeoverseN1, Cpu::Max] };
        for suite in &SUITES {
            for cpu in suite.on(processors) {
                let title = match suite.processors {
                    Processors::One => suite.title.to_owned(),
                    Processors::Each | Processors::Part(_) if metal::kvm_is_usable() => {
                        suite.title.to_owned()
                    }
                    Processors::Each | Processors::Part(_) => format!("{} ({})", suite.title, cpu.title()),
                };
                steps.run(&title, || self.on_metal(cache, &built, suite, *cpu))?;
            }
        }
        Ok(())
    }

    /// Runs the tests of one suite, with the least that they need.
    fn run_only(&self, cache: &Cache, suite: Suite, steps: &mut Steps) -> Result<()> {
        let (cross, mut pending) = steps.run("set-up", || {
            let pending = first_run::prepare(cache, Goal::OnMetal, &[])?;
            metal::set_up(cache)?;
            Ok((Cross::prepare(cache)?, pending))
        })?;
        let built = self.build(cache, &cross, (&[suite], None), &mut pending, steps)?;
        steps.run(suite.title, || self.on_metal(cache, &built, &suite, Cpu::NeoverseN1))
    }

    /// Builds what these suites need on the metal, and themselves.
    fn build(
        &self,
        cache: &Cache,
        cross: &Cross,
        (suites, foreign): (&[Suite], Option<&Foreign>),
        pending: &mut Pending,
        steps: &mut Steps,
    ) -> Result<Built> {
        let mut parts = Parts::new(cache)?;
        let image = steps.run("guest kernel", || kernel::prepare(cache))?;
        pending.tell_rest(cache);
        parts.add(image, "Image");
        let needs = |system: &[System]| suites.iter().any(|suite| system.contains(&suite.system));
        steps.run("builds for the metal", || {
            parts.build_all(cache, cross, PROFILE)?;
            parts.add_file_system(cache)?;
            parts.add_guest_os(cache, cross, PROFILE)?;
            if needs(&[System::Daemon]) {
                daemon::add(cache, cross, (daemon::PROFILE, PROFILE), &mut parts)?;
            }
            for suite in suites {
                let what = (suite.package, suite.executable);
                if suite.rocksdb {
                    parts.build_with_rocksdb(cache, cross, daemon::PROFILE, what, suite.name)?;
                } else {
                    parts.build(cache, cross, PROFILE, what, suite.name)?;
                }
            }
            match foreign {
                Some(foreign) => foreign.add(&mut parts),
                None => Ok(()),
            }
        })?;
        pending.tell_rest(cache);
        let images = match needs(&[System::Images, System::Daemon]) {
            true => Some(steps.run("base images", || Images::prepare(cache, cross, PROFILE, &mut parts))?),
            false => None,
        };
        Pending::all_built(cache)?;
        Ok(Built { parts, images })
    }

    /// Runs a suite on a metal of its own.
    fn on_metal(&self, cache: &Cache, built: &Built, suite: &Suite, cpu: Cpu) -> Result<()> {
        let metal = Metal::open(cache)?;
        let own = self.arguments.iter().map(String::as_str);
        let arguments = ["--test-threads=1"].into_iter().chain(suite.part(cpu, self.full).iter().copied());
        let arguments: Vec<&str> = arguments.chain(own).collect();
        let words = match (suite.system, &built.images) {
            (System::Images | System::Daemon, Some(_)) => Images::words(&metal, suite.name, &arguments),
            _ if suite.name == suites::FOREIGN && self.only.is_none() => Foreign::words(&metal, suite.name),
            _ => words(&metal.inputs().join(suite.name), arguments),
        };
        let mut job = Job::new(Action::Run(words));
        job.machine.cpu = cpu;
        match (suite.system, &built.images) {
            (System::Images | System::Daemon, Some(images)) => images.give(&mut job),
            (system, _) => job.debian = system != System::Small,
        }
        built.parts.give(&metal, &mut job);
        job.environment.push((ON_METAL.into(), "1".into()));
        if self.full {
            job.environment.push((FULL.into(), "1".into()));
        }
        match metal.run(job)?.status {
            0 => Ok(()),
            status => bail!("the tests `{}` on the metal exited with status {status}", suite.name),
        }
    }

    fn fullness(&self, cargo: &mut Command) {
        if self.full {
            cargo.env(FULL, "1");
        }
    }
}

/// What was built for the metal.
struct Built {
    parts: Parts,
    images: Option<Images>,
}

/// Selects all packages, with what is optional and compiles without RocksDB.
fn workspace(cargo: &mut Command) -> &mut Command {
    cargo.args(["--workspace", "--features", &FEATURES.join(",")])
}
