//! Disks and vsock, measured by the guest or on the host's side of a stream.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::{Measurement, Row, Setting, higher, lower, ready};
use crate::vm::{self, Disk, Guest};

const MIB: u64 = 1 << 20;
/// Size in bytes of the disk that is read and written.
const DISK: u64 = 32 * MIB;
/// Bytes of one run with small blocks.
const SMALL_RUN: u64 = 2 * MIB;
/// Bytes of one run with large blocks.
const LARGE_RUN: u64 = 16 * MIB;
/// Size of small blocks, in bytes.
const SMALL: u64 = 4 << 10;
/// Size of large blocks, in bytes.
const LARGE: u64 = 128 << 10;
/// Bytes sent over vsock in one run.
const STREAM: u64 = 16 * MIB;
/// Round trips in one run.
const ROUND_TRIPS: u32 = 200;

const READ_SMALL: [Row; 1] = [higher("disk read, 4 KiB blocks", "MiB/s")];
const WRITE_SMALL: [Row; 1] = [higher("disk write, 4 KiB blocks", "MiB/s")];
const READ_LARGE: [Row; 1] = [higher("disk read, 128 KiB blocks", "MiB/s")];
const WRITE_LARGE: [Row; 1] = [higher("disk write, 128 KiB blocks", "MiB/s")];
const WRITE_OVERLAY: [Row; 1] = [higher("overlay write, 128 KiB blocks", "MiB/s")];
const RECEIVE: [Row; 1] = [higher("vsock, guest to host", "MiB/s")];
const SEND: [Row; 1] = [higher("vsock, host to guest", "MiB/s")];
const ROUND_TRIP: [Row; 1] = [lower("vsock round trip of a byte", "us")];

pub(super) const MEASUREMENTS: [Measurement; 8] = [
    Measurement::new(&READ_SMALL, |setting| block(setting, false, "read", SMALL)),
    Measurement::new(&WRITE_SMALL, |setting| block(setting, false, "write", SMALL)),
    Measurement::new(&READ_LARGE, |setting| block(setting, false, "read", LARGE)),
    Measurement::new(&WRITE_LARGE, |setting| block(setting, false, "write", LARGE)),
    Measurement {
        overlay: true,
        ..Measurement::new(&WRITE_OVERLAY, |setting| block(setting, true, "write", LARGE))
    },
    Measurement::new(&RECEIVE, vsock_receive),
    Measurement::new(&SEND, vsock_send),
    Measurement::new(&ROUND_TRIP, vsock_round_trip),
];

fn block(setting: &Setting<'_>, overlay: bool, direction: &str, size: u64) -> Result<Vec<f64>> {
    let disk = Disk { path: setting.folder.join("disk"), overlay };
    let file = File::create_new(&disk.path).context("making the disk")?;
    fill(&file)?;
    let guest = Guest { memory_mib: setting.memory_mib, disk: Some(&disk), saved_later: false };
    let running = ready(setting.monitor, setting.folder, guest)?;
    let total = if size == SMALL { SMALL_RUN } else { LARGE_RUN };
    let answer = vm::command(&running.vsock(), &format!("blk-bench vda {direction} {size} {total}"))?;
    let (bytes, nanoseconds) = answer.split_once(' ').context("the guest's answer has two numbers")?;
    let (bytes, nanoseconds): (f64, f64) = (bytes.parse()?, nanoseconds.parse()?);
    Ok(vec![bytes / MIB as f64 / (nanoseconds / 1e9)])
}

/// Fills a disk, so that no read hits a hole.
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

fn vsock_receive(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let running = setting.ready()?;
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
    Ok(vec![megabytes_per_second(STREAM, started)])
}

fn vsock_send(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let running = setting.ready()?;
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
    Ok(vec![megabytes_per_second(STREAM, started)])
}

fn vsock_round_trip(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let running = setting.ready()?;
    vm::command(&running.vsock(), "vsock-echo 5002")?;
    let mut stream = vm::connect(&running.vsock(), 5002)?;
    let started = Instant::now();
    for _ in 0..ROUND_TRIPS {
        let mut byte = [7];
        stream.write_all(&byte).context("sending a byte")?;
        stream.read_exact(&mut byte).context("receiving a byte")?;
    }
    Ok(vec![started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUND_TRIPS)])
}
