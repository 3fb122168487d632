//! `kernel-bench`: the cost of a guest's kernel, measured with the guest OS on the metal: boot until the agent accepts requests,
//! size of a snapshot of the idle guest, and the memory that a restored guest touches until its first response.
//!
//! `cargo xtask bench kernel` runs it once for each kernel, in instruction counting.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use hearth_host::microvm::{Boot, Microvm, Restore};
use hearth_model::shape::Shape;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::config::restore::RestoreClock;
use hearth_vmm_client::snapshot::{Take, suspend, write_working_set};
use hearth_vmm_jail::JailConfig;

/// Timeout of every wait for a guest.
const WAIT_TIMEOUT: Duration = Duration::from_secs(600);
/// Time for a guest's remaining work after its first response.
const SETTLE: Duration = Duration::from_millis(500);

/// Measures a guest's kernel on the metal
#[derive(Debug, Parser)]
struct Options {
    /// What stands before the figures
    #[arg(long)]
    name: String,
    /// An arm64 Image
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// With hearth-guest as its init
    #[arg(long, value_name = "FILE")]
    initramfs: PathBuf,
    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    rounds: usize,
    /// Guest memory
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
}

/// The figures of one guest.
#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    boot_ms: f64,
    untrimmed_mib: f64,
    snapshot_mib: f64,
    restore_ms: f64,
    touched_pages: f64,
    written_pages: f64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernel-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rounds: Result<Vec<Figures>> = (0..options.rounds).map(|_| runtime.block_on(live(options))).collect();
    let rounds = rounds?;
    let row = |what: &str, value: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (least, median, most) = (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)));
        println!("{}: {what}: {median:.2} ({least:.2}–{most:.2})", options.name);
    };
    row("boot to the agent's first answer, ms", |figures| figures.boot_ms);
    row("snapshot as it is, MiB on disk", |figures| figures.untrimmed_mib);
    row("snapshot after the balloon took what is free, MiB on disk", |figures| figures.snapshot_mib);
    row("restore to the agent's first answer, recording, ms", |figures| figures.restore_ms);
    row("pages touched until then", |figures| figures.touched_pages);
    row("pages written until then", |figures| figures.written_pages);
    Ok(())
}

/// Boots a guest, saves it, saves it again after a trim, and restores it.
async fn live(options: &Options) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let mut figures = Figures::default();

    let microvm = start(&path("booted"))?;
    let started = Instant::now();
    microvm.boot(Boot {
        kernel: options.kernel.clone(),
        initramfs: options.initramfs.clone(),
        shape: Shape { memory_mib: options.memory, vcpus: 1 },
        disks: Vec::new(),
        card: None,
        limits: DeviceLimits::default(),
    })?;
    let ready = microvm.agent().wait_ready(WAIT_TIMEOUT).await;
    let mut control = ready.with_context(|| format!("booting; its last words:\n{}", microvm.last_words()))?;
    figures.boot_ms = started.elapsed().as_secs_f64() * 1e3;
    tokio::time::sleep(SETTLE).await;
    hearth_vmm_client::snapshot::take(microvm.client(), &path("as-it-is"), &Take::default())?;
    figures.untrimmed_mib = mib_on_disk(&path("as-it-is"))?;
    microvm.client().resume()?;
    let quiesced = control.quiesce(true).await?;
    microvm.trim(quiesced.free_mib).await?;
    suspend(microvm.client(), &path("snapshot"), &Take::default())?;
    figures.snapshot_mib = mib_on_disk(&path("snapshot"))?;
    drop((control, microvm));

    let microvm = start(&path("restored"))?;
    let started = Instant::now();
    microvm.restore(Restore {
        snapshot: path("snapshot"),
        disks: Vec::new(),
        tap: None,
        clock: RestoreClock::Continue,
        limits: DeviceLimits::default(),
        record: true,
    })?;
    let mut control =
        microvm.agent().wait_ready(WAIT_TIMEOUT).await.context("reaching the restored guest")?;
    control.status().await?;
    figures.restore_ms = started.elapsed().as_secs_f64() * 1e3;
    let working_set = write_working_set(microvm.client(), &path("working-set"))?;
    figures.touched_pages = working_set.touched_pages as f64;
    figures.written_pages = working_set.written_pages as f64;
    Ok(figures)
}

/// A jailed monitor, as the image builder starts it.
fn start(folder: &Path) -> Result<Microvm> {
    let binary = std::env::var_os("HEARTH_VMM")
        .context("HEARTH_VMM is not set: run this through `cargo xtask bench kernel`")?;
    Ok(Microvm::start(Path::new(&binary), folder, JailConfig::default())?)
}

/// MiB that a snapshot's memory takes on disk.
fn mib_on_disk(snapshot: &Path) -> Result<f64> {
    let memory = snapshot.join("memory");
    let blocks = fs::metadata(&memory).with_context(|| format!("reading {}", memory.display()))?.blocks();
    Ok(blocks as f64 / 2048.0)
}
