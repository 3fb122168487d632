//! `cargo xtask test`: all checks of the project; those that fail fastest come first. The first failure ends the run.
//!
//! * [`suites`] – the programs with tests that run on the metal
//! * [`plan`] – which suites share a boot of the metal, and which boots run at the same time
//! * [`script`] – the script that runs them there
//! * [`targets`] – which cargo targets contain tests, and a check that each of them runs somewhere
//! * [`outside`] – AWS's clients against a daemon on the metal
//! * [`soak`] – one test of them, for as long as is wanted
//! * [`foreign`] – tests that this machine does not have or cannot run, which run on the metal instead

mod foreign;
mod outside;
mod plan;
mod script;
pub(crate) mod soak;
mod suites;
mod targets;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use crate::access;
use crate::aws_cli;
use crate::base;
use crate::cache::Cache;
use crate::command::{self, find_program};
use crate::daemon;
use crate::first_run::{self, Goal, Pending};
use crate::fuzz;
use crate::golden;
use crate::images::{self, Images};
use crate::kernel;
use crate::metal::{self, Action, Cpu, Job, Metal};
use crate::packages::{Need, library, program};
use crate::parts::{Executable, Parts, ProgramRequest, words};
use crate::progress::{self, Steps};
use crate::projects::{Project, Projects};
use crate::python;
use crate::rocksdb;
use crate::toolchain::{self, Cross, Link, TARGET};
use crate::tools::Tool;
use foreign::Foreign;
use plan::{Boot, Lane, Room};
use script::Run;
use suites::{SUITES, Suite, System};

/// Features with which everything compiles without RocksDB.
const FEATURES: [&str; 1] = ["hearth-benches/hostd"];
/// The packages with code that only aarch64 compiles.
const CROSS_PACKAGES: [&str; 4] = ["hearth-guest", "hearth-vmm", "hearth-vmm-jail", "hearth-test-guest"];
/// Variable that enables long tests.
const FULL: &str = "HEARTH_FULL";
/// Variable that declares that tests have everything they need, and that none may be skipped.
const ON_METAL: &str = "HEARTH_METAL";
/// Variable with the interpreter that has AWS's clients (`hostd/src/api/aws/listen/tests/clients.rs`).
const PYTHON: &str = "HEARTH_AWS_PYTHON";
/// Variable with version 2 of the AWS CLI, for the same tests.
const CLI2: &str = "HEARTH_AWS_CLI2";
/// The profile of programs for the metal.
const PROFILE: &str = "metal";
/// Name on the metal of the script that runs suites.
const SUITES_NAME: &str = "suites.sh";
/// Time limit of a suite, in case it hangs: tests have deadlines of their own.
const LIMIT: Duration = Duration::from_secs(3600);
/// Time limit of a suite with long tests.
const LIMIT_FULL: Duration = Duration::from_secs(3 * 3600);
/// Programs that native tests use: servers and clients of other projects.
const PEERS: [Need; 23] = [
    access::OPENSSL,
    program("systemd", "systemd-analyze", "checks the daemon's unit in tests"),
    program("docker-registry", "docker-registry", "the registry that images are pulled from in tests"),
    program("nftables", "nft", "the rules of guests' networks"),
    program("pebble", "pebble", "the ACME server that issues certificates in tests"),
    program("bind9-dnsutils", "dig", "asks for names in tests"),
    program("curl", "curl", "a client of endpoints in tests"),
    program("chromium", "chromium", "the browser behind the relay in tests"),
    library("python3-botocore", "the client of AWS that signs requests in tests"),
    library("python3-grpcio", "a client of endpoints in tests"),
    library("python3-websockets", "a client of endpoints in tests"),
    python::NEEDS[0],
    python::NEEDS[1],
    program("nginx-light", "nginx", SERVER),
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
/// Purpose of some of them.
const SERVER: &str = "a server behind an endpoint in tests";
/// Title of the step with clients on this machine.
const OUTSIDE: &str = "AWS's clients from outside";
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
    /// Only these tests on the metal: monitor-library, store, network, guest, jail, monitor, images, platform, daemon or projects
    #[arg(long, value_name = "TESTS", conflicts_with = "fast", value_parser = Suite::named)]
    only: Option<Suite>,
    /// Only AWS's clients on this machine, against a daemon on the metal
    #[arg(long, conflicts_with_all = ["fast", "full", "only"])]
    outside: bool,
    /// With `--only`, after `--`: arguments of the tests' program, for example parts of their names
    #[arg(last = true, requires = "only")]
    arguments: Vec<String>,
    /// How many minutes the soak test takes, for `cargo xtask soak`.
    #[arg(skip)]
    soak_minutes: Option<u8>,
}

