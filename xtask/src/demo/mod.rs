//! `cargo xtask demo`: from a bare checkout to a daemon that has built an image and run microVMs of it through all states,
//! with the time of each step.
//!
//! * `demo.sh` – the steps on the metal, with the daemon's own client
//! * [`access`] – certificate, key and client for a user who continues in a shell (`--keep`)

mod access;

use anyhow::{Result, bail};
use clap::Args;

use crate::base;
use crate::cache::Cache;
use crate::daemon;
use crate::first_run::{self, Goal, Pending};
use crate::images::Images;
use crate::kernel;
use crate::metal::options::EmulatedHostOptions;
use crate::metal::{self, Action, Job, Metal};
use crate::packages::Need;
use crate::parts::{Executable, Parts};
use crate::progress::{self, Steps};
use crate::toolchain::Cross;
use access::Access;

const SCRIPT: &str = include_str!("demo.sh");
const SCRIPT_NAME: &str = "demo.sh";

/// Boots the metal with the daemon, builds an image, and runs, suspends and resumes microVMs of it through the API.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    emulated_host: EmulatedHostOptions,
    /// Leave the daemon running until Ctrl-C, and say how to use it from another shell
    #[arg(long)]
    keep: bool,
    /// The port on which --keep makes it reachable, on the loopback address
    #[arg(long, value_name = "PORT", default_value_t = 7443, requires = "keep")]
    port: u16,
    /// The port on which --keep makes the endpoints of its microVMs reachable
    #[arg(long, value_name = "PORT", default_value_t = 7444, requires = "keep")]
    endpoint_port: u16,
}

impl Options {
    /// Runs the demo.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        let (cross, mut pending) = steps.run("set-up", || {
            let more: &[Need] = if self.keep { &[access::OPENSSL] } else { &[] };
            let pending = first_run::prepare(cache, Goal::OnMetal, more)?;
            metal::set_up(cache)?;
            Ok((Cross::prepare(cache)?, pending))
        })?;
        let bases = base::begin(cache);
        let mut parts = Parts::new(cache)?;
        steps.run("build for the metal", || {
            parts.build(
                cache,
                &cross,
                "metal",
                ("hearth-vmm", Executable::Binary("hearth-vmm")),
                "hearth-vmm",
            )?;
            daemon::add(cache, &cross, daemon::PROFILE, &mut parts)
        })?;
        pending.tell_rest(cache);
        steps.run("guest kernel", || kernel::prepare(cache))?;
        pending.tell_rest(cache);
        let images = steps.run("base image", || {
            bases.finish()?;
            Images::prepare(cache, &cross, "metal", &mut parts)
        })?;
        Pending::all_built(cache)?;
        let prepare = || Access::prepare(cache, self.port, self.endpoint_port);
        let access = self.keep.then(|| steps.run("access from this machine", prepare)).transpose()?;
        parts.add_script(SCRIPT_NAME, SCRIPT)?;
        parts.add_script(daemon::CONFIGURE_NAME, daemon::CONFIGURE)?;
        if let Some(access) = &access {
            access.give(&mut parts)?;
        }
        let finished = steps.run("demo", || self.run_on_metal(cache, &parts, &images))?;
        eprint!("{}", steps.table());
        progress::note(&format!(
            "the metal was up after {}, the demo took {} there",
            progress::clock(finished.boot),
            progress::clock(finished.command)
        ));
        if !self.keep {
            progress::note("to go on by yourself: cargo xtask demo --keep");
        }
        Ok(0)
    }

    fn run_on_metal(&self, cache: &Cache, parts: &Parts, images: &Images) -> Result<metal::Finished> {
        let metal = Metal::open(cache)?;
        let mut job = Job::new(Action::Run(Images::words(&metal, SCRIPT_NAME, &[])));
        job.emulated_host = self.emulated_host.settings();
        images.give(&mut job);
        parts.give(&metal, &mut job);
        if self.keep {
            job.timeout = None;
            job.forwards.push((self.port, access::METAL_PORT));
            job.forwards.push((self.endpoint_port, self.endpoint_port));
        }
        let finished = metal.run(job)?;
        match finished.status {
            0 => Ok(finished),
            status => bail!("the demo exited with status {status}"),
        }
    }
}
