//! The measurements. Each is taken of every monitor in turn, round after round, so that whatever drifts
//! drifts for all of them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::report::{Better, Figure, Samples};
use crate::vm::{self, Disk, Monitor, Running};

const MIB: u64 = 1 << 20;
/// Size of the disk that is read and written, in bytes.
const DISK: u64 = 32 * MIB;
/// Bytes of one run with small blocks.
const SMALL_RUN: u64 = 2 * MIB;
/// Bytes of one run with large blocks.
const LARGE_RUN: u64 = 16 * MIB;
/// Bytes sent over vsock in one run.
const STREAM: u64 = 16 * MIB;
/// Round trips in one run.
const ROUND_TRIPS: u32 = 200;

/// What one measurement is.
struct Measurement {
    name: &'static str,
    unit: &'static str,
    better: Better,
    /// Highest ratio to Firecracker that is the goal, if there is one.
    goal: Option<f64>,
    overlay: bool,
    take: fn(&dyn Monitor, &Path, &Disk) -> Result<f64>,
}

const MEASUREMENTS: [Measurement; 11] = [
    Measurement { goal: Some(1.0), ..lower("boot to the init's first word", "ms", boot) },
    Measurement { goal: Some(1.0), ..lower("private memory of an idle monitor", "KiB", private_memory) },
    lower("anonymous memory with the idle guest", "MiB", anonymous_memory),
    higher("disk read, 4 KiB blocks", "MiB/s", |monitor, folder, disk| {
        block(monitor, folder, disk, "read", 4096)
    }),
    higher("disk write, 4 KiB blocks", "MiB/s", |monitor, folder, disk| {
        block(monitor, folder, disk, "write", 4096)
    }),
    higher("disk read, 128 KiB blocks", "MiB/s", |m, folder, disk| block(m, folder, disk, "read", 128 << 10)),
    higher("disk write, 128 KiB blocks", "MiB/s", |m, folder, disk| {
        block(m, folder, disk, "write", 128 << 10)
    }),
    Measurement {
        overlay: true,
        ..higher("overlay write, 128 KiB blocks", "MiB/s", |m, folder, disk| {
            block(m, folder, disk, "write", 128 << 10)
        })
    },
    higher("vsock, guest to host", "MiB/s", vsock_receive),
    higher("vsock, host to guest", "MiB/s", vsock_send),
    lower("vsock round trip of a byte", "us", vsock_round_trip),
];

type Take = fn(&dyn Monitor, &Path, &Disk) -> Result<f64>;

const fn lower(name: &'static str, unit: &'static str, take: Take) -> Measurement {
    Measurement { name, unit, better: Better::Lower, goal: None, overlay: false, take }
}

const fn higher(name: &'static str, unit: &'static str, take: Take) -> Measurement {
    Measurement { name, unit, better: Better::Higher, goal: None, overlay: false, take }
}

/// Takes all measurements, or those whose name holds `only`.
pub(crate) fn all(monitors: &[&dyn Monitor], rounds: usize, only: Option<&str>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for measurement in MEASUREMENTS.iter().filter(|one| only.is_none_or(|only| one.name.contains(only))) {
        let able = monitors.iter().filter(|monitor| !measurement.overlay || monitor.has_overlays());
        let mut samples: Vec<(&dyn Monitor, Vec<f64>)> = able.map(|monitor| (*monitor, Vec::new())).collect();
        for round in 0..rounds {
            for (monitor, values) in &mut samples {
                let value = one(measurement, *monitor).with_context(|| {
                    format!("measuring {} of {}, round {round}", measurement.name, monitor.name())
                })?;
                eprintln!(
                    "{:<36} {:<12} {value:>12.2} {}",
                    measurement.name,
                    monitor.name(),
                    measurement.unit
                );
                values.push(value);
            }
        }
        let named = samples.into_iter().map(|(monitor, values)| Samples::new(monitor.name(), values));
        figures.push(Figure {
            name: measurement.name,
            unit: measurement.unit,
            better: measurement.better,
            goal: measurement.goal,
            samples: named.collect(),
        });
    }
    Ok(figures)
}

/// Takes one sample in a folder of its own.
fn one(measurement: &Measurement, monitor: &dyn Monitor) -> Result<f64> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let disk = Disk { path: folder.path().join("disk"), overlay: measurement.overlay };
    (measurement.take)(monitor, folder.path(), &disk)
}

/// Starts a guest and waits until it takes commands.
fn ready(monitor: &dyn Monitor, folder: &Path, disk: Option<&Disk>) -> Result<Box<dyn Running>> {
    let mut running = monitor.boot(folder, disk)?;
    running.wait_until_ready()?;
    Ok(running)
}

