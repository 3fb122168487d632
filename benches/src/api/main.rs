//! `api-bench`: speed of the daemon's store and its API on this machine, with a million microVMs in the store.
//!
//! `cargo xtask bench api` runs it natively. All data that it reads is in the page cache, as on a host that has been up for a while.
//!
//! * [`records`] – microVMs as the daemon stores them
//! * [`store`] – reads, pages and commits on the store itself
//! * [`service`] – the daemon's service over the store, in this process
//! * [`requests`] – reads and pages through it, with the clients on the same processors: [`grpc`], and [`rest`] beside it

#![forbid(unsafe_code)]

mod grpc;
mod records;
mod requests;
mod rest;
mod service;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;

use hearth_benches::report::{Better, Figure, Samples};

/// MicroVMs on a page.
const PAGE: usize = 50;

/// Measures the daemon's store and API
#[derive(Debug, Parser)]
struct Options {
    /// MicroVMs in the store
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    microvms: u64,
    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// How long each round takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    round_ms: u64,
    /// Where the store is made, which decides what an fsync costs; the system's folder for temporary files unless given
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Parameters of the measurements.
struct Plan {
    microvms: u64,
    rounds: usize,
    round: Duration,
}

fn main() -> ExitCode {
    hearth_benches::report::exit("api-bench", run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let plan = Plan {
        microvms: options.microvms,
        rounds: options.rounds,
        round: Duration::from_millis(options.round_ms),
    };
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("making a folder for the store")?;
    let data = folder.path().join("data");
    let mut figures = store::measure(&data.join("store"), &plan)?;
    figures.extend(requests::measure(folder.path(), &data, &plan)?);
    print!("{}", hearth_benches::report::table(&figures));
    if let Some(path) = &options.json {
        hearth_benches::report::save(&figures, path)?;
    }
    Ok(())
}

/// A figure of Hearth.
fn figure(name: &str, unit: &'static str, better: Better, values: Vec<f64>) -> Figure {
    Figure { name: name.to_owned(), unit, better, goal: None, samples: vec![Samples::new("hearth", values)] }
}

/// Rates per second, one per round: `once` is called until a round is over and returns how many operations it has done.
fn rates(plan: &Plan, mut once: impl FnMut() -> Result<u64>) -> Result<Vec<f64>> {
    let mut rates = Vec::new();
    for _ in 0..plan.rounds {
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < plan.round {
            done += once()?;
        }
        rates.push(per_second(done, start.elapsed()));
    }
    Ok(rates)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn per_second(done: u64, time: Duration) -> f64 {
    done as f64 / time.as_secs_f64()
}

/// Pseudo-random numbers that are the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}
