//! `cargo xtask test`: everything the project checks, in the order of what fails fastest. The first failure ends it.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::base;
use crate::cache::Cache;
use crate::command::{self, find_program};
use crate::daemon;
use crate::fuzz;
use crate::images::Images;
use crate::kernel;
use crate::metal::{self, Action, Cpu, Job, Metal};
use crate::packages::{self, Need, library, program};
use crate::parts::{Executable, Parts, words};
use crate::progress::{self, Steps};
use crate::rocksdb;
use crate::toolchain::{self, Cross, Link, TARGET};
use crate::tools::Tool;

/// All packages, with what is optional and compiles without RocksDB.
const WORKSPACE: [&str; 3] = ["--workspace", "--features", "hearth-benches/hostd"];
/// The packages with code that only aarch64 compiles.
const CROSS_PACKAGES: [&str; 3] = ["hearth-guest", "hearth-vmm", "hearth-test-guest"];
/// Tells tests to take their time.
const FULL: &str = "HEARTH_FULL";
/// Tells tests that every wall of the jail must hold here, and that none may be skipped.
const ON_METAL: &str = "HEARTH_METAL";
/// The monitor's end-to-end tests.
const MONITOR: &str = "e2e";
/// Those of them that depend on what the processor has, beside the smallest one; with `--full` all are run on both.
const OF_PROCESSOR: [&str; 7] =
    ["clocks::", "clones::", "cpus::", "diffs::", "goldens::", "lifecycle::", "snapshots::"];
/// The tests of networks, which need Debian's programs.
const NETWORK: &str = "network";
/// The tests that build images, which need base images and more memory.
const IMAGES: &str = "images-e2e";
/// The tests of the daemon's store on disk, which need the C++ library.
const STORE: &str = "rocks";
/// The tests of the daemon, which need all of that.
const DAEMON: &str = "hostd-e2e";
/// What native tests run beside what they test: servers and clients that others have made.
const PEERS: [Need; 8] = [
    program("docker-registry", "docker-registry", "the registry that images are pulled from in tests"),
    program("nftables", "nft", "the rules of guests' networks"),
    program("pebble", "pebble", "the ACME server that issues certificates in tests"),
    program("bind9-dnsutils", "dig", "asks for names in tests"),
    program("curl", "curl", "a client of endpoints in tests"),
    program("chromium", "chromium", "the browser behind the relay in tests"),
    library("python3-grpcio", "a client of endpoints in tests"),
    library("python3-websockets", "a client of endpoints in tests"),
];
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
}

impl Options {
    /// Runs the checks.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        announce_first_run(cache, !self.fast);
        let cross = steps.run("set-up", || {
            base::set_up(cache)?;
            packages::ensure(cache, &PEERS)?;
            if !self.fast {
                metal::set_up(cache)?;
            }
            Cross::prepare(cache)
        })?;
        self.check_natively(cache, &mut steps)?;
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
            self.check_on_metal(cache, &cross, &mut steps)?;
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

    fn check_natively(&self, cache: &Cache, steps: &mut Steps) -> Result<()> {
        steps.run("format", || command::run(toolchain::native(cache)?.args(["fmt", "--all", "--check"])))?;
        steps.run("clippy (native)", || {
            let mut cargo = toolchain::native(cache)?;
            cargo.arg("clippy").args(WORKSPACE).args(["--all-targets", "--", "-D", "warnings"]);
            command::run(&mut cargo)
        })?;
        steps.run("tests (native)", || {
            let mut cargo = toolchain::native(cache)?;
            if find_program("cargo-nextest").is_some() {
                cargo.args(["nextest", "run"]);
            } else {
                cargo.arg("test");
            }
            cargo.args(WORKSPACE);
            self.fullness(&mut cargo);
            command::run(&mut cargo)
        })
    }

