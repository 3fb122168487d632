//! `cargo xtask bench`: measurements on the metal, by default in icount mode, where an instruction takes a nanosecond
//! and figures repeat however busy this machine is. Measurements without microVMs run on this machine, in real time: [`api`], [`proxy`].

mod api;
mod proxy;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::base;
use crate::cache::Cache;
use crate::daemon;
use crate::first_run::{self, Goal};
use crate::images::{self, Images};
use crate::kernel;
use crate::metal::options::EmulatedHostOptions;
use crate::metal::{self, Action, Job, Metal};
use crate::parts::{Executable, Parts, words};
use crate::progress::Steps;
use crate::toolchain::{Cross, Link};

/// The file to which a bench writes its figures.
const FIGURES: &str = "vmm-bench.json";

/// Measures.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Vmm(Vmm),
    Kernel(KernelBench),
    Image(ImageBench),
    Api(api::Api),
    Touch(Touch),
    Proxy(proxy::Proxy),
}

/// Boot, devices, snapshots and memory of the VMM, beside Firecracker where its binary is given.
///
/// Snapshots of an 8 GiB guest are measured where the metal has room for them: --memory 12288.
#[derive(Args, Debug)]
struct Vmm {
    #[command(flatten)]
    emulated_host: EmulatedHostOptions,
    /// Measure in real time instead of instructions
    #[arg(long, conflicts_with = "icount")]
    real_time: bool,
    /// A static aarch64 Firecracker to measure beside
    #[arg(long, value_name = "PATH")]
    firecracker: Option<PathBuf>,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Arguments for vmm-bench itself
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Debian's packaged kernel beside the tuned one as a guest's: boot, snapshot, working set of the idle guest OS.
#[derive(Args, Debug)]
struct KernelBench {
    #[command(flatten)]
    emulated_host: EmulatedHostOptions,
    /// Arguments for kernel-bench itself
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// What a minimal app's image takes, without burst and with AWS's, and how soon its first requests are answered.
#[derive(Args, Debug)]
struct ImageBench {
    #[command(flatten)]
    emulated_host: EmulatedHostOptions,
}

/// What a guest's first access to a page costs, by what it does first and what it does then: an experiment.
#[derive(Args, Debug)]
struct Touch {
    #[command(flatten)]
    emulated_host: EmulatedHostOptions,
}

/// Measures accesses to pages, and traces them as well.
const TOUCHES: &str = r#"
mount -t tracefs tracefs /sys/kernel/tracing 2> /dev/null && trap 'umount /sys/kernel/tracing' EXIT
"$HEARTH_IN/touch-bench"
"#;

/// Builds the example `counter` and runs it. Times are curl's, from its first packet to the end of the response.
const IMAGES: &str = r#"#!/bin/sh
set -e
cd "$HEARTH_OUT"
export HEARTH_WORK="$HEARTH_OUT/work"
for burst in 1 4; do
    "$HEARTH_IMAGE_BUILDER" build --quiet --artifact "$HEARTH_EXAMPLES/counter" --out image$burst --memory 512 --burst $burst \
        --hooks-port 8080 --ready --validate --egress none
    for round in 1 2 3; do
        "$HEARTH_IMAGE_BUILDER" run image$burst --forward 8080 -- sh -c '
            for request in first second; do
                curl -s -o /dev/null -w "$request request: %{time_total} s\n" http://127.0.0.1:8080/
            done'
    done
done
rm -rf image1 image4 work
"#;

/// Measures one kernel after the other.
const KERNELS: &str = r#"
for name in debian tuned; do
    "$HEARTH_IN/kernel-bench" --name $name --kernel "$HEARTH_IN/$name.Image" --initramfs "$HEARTH_IN/$name.cpio" "$@" || exit
done
"#;

impl Options {
    /// Runs the bench; the exit status is that of the measuring program.
    pub(crate) fn run(self, cache: &Cache) -> Result<u8> {
        match self.what {
            What::Vmm(vmm) => vmm.run(cache),
            What::Kernel(kernel) => kernel.run(cache),
            What::Image(image) => image.run(cache),
            What::Api(api) => api.run(cache),
            What::Touch(touch) => touch.run(cache),
            What::Proxy(proxy) => proxy.run(cache),
        }
    }
}

/// Common preparation of all benches: the metal's tools, and the compiler for it.
fn set_up(cache: &Cache, steps: &mut Steps) -> Result<Cross> {
    steps.run("set-up", || {
        first_run::prepare(cache, Goal::OnMetal, &[])?;
        metal::set_up(cache)?;
        Cross::prepare(cache)
    })
}

/// Runs a script with its arguments on the metal, where time is counted in instructions, and prints the times of the steps.
fn measure(
    cache: &Cache,
    mut steps: Steps,
    emulated_host: &EmulatedHostOptions,
    parts: &Parts,
    (script, arguments): (&str, Vec<OsString>),
) -> Result<u8> {
    let status = steps.run("measure", || {
        let metal = Metal::open(cache)?;
        let script = ["-c", script, "sh"].map(OsString::from);
        let mut job = Job::new(Action::Run(words(Path::new("sh"), script.into_iter().chain(arguments))));
        job.emulated_host = emulated_host.settings();
        job.emulated_host.icount = true;
        parts.give(&metal, &mut job);
        Ok(metal.run(job)?.status)
    })?;
    eprint!("{}", steps.table());
    Ok(status)
}

impl KernelBench {
    fn run(self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        let cross = set_up(cache, &mut steps)?;
        let mut parts = Parts::new(cache)?;
        for (name, kernel) in [("debian", base::Kernel::Debian), ("tuned", base::Kernel::Tuned)] {
            let catalogue =
                steps.run(&format!("base image ({name})"), || base::prepare_with(cache, &cross, kernel))?;
            parts.add(catalogue.join("1/Image"), &format!("{name}.Image"));
            parts.add(catalogue.join("1/initramfs.cpio"), &format!("{name}.cpio"));
        }
        steps.run("build for the metal", || {
            let vmm = ("hearth-vmm", Executable::Binary("hearth-vmm"));
            parts.build(cache, &cross, "metal", vmm, "hearth-vmm")?;
            let bench = ("hearth-benches", Executable::Binary("kernel-bench"));
            parts.build(cache, &cross, "metal", bench, "kernel-bench")
        })?;
        measure(cache, steps, &self.emulated_host, &parts, (KERNELS, self.arguments))
    }
}

impl ImageBench {
    fn run(self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        let cross = set_up(cache, &mut steps)?;
        let mut parts = Parts::new(cache)?;
        let images = steps.run("build for the metal", || {
            parts.build_all(cache, &cross, "metal")?;
            parts.build_several(
                cache,
                &cross,
                (Link::Dynamic, daemon::PROFILE),
                (&[images::BUILDER], &[]),
            )?;
            Images::prepare(cache, &cross, "metal", &mut parts)
        })?;
        parts.add_script("images.sh", IMAGES)?;
        let status = steps.run("measure", || {
            let metal = Metal::open(cache)?;
            let mut job = Job::new(Action::Run(Images::words(&metal, "images.sh", &[])));
            job.emulated_host = self.emulated_host.settings();
            job.emulated_host.icount = true;
            images.give(&mut job);
            parts.give(&metal, &mut job);
            Ok(metal.run(job)?.status)
        })?;
        eprint!("{}", steps.table());
        Ok(status)
    }
}

impl Touch {
    fn run(self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        let cross = set_up(cache, &mut steps)?;
        let mut parts = Parts::new(cache)?;
        steps.run("build for the metal", || {
            let bench = ("hearth-benches", Executable::Binary("touch-bench"));
            parts.build(cache, &cross, "metal", bench, "touch-bench")
        })?;
        measure(cache, steps, &self.emulated_host, &parts, (TOUCHES, Vec::new()))
    }
}

impl Vmm {
    fn run(self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        let cross = set_up(cache, &mut steps)?;
        let mut parts = Parts::new(cache)?;
        let image = steps.run("guest kernel", || kernel::prepare(cache))?;
        parts.add(image, "Image");
        steps.run("build for the metal", || {
            parts.build_all(cache, &cross, "release")?;
            parts.build(
                cache,
                &cross,
                "release",
                ("hearth-benches", Executable::Binary("vmm-bench")),
                "vmm-bench",
            )
        })?;
        let status = steps.run("measure", || self.measure(cache, parts))?;
        eprint!("{}", steps.table());
        Ok(status)
    }

    fn measure(self, cache: &Cache, mut parts: Parts) -> Result<u8> {
        let metal = Metal::open(cache)?;
        let mut arguments = self.arguments;
        if let Some(firecracker) = self.firecracker {
            arguments.extend(["--firecracker".into(), metal.inputs().join("firecracker").into_os_string()]);
            parts.add(firecracker, "firecracker");
        }
        let mut job = Job::new(Action::Run(words(&metal.inputs().join("vmm-bench"), arguments)));
        job.emulated_host = self.emulated_host.settings();
        job.emulated_host.icount = !self.real_time;
        parts.give(&metal, &mut job);
        let figures = parts.path(FIGURES);
        job.outputs.push((FIGURES.into(), figures.clone()));
        let finished = metal.run(job)?;
        if figures.exists() {
            let text = fs::read_to_string(&figures).context("the figures are not text")?;
            println!("{}", text.trim_end());
            if let Some(target) = &self.json {
                fs::write(target, text).with_context(|| format!("cannot write {}", target.display()))?;
            }
        }
        Ok(finished.status)
    }
}
