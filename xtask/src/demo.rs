//! `cargo xtask demo`: from a bare checkout to a microVM that has booted, with what it took.

use anyhow::{Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::kernel;
use crate::metal::options::MachineOptions;
use crate::metal::{self, Action, Job, Metal};
use crate::parts::{Parts, words};
use crate::progress::{self, Steps};
use crate::test::announce_first_run;
use crate::toolchain::Cross;

/// Builds everything and boots a microVM on the ARM64 metal.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    machine: MachineOptions,
}

impl Options {
    /// Runs the demo.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        announce_first_run(cache, true);
        let cross = steps.run("set-up", || {
            metal::set_up(cache)?;
            Cross::prepare(cache)
        })?;
        let mut parts = Parts::new(cache)?;
        let image = steps.run("guest kernel", || kernel::prepare(cache))?;
        parts.add(image, "Image");
        steps.run("build for the metal", || parts.build_all(cache, &cross, "metal"))?;
        let finished = steps.run("boot a microVM", || self.boot(cache, &parts))?;
        eprint!("{}", steps.table());
        progress::note(&format!(
            "the metal was up after {}, the microVM ran for {}",
            progress::clock(finished.boot),
            progress::clock(finished.command)
        ));
        Ok(0)
    }

    fn boot(&self, cache: &Cache, parts: &Parts) -> Result<metal::Finished> {
        let metal = Metal::open(cache)?;
        let inputs = metal.inputs();
        let kernel = inputs.join("Image");
        let initrd = inputs.join("test-guest.cpio");
        let mut arguments =
            vec!["boot".into(), "--kernel".into(), kernel.into(), "--initrd".into(), initrd.into()];
        arguments.extend(
            ["--memory", "256", "--cpus", "2", "--cmdline", "test=demo"]
                .map(Into::<std::ffi::OsString>::into),
        );
        let mut job = Job::new(Action::Run(words(&inputs.join("hearth-vmm"), arguments)));
        job.machine = self.machine.machine();
        parts.give(&metal, &mut job);
        let finished = metal.run(job)?;
        match finished.status {
            0 => Ok(finished),
            status => bail!("the microVM's VMM exited with status {status}"),
        }
    }
}