    fn check_on_metal(&self, cache: &Cache, cross: &Cross, steps: &mut Steps) -> Result<()> {
        let mut parts = Parts::new(cache)?;
        let image = steps.run("guest kernel", || kernel::prepare(cache))?;
        parts.add(image, "Image");
        steps.run("build for the metal", || {
            parts.build_all(cache, cross, "metal")?;
            parts.add_file_system(cache)?;
            parts.build(cache, cross, "metal", ("hearth-vmm", Executable::Test("jail")), "jail")?;
            parts.build(cache, cross, "metal", ("hearth-vmm", Executable::Test("e2e")), MONITOR)?;
            parts.build(cache, cross, "metal", ("hearth-host", Executable::Test("network")), NETWORK)?;
            parts.add_guest_os(cache, cross, "metal")?;
            parts.build(cache, cross, "metal", ("hearth-guest", Executable::Test("e2e")), "guest-e2e")?;
            daemon::add(cache, cross, (daemon::PROFILE, "metal"), &mut parts)?;
            let store = (daemon::PACKAGE, Executable::Test(STORE));
            parts.build_with_rocksdb(cache, cross, daemon::PROFILE, store, STORE)
        })?;
        let images = steps.run("base images", || Images::prepare(cache, cross, "metal", &mut parts))?;
        steps.run("builds for the metal that need them", || {
            parts.build(cache, cross, "metal", ("hearth-image-builder", Executable::Test("e2e")), IMAGES)?;
            parts.build_with_rocksdb(
                cache,
                cross,
                daemon::PROFILE,
                (daemon::PACKAGE, Executable::Test("e2e")),
                DAEMON,
            )
        })?;
        let processors = if metal::kvm_is_usable() {
            vec![("this machine", Cpu::NeoverseN1)]
        } else {
            vec![("Neoverse N1", Cpu::NeoverseN1), ("max", Cpu::Max)]
        };
        // Nothing there depends on the processor.
        steps.run("hearthd's store on the metal", || self.on_metal(cache, &parts, Cpu::NeoverseN1, STORE))?;
        steps.run("networks on the metal", || self.on_metal(cache, &parts, Cpu::NeoverseN1, NETWORK))?;
        steps.run("guest OS on the metal", || self.on_metal(cache, &parts, Cpu::NeoverseN1, "guest-e2e"))?;
        for (name, cpu) in processors {
            steps
                .run(&format!("jail on the metal ({name})"), || self.on_metal(cache, &parts, cpu, "jail"))?;
            steps
                .run(&format!("end-to-end tests ({name})"), || self.on_metal(cache, &parts, cpu, MONITOR))?;
        }
        steps.run("images on the metal", || self.with_images(cache, &parts, &images, IMAGES))?;
        steps.run("hearthd on the metal", || self.with_images(cache, &parts, &images, DAEMON))
    }

    /// Runs a test binary on a metal of its own.
    fn on_metal(&self, cache: &Cache, parts: &Parts, cpu: Cpu, test: &str) -> Result<()> {
        let metal = Metal::open(cache)?;
        let of_processor: &[&str] =
            if test == MONITOR && cpu == Cpu::Max && !self.full { &OF_PROCESSOR } else { &[] };
        let arguments = ["--test-threads=1"].iter().chain(of_processor).copied();
        let mut job = Job::new(Action::Run(words(&metal.inputs().join(test), arguments)));
        job.machine.cpu = cpu;
        job.debian = [NETWORK, STORE].contains(&test);
        self.run_tests(metal, job, parts, test)
    }

    /// Runs tests that build images.
    fn with_images(&self, cache: &Cache, parts: &Parts, images: &Images, test: &str) -> Result<()> {
        let metal = Metal::open(cache)?;
        let mut job = Job::new(Action::Run(Images::words(&metal, test, &["--test-threads=1"])));
        images.give(&mut job);
        self.run_tests(metal, job, parts, test)
    }

    fn run_tests(&self, metal: Metal, mut job: Job, parts: &Parts, test: &str) -> Result<()> {
        parts.give(&metal, &mut job);
        job.environment.push((ON_METAL.into(), "1".into()));
        if self.full {
            job.environment.push((FULL.into(), "1".into()));
        }
        match metal.run(job)?.status {
            0 => Ok(()),
            status => bail!("the tests `{test}` on the metal exited with status {status}"),
        }
    }

    fn fullness(&self, cargo: &mut Command) {
        if self.full {
            cargo.env(FULL, "1");
        }
    }
}

/// Says at the beginning of a first run how long it takes.
pub(crate) fn announce_first_run(cache: &Cache, with_metal: bool) {
    if with_metal && !kernel::is_built(cache) {
        progress::note("first run: brings tools (some 400 MB), compiles everything and a guest kernel;");
        progress::note("expect half an hour on 2 cores. Later runs find it all in the cache:");
        progress::note(&cache.path("").display().to_string());
    }
}
