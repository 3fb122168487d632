//! `vmm-bench`: measures the monitor on the metal, and compares it with Firecracker if its binary is given.
//!
//! Both monitors run the same kernel and initramfs with the same memory, taking turns, and the
//! same guest program answers both. On emulated metal, only instruction counting gives meaningful figures:
//! `cargo xtask bench vmm` runs this program there.
//!
//! * [`hearth`], [`firecracker`] – a microVM of each kind behind one trait, [`vm::Monitor`]; [`http`] – the latter's API
//! * [`measure`] – the measurements; [`memory`], [`slow_disk`] – their resources on the host

#![forbid(unsafe_code)]

mod firecracker;
mod hearth;
mod http;
mod measure;
mod memory;
mod slow_disk;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use hearth_vmm_jail::JailConfig;

use measure::Plan;
use vm::{Files, Monitor};

/// Measures the monitor on the metal
#[derive(Debug, Parser)]
struct Options {
    /// A Firecracker to measure beside
    #[arg(long, value_name = "PATH")]
    firecracker: Option<PathBuf>,

    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    rounds: usize,

    /// Guest memory in MiB, where a measurement does not say
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u64,

    /// Measure only what has this in its name; may be given more than once
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,

    /// Where the figures go as JSON; $HEARTH_OUT/vmm-bench.json unless given
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Show the steps of Hearth's saving and restoring
    #[arg(long)]
    steps: bool,

    /// Hearth's jail; walls can be left out to see what they cost
    #[command(flatten)]
    jail: JailConfig,
}

fn main() -> ExitCode {
    hearth_benches::report::exit("vmm-bench", run(Options::parse()))
}

fn run(options: Options) -> Result<()> {
    let files = Files::from_environment()?;
    let hearth = hearth::Hearth::new(files.clone(), options.jail, options.steps)?;
    let mut monitors: Vec<&dyn Monitor> = vec![&hearth];
    let firecracker = options.firecracker.map(|binary| firecracker::Firecracker::new(binary, files));
    monitors.extend(firecracker.as_ref().map(|firecracker| firecracker as &dyn Monitor));
    let plan = Plan { rounds: options.rounds, memory_mib: options.memory, only: &options.only };
    let results = measure::all(&monitors, &plan)?;
    eprint!("{}", hearth_benches::report::table(&results.figures));
    let json =
        options.json.or_else(|| Some(PathBuf::from(std::env::var_os("HEARTH_OUT")?).join("vmm-bench.json")));
    if let Some(path) = json {
        hearth_benches::report::save(&results.figures, &path)?;
    }
    if results.failed {
        bail!("some figures could not be taken; the reasons stand above");
    }
    Ok(())
}