fn boot(monitor: &dyn Monitor, folder: &Path, _: &Disk) -> Result<f64> {
    let started = Instant::now();
    let running = ready(monitor, folder, None)?;
    let taken = started.elapsed();
    drop(running);
    Ok(taken.as_secs_f64() * 1e3)
}

/// Memory of the process that no other shares, its guest's memory aside.
fn private_memory(monitor: &dyn Monitor, folder: &Path, _: &Disk) -> Result<f64> {
    let running = ready(monitor, folder, None)?;
    vm::command(&running.vsock(), "ping")?;
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", running.pid())).context("reading smaps")?;
    let mut mappings: Vec<(u64, u64)> = Vec::new(); // (size, private) in KiB
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
        let value: u64 = value.parse().unwrap_or_default();
        match (key, mappings.last_mut()) {
            ("Size:", _) => mappings.push((value, 0)),
            ("Private_Clean:" | "Private_Dirty:", Some((_, private))) => *private += value,
            _ => {}
        }
    }
    // The guest's memory is the largest mapping by far.
    mappings.sort_unstable();
    mappings.pop().context("the process has no mappings")?;
    Ok(mappings.iter().map(|(_, private)| f64::from(u32::try_from(*private).unwrap_or(u32::MAX))).sum())
}

fn anonymous_memory(monitor: &dyn Monitor, folder: &Path, _: &Disk) -> Result<f64> {
    let running = ready(monitor, folder, None)?;
    vm::command(&running.vsock(), "ping")?;
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).context("reading status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("RssAnon is no number")?;
    Ok(kib / 1024.0)
}

fn block(monitor: &dyn Monitor, folder: &Path, disk: &Disk, direction: &str, size: u64) -> Result<f64> {
    let file = File::create_new(&disk.path).context("making the disk")?;
    fill(&file)?;
    let running = ready(monitor, folder, Some(disk))?;
    let total = if size == 4096 { SMALL_RUN } else { LARGE_RUN };
    let answer = vm::command(&running.vsock(), &format!("blk-bench vda {direction} {size} {total}"))?;
    let (bytes, nanoseconds) = answer.split_once(' ').context("the guest's answer has two numbers")?;
    let (bytes, nanoseconds): (f64, f64) = (bytes.parse()?, nanoseconds.parse()?);
    Ok(bytes / MIB as f64 / (nanoseconds / 1e9))
}

/// Fills a disk, so that no read is of a hole.
fn fill(mut file: &File) -> Result<()> {
    let block = vec![0x5a; usize::try_from(MIB)?];
    for _ in 0..DISK / MIB {
        file.write_all(&block).context("filling the disk")?;
    }
    Ok(())
}

fn megabytes_per_second(bytes: u64, started: Instant) -> f64 {
    bytes as f64 / MIB as f64 / started.elapsed().as_secs_f64()
}

fn vsock_receive(monitor: &dyn Monitor, folder: &Path, _: &Disk) -> Result<f64> {
    let running = ready(monitor, folder, None)?;
    vm::command(&running.vsock(), &format!("vsock-source 5000 {STREAM} 0"))?;
    let mut stream = vm::connect(&running.vsock(), 5000)?;
    let started = Instant::now();
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).context("receiving from the guest")? {
            0 => break,
            count => received += count as u64,
        }
    }
    if received != STREAM {
        bail!("received {received} bytes of {STREAM}");
    }
    Ok(megabytes_per_second(STREAM, started))
}

fn vsock_send(monitor: &dyn Monitor, folder: &Path, _: &Disk) -> Result<f64> {
    let running = ready(monitor, folder, None)?;
    vm::command(&running.vsock(), &format!("vsock-take 5001 {STREAM}"))?;
    let mut stream = vm::connect(&running.vsock(), 5001)?;
    let started = Instant::now();
    let buffer = vec![0; 256 << 10];
    for _ in 0..STREAM / (256 << 10) {
        stream.write_all(&buffer).context("sending to the guest")?;
    }
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("waiting for the guest's answer")?;
    if answer.trim_end() != format!("ok {STREAM}") {
        bail!("the guest answered {answer:?}");
    }
    Ok(megabytes_per_second(STREAM, started))
}

fn vsock_round_trip(monitor: &dyn Monitor, folder: &Path, _: &Disk) -> Result<f64> {
    let running = ready(monitor, folder, None)?;
    vm::command(&running.vsock(), "vsock-echo 5002")?;
    let mut stream = vm::connect(&running.vsock(), 5002)?;
    let started = Instant::now();
    for _ in 0..ROUND_TRIPS {
        let mut byte = [7];
        stream.write_all(&byte).context("sending a byte")?;
        stream.read_exact(&mut byte).context("receiving a byte")?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUND_TRIPS))
}
