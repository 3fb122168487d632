//! `vmm-bench`: measures the monitor on the metal, beside Firecracker where its binary is given.
//!
//! Both monitors run the same kernel and initramfs with the same memory, one after the other in turn, and the
//! same guest program answers both. On emulated metal only instruction counting gives figures worth keeping:
//! `cargo xtask bench vmm` runs this there.
//!
//! * [`hearth`], [`firecracker`] – a microVM of each kind behind one trait, [`vm::Monitor`]
//! * [`measure`] – the measurements
//! * [`report`] – the table and the JSON

mod firecracker;
mod hearth;
mod measure;
mod report;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use hearth_vmm::jail::JailConfig;

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

    /// Guest memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u64,

    /// Measure only what has this in its name
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// Where the figures go as JSON; $HEARTH_OUT/vmm-bench.json unless given
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Hearth's jail; walls can be left out to see what they cost
    #[command(flatten)]
    jail: JailConfig,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    let files = Files::from_environment(options.memory)?;
    let hearth = hearth::Hearth::new(files.clone(), options.jail)?;
    let mut monitors: Vec<&dyn Monitor> = vec![&hearth];
    let firecracker = options.firecracker.map(|binary| firecracker::Firecracker::new(binary, files));
    monitors.extend(firecracker.as_ref().map(|firecracker| firecracker as &dyn Monitor));
    let figures = measure::all(&monitors, options.rounds, options.only.as_deref())?;
    eprint!("{}", report::table(&figures));
    let json =
        options.json.or_else(|| Some(PathBuf::from(std::env::var_os("HEARTH_OUT")?).join("vmm-bench.json")));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&figures).context("writing figures as JSON")?;
        std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
