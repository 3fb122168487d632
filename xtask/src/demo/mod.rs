//! `cargo xtask demo`: from a bare checkout to a daemon that has built an image and run microVMs of it through all states,
//! with the time of each step.
//!
//! * `demo.sh` – the steps on the metal, with the daemon's own client
//! * [`requests`] – the steps that are run on this machine, with AWS's client
//! * [`keep`] – clients for a user who continues in a shell (`--keep`)

mod keep;
mod requests;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use crate::access::{self, Access, Ports};
use crate::cache::Cache;
use crate::daemon;
use crate::images::Images;
use crate::metal::options::EmulatedHostOptions;
use crate::metal::{self, Action, Job, Metal};
use crate::parts::Parts;
use crate::progress::{self, Steps};
use crate::python;

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
    /// The port on which --keep makes it reachable for AWS's clients
    #[arg(long, value_name = "PORT", default_value_t = 7480, requires = "keep")]
    aws_port: u16,
}

impl Options {
    /// Runs the demo.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        let [python, environments] = python::NEEDS;
        let needs = [access::OPENSSL, python, environments];
        let (mut parts, images, python) =
            daemon::prepare(cache, &needs, &mut steps, || python::prepare(cache))?;
        let (access, aws) = steps.run("access from this machine", || {
            let access = Access::prepare(cache, "demo", self.ports()?)?;
            access.give(&mut parts)?;
            if self.keep {
                keep::prepare(cache, &access, &python, &mut parts)?;
            }
            Ok((access, python.with_file_name("aws")))
        })?;
        parts.add_script(SCRIPT_NAME, SCRIPT)?;
        let finished = steps.run("demo", || self.run_on_metal(cache, (&parts, &images), (&access, &aws)))?;
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

    /// The daemon's ports: those that the user chose, or any that are free.
    fn ports(&self) -> Result<Ports> {
        match self.keep {
            true => Ok(Ports { api: self.port, endpoints: self.endpoint_port, aws: self.aws_port }),
            false => Ports::free(),
        }
    }

    fn run_on_metal(
        &self,
        cache: &Cache,
        (parts, images): (&Parts, &Images),
        (access, aws): (&Access, &Path),
    ) -> Result<metal::Finished> {
        let metal = Metal::open(cache)?;
        let mut job = Job::new(Action::Run(Images::words(&metal, SCRIPT_NAME, &[])));
        job.emulated_host = self.emulated_host.settings();
        images.give(&mut job);
        parts.give(&metal, &mut job);
        access.forward(&mut job);
        if self.keep {
            job.timeout = None;
        }
        let (requests, stdin) = UnixStream::pair().context("cannot make a socket pair")?;
        job.stdin = Some(Arc::new(stdin));
        let finished = thread::scope(|scope| {
            let serving = scope.spawn(|| requests::serve(requests, access, aws));
            let finished = metal.run(job);
            // The job has closed its end, so this ends.
            let served = serving.join().map_err(|_| anyhow!("a thread of xtask panicked"))?;
            finished.and_then(|finished| served.map(|()| finished))
        })?;
        match finished.status {
            0 => Ok(finished),
            status => bail!("the demo exited with status {status}"),
        }
    }
}