impl Options {
    /// Runs the checks.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        if let Some(only) = self.only {
            self.run_only(cache, only, &mut steps)?;
            return Ok(0);
        }
        if self.outside {
            let [python, environments] = python::NEEDS;
            let needs = [access::OPENSSL, python, environments];
            let (mut parts, images, _) =
                daemon::prepare(cache, &needs, &mut steps, || python::prepare(cache))?;
            steps.run(OUTSIDE, || outside::check(cache, &mut parts, &images))?;
            eprint!("{}", steps.table());
            return Ok(0);
        }
        let goal = if self.fast { Goal::Natively } else { Goal::OnMetal };
        let (cross, mut pending) = steps.run("set-up", || {
            let pending = first_run::prepare(cache, goal, &PEERS)?;
            // What comes from other machines is fetched before the long work.
            python::prepare(cache)?;
            aws_cli::prepare(cache)?;
            if !self.fast {
                metal::set_up(cache)?;
            }
            Ok((Cross::prepare(cache)?, pending))
        })?;
        let bases = (!self.fast).then(|| base::begin(cache));
        let foreign = self.check_natively(cache, &mut steps)?;
        steps.run("clippy (aarch64)", || {
            let mut cargo = cross.cargo(Link::Own)?;
            cargo.args(["clippy", "--all-targets", "--target", TARGET]);
            cargo.args(CROSS_PACKAGES.iter().flat_map(|package| ["--package", package]));
            command::run(cargo.args(["--", "-D", "warnings"]))
        })?;
        // All dependencies of the daemon are checked once more for the few lines of its store.
        if self.full || self.fast {
            steps.run("clippy (aarch64, with RocksDB)", || {
                let mut cargo = rocksdb::cross_cargo(cache, &cross)?;
                // The profile of the metal's programs: RocksDB is compiled with it already, or will be.
                cargo.args(["clippy", "--all-targets", "--profile", daemon::PROFILE, "--target", TARGET]);
                command::run(rocksdb::select(&mut cargo, daemon::PACKAGE).args(["--", "-D", "warnings"]))
            })?;
        }
        if let Some(bases) = bases {
            steps.run("parts of base images", || bases.finish())?;
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
            let (python, cli2) = (python::prepare(cache)?, aws_cli::prepare(cache)?);
            let mut cargo = toolchain::native(cache)?;
            cargo.env(PYTHON, python).env(CLI2, cli2);
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
        // All projects together take more time than all other tests.
        let suites: Vec<Suite> =
            SUITES.into_iter().filter(|suite| self.full || suite.name != suites::PROJECTS).collect();
        let mut built = self.build(cache, cross, (&suites, Some(foreign)), pending, steps)?;
        let processors: &[Cpu] =
            if metal::kvm_is_usable() { &[Cpu::NeoverseN1] } else { &[Cpu::NeoverseN1, Cpu::Max] };
        self.run_suites(cache, &built, (&suites, processors), steps)?;
        let images = built.images.as_ref().context("the suites with the daemon have base images")?;
        built.parts.add_script(daemon::CONFIGURE_NAME, daemon::CONFIGURE)?;
        steps.run(OUTSIDE, || outside::check(cache, &mut built.parts, images))
    }

    /// Runs the tests of one suite, with only what they need.
    fn run_only(&self, cache: &Cache, suite: Suite, steps: &mut Steps) -> Result<()> {
        let (cross, mut pending) = steps.run("set-up", || {
            let pending = first_run::prepare(cache, Goal::OnMetal, &[])?;
            metal::set_up(cache)?;
            Ok((Cross::prepare(cache)?, pending))
        })?;
        // As without `--only`: the metal gets the tests that this machine does not have or has skipped.
        let foreign = self
            .runs_foreign(&suite)
            .then(|| steps.run("tests of the library (native)", || Foreign::find(cache)?.run_here()));
        let foreign = foreign.transpose()?;
        let built = self.build(cache, &cross, (&[suite], foreign.as_ref()), &mut pending, steps)?;
        self.run_suites(cache, &built, (&[suite], &[Cpu::NeoverseN1]), steps)
    }

    /// Runs suites on the metal, on two boots at once if this machine has room for both.
    fn run_suites(
        &self,
        cache: &Cache,
        built: &Built,
        (suites, processors): (&[Suite], &[Cpu]),
        steps: &mut Steps,
    ) -> Result<()> {
        let emulated = if metal::kvm_is_usable() { None } else { Room::here() };
        let lanes = plan::lanes(suites, processors, emulated);
        let stop = Arc::new(AtomicBool::new(false));
        steps.run_with_inner("tests on the metal", || {
            let several = lanes.len() > 1;
            let run = |lane: &Lane| {
                let mut took = Vec::new();
                for boot in lane {
                    let result = self.boot(cache, built, (boot, processors), several, &stop, &mut took);
                    if result.is_err() {
                        // The other boots are stopped: their results would be lost.
                        stop.store(true, Ordering::Relaxed);
                        return (took, result);
                    }
                }
                (took, Ok(()))
            };
            let results: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = lanes.iter().map(|lane| scope.spawn(|| run(lane))).collect();
                threads.into_iter().map(|thread| thread.join()).collect()
            });
            let (mut took, mut result) = (Vec::new(), Ok(()));
            for lane in results {
                match lane {
                    Ok((times, own)) => {
                        took.extend(times);
                        result = first_failure(result, own);
                    }
                    Err(_) => result = first_failure(result, Err(anyhow!("a thread of xtask panicked"))),
                }
            }
            (took, result)
        })
    }

    /// Builds these suites, and the parts that they need on the metal.
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
            for (link, profile) in [(Link::Static, PROFILE), (Link::Dynamic, daemon::PROFILE)] {
                let linked = suites.iter().filter(|suite| suite.link == link).map(Suite::program);
                let (library, mut programs): (Vec<ProgramRequest<'_>>, Vec<ProgramRequest<'_>>) =
                    linked.partition(|program| program.executable == Executable::LibraryTest);
                for ProgramRequest { package, executable, name } in library {
                    parts.build(cache, cross, profile, (package, executable), name)?;
                }
                if link == Link::Dynamic && needs(&[System::Images, System::Daemon]) {
                    programs.push(images::BUILDER);
                }
                if link == Link::Dynamic && needs(&[System::Daemon]) {
                    programs.extend(daemon::PROGRAMS);
                }
                // Always the same packages, whatever is built of them: other packages ask for other features, with which
                // dependencies are compiled anew.
                let mut packages: Vec<&str> =
                    SUITES.iter().filter(|suite| suite.link == link).map(|suite| suite.package).collect();
                if link == Link::Dynamic {
                    packages.extend(daemon::PROGRAMS.map(|program| program.package));
                }
                parts.build_several(cache, cross, (link, profile), (&programs, &packages))?;
            }
            if needs(&[System::Daemon]) {
                golden::add(&mut parts)?;
            }
            match foreign {
                Some(foreign) => foreign.add(&mut parts),
                None => Ok(()),
            }
        })?;
        pending.tell_rest(cache);
        let images = match needs(&[System::Images, System::Daemon]) {
            true => Some(steps.run("base images", || {
                let images = Images::prepare(cache, cross, PROFILE, &mut parts)?;
                if needs(&[System::Daemon]) {
                    images.add_hostile(cache, cross, PROFILE)?;
                }
                Ok(images)
            })?),
            false => None,
        };
        let projects = match suites.iter().any(|suite| suite.name == suites::PROJECTS) {
            true => Some(steps.run("images of projects", || {
                let chosen = Project::chosen(self.full, &self.words())?;
                let made = Projects::prepare(cache, &chosen, &mut parts)?;
                Ok((chosen, made))
            })?),
            false => None,
        };
        Pending::all_built(cache)?;
        Ok(Built { parts, images, projects })
    }

    /// Runs the suites of one boot of the metal, and adds the time of each to `took`.
    fn boot(
        &self,
        cache: &Cache,
        built: &Built,
        (boot, processors): (&Boot, &[Cpu]),
        beside_others: bool,
        stop: &Arc<AtomicBool>,
        took: &mut Vec<(String, Duration)>,
    ) -> Result<()> {
        let folder = cache.run_folder()?;
        let metal = Metal::open(cache)?;
        let runs: Vec<Run> =
            boot.suites.iter().map(|suite| self.program(&metal, built, boot, suite, processors)).collect();
        let limit = if self.full { LIMIT_FULL } else { LIMIT };
        let script = folder.path().join(SUITES_NAME);
        fs::write(&script, script::text(&runs, limit))
            .context("cannot write the script that runs the tests")?;
        let mut command = words(Path::new("sh"), [metal.inputs().join(SUITES_NAME)]);
        let images = built.images.as_ref().filter(|_| boot.system.is_large());
        if images.is_some() {
            command = Images::with_catalogue(&metal, command);
        }
        let mut job = Job::new(Action::Run(command));
        job.emulated_host.cpu = boot.cpu;
        job.timeout = Some(limit.saturating_mul(u32::try_from(runs.len()).unwrap_or(u32::MAX)));
        job.stop = stop.clone();
        job.prefix = beside_others.then(|| boot.prefix());
        job.debian = boot.system != System::Small;
        if let Some(images) = images {
            images.give(&mut job);
        }
        if let Some((_, projects)) = built.projects.as_ref().filter(|_| boot.system.is_large()) {
            projects.give(&mut job);
        }
        built.parts.give(&metal, &mut job);
        job.inputs.push((script, SUITES_NAME.into()));
        let notes = folder.path().join(script::NOTES);
        job.outputs.push((script::NOTES.into(), notes.clone()));
        job.environment.push((ON_METAL.into(), "1".into()));
        if self.full {
            job.environment.push((FULL.into(), "1".into()));
        }
        if let Some(minutes) = self.soak_minutes {
            job.environment.push((soak::MINUTES.into(), minutes.to_string().into()));
        }
        let status = metal.run(job)?.status;
        let results = script::read(&notes)?;
        for result in &results {
            let title =
                runs.iter().find(|run| run.name == result.name).map_or(&result.name, |run| &run.title);
            took.push((title.clone(), result.time));
        }
        if let Some(failed) = results.iter().find(|result| result.status != 0) {
            bail!("the tests `{}` on the metal exited with status {}", failed.name, failed.status);
        }
        match status {
            0 if results.len() == runs.len() => Ok(()),
            _ => bail!(
                "{} of {} programs with tests ran on the metal (status {status})",
                results.len(),
                runs.len()
            ),
        }
    }

    /// The program and arguments of a suite.
    fn program(&self, metal: &Metal, built: &Built, boot: &Boot, suite: &Suite, processors: &[Cpu]) -> Run {
        let mut own = self.arguments.clone();
        if let Some((chosen, _)) = built.projects.as_ref().filter(|_| suite.name == suites::PROJECTS) {
            // Only what these need is there.
            own.retain(|word| word.starts_with('-'));
            own.push("--exact".to_owned());
            let names = chosen.iter().map(|project| project.name.as_str());
            let names = names.chain(self.words().is_empty().then_some(suites::NAMES_OF_THE_HOST));
            own.extend(names.map(|name| format!("{}{name}", suites::IN_PROJECTS)));
        }
        if suite.name == soak::SUITE {
            let soak = (self.only.is_none() && !self.full).then_some(soak::TEST);
            let left_out = [suites::IN_PROJECTS].into_iter().chain(soak);
            own.extend(left_out.flat_map(|name| ["--skip", name]).map(str::to_owned));
        }
        let threads = format!("--test-threads={}", suite.at_once);
        let part = suite.part(boot.cpu, self.full).iter().copied();
        let arguments = [threads.as_str()].into_iter().chain(part).chain(own.iter().map(String::as_str));
        let words = if self.runs_foreign(suite) {
            Foreign::words(metal, suite.name)
        } else {
            words(&metal.inputs().join(suite.name), arguments)
        };
        Run { name: suite.name.into(), title: boot.title(suite, processors), words }
    }

    /// The parts of names among the arguments of the tests' program.
    fn words(&self) -> Vec<&str> {
        let words = self.arguments.iter().map(String::as_str);
        words.filter(|word| !word.starts_with('-')).collect()
    }

    /// Whether only those tests of a suite run on the metal that do not run on this machine. Arguments choose among all.
    fn runs_foreign(&self, suite: &Suite) -> bool {
        suite.name == suites::FOREIGN && self.arguments.is_empty()
    }

    fn fullness(&self, cargo: &mut Command) {
        if self.full {
            cargo.env(FULL, "1");
        }
    }
}

/// The parts that were built for the metal.
struct Built {
    parts: Parts,
    images: Option<Images>,
    /// The projects that run, and what they need.
    projects: Option<(Vec<Project>, Projects)>,
}

/// Selects all packages, with optional ones that compile without RocksDB.
fn workspace(cargo: &mut Command) -> &mut Command {
    cargo.args(["--workspace", "--features", &FEATURES.join(",")])
}

/// The failure that came first if two jobs ended: the other one's is only that it was stopped.
fn first_failure(before: Result<()>, after: Result<()>) -> Result<()> {
    match (before, after) {
        (Err(before), Err(after)) if is_stopped(&before) => Err(after),
        (Err(before), _) => Err(before),
        (Ok(()), after) => after,
    }
}

fn is_stopped(error: &anyhow::Error) -> bool {
    error.downcast_ref::<metal::Stopped>().is_some()
}
