//! `cargo xtask demo`: from a bare checkout to an image built from a Dockerfile and microVMs that run it, with what it took.

use anyhow::{Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::images::Images;
use crate::kernel;
use crate::metal::options::MachineOptions;
use crate::metal::{self, Action, Job, Metal};
use crate::parts::Parts;
use crate::progress::{self, Steps};
use crate::test::announce_first_run;
use crate::toolchain::Cross;

/// What the demo does on the metal: it builds the example `counter` and runs two microVMs of it, one after the other. Both go
/// on from the same snapshot.
const SCRIPT: &str = r#"#!/bin/sh
set -e
cd "$HEARTH_OUT"
export HEARTH_WORK="$HEARTH_OUT/work"
"$HEARTH_IMAGE_BUILDER" build --artifact "$HEARTH_EXAMPLES/counter" --out counter.image --name counter \
    --memory 512 --burst 1 --hooks-port 8080 --ready --validate
for microvm in first second; do
    echo "--- the $microvm microVM"
    "$HEARTH_IMAGE_BUILDER" run counter.image --forward 8080 -- sh -c '
        for path in / / /loopback; do
            echo "GET $path: $(curl -s "http://127.0.0.1:8080$path")"
        done'
done
rm -rf counter.image work
"#;

/// Builds everything, an image from an example, and runs microVMs of it on the ARM64 metal.
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
        let images = steps.run("base images", || Images::prepare(cache, &cross, "metal", &mut parts))?;
        parts.add_script("demo.sh", SCRIPT)?;
        let finished =
            steps.run("build an image, run it twice", || self.run_on_metal(cache, &parts, &images))?;
        eprint!("{}", steps.table());
        progress::note(&format!(
            "the metal was up after {}, the demo took {}",
            progress::clock(finished.boot),
            progress::clock(finished.command)
        ));
        Ok(0)
    }

    fn run_on_metal(&self, cache: &Cache, parts: &Parts, images: &Images) -> Result<metal::Finished> {
        let metal = Metal::open(cache)?;
        let mut job = Job::new(Action::Run(Images::words(&metal, "demo.sh", &[])));
        job.machine = self.machine.machine();
        images.give(&mut job);
        parts.give(&metal, &mut job);
        let finished = metal.run(job)?;
        match finished.status {
            0 => Ok(finished),
            status => bail!("the demo exited with status {status}"),
        }
    }
}
