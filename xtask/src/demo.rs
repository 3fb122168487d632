//! `cargo xtask demo`: from a bare checkout to a microVM that has booted, with what it took.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::kernel;
use crate::metal::options::MachineOptions;
use crate::metal::{self, Action, Job, Metal};
use crate::parts::{Parts, words};
use crate::progress::{self, Steps};
use crate::test::announce_first_run;
use crate::toolchain::Cross;

/// What the demo does on the metal: a microVM with two vCPUs and every device that needs no set-up of the
/// host's network, whose guest looks around, writes to its disk, tells what it found and powers off.
const SCRIPT: &str = r#"
set -e
cd "$HEARTH_OUT"
truncate -s 64M demo.disk
: > demo.overlay
"$HEARTH_VMM" boot --kernel "$HEARTH_GUEST_KERNEL" --initrd "$HEARTH_GUEST_INITRD" \
    --vcpus 2 --memory 256 --disk demo.disk,overlay=demo.overlay,serial=demo --vsock demo.vsock --balloon 16 --rng \
    --cmdline 'console=ttyS0 quiet panic=-1 hearth.test=demo'
rm -f demo.disk demo.overlay
"#;

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
        let script = parts.path("demo.sh");
        fs::write(&script, SCRIPT).context("writing the demo's script")?;
        parts.add(script, "demo.sh");
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
        let script = metal.inputs().join("demo.sh");
        let mut job = Job::new(Action::Run(words(Path::new("sh"), [script])));
        job.machine = self.machine.machine();
        parts.give(&metal, &mut job);
        let finished = metal.run(job)?;
        match finished.status {
            0 => Ok(finished),
            status => bail!("the microVM's VMM exited with status {status}"),
        }
    }
}
