//! Commands for disks. All use O_DIRECT so that every request reaches the device.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::thread;
use std::time::Instant;

use hearth_test_guest::disk_model::{self, DiskModel, MAX_SECTORS, Request, SECTOR};
use hearth_test_guest::pattern::{self, Random};
use hearth_test_guest::records::{RECORD, Records};

use super::{Words, failed, send_line};
use crate::buffer::Buffer;

/// The request to discard a range of bytes (linux/fs.h).
const BLKDISCARD: libc::Ioctl = 0x1277;
/// The request to fill a range of bytes with zeros (linux/fs.h).
const BLKZEROOUT: libc::Ioctl = 0x127f;

/// Maximum number of records between two flushes.
const RECORDS_PER_FLUSH: u64 = 8;

/// Opens a disk; read-only if it cannot be written to.
pub(super) fn open(device: &str) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let writable = options.clone().write(true).open(format!("/dev/{device}"));
    writable.or_else(|_| options.open(format!("/dev/{device}"))).map_err(failed("opening the disk"))
}

fn attribute(device: &str, name: &str) -> Result<String, String> {
    let text = fs::read_to_string(format!("/sys/class/block/{device}/{name}"));
    Ok(text.map_err(failed("reading the disk's attributes"))?.trim().to_string())
}

/// Returns the number of sectors of a disk.
pub(super) fn sectors(device: &str) -> Result<u64, String> {
    attribute(device, "size")?.parse().map_err(failed("understanding the disk's size"))
}

fn range_request(disk: &File, request: libc::Ioctl, range: &Range<u64>) -> io::Result<()> {
    let bytes = [range.start * SECTOR as u64, (range.end - range.start) * SECTOR as u64];
    // SAFETY: both requests take a pointer to two 64-bit numbers, which live until the call returns.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), request, bytes.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `DEVICE` → `SECTORS READONLY SERIAL`.
pub(super) fn info(device: &str) -> Result<String, String> {
    let serial = attribute(device, "serial")?;
    Ok(format!("{} {} {serial}", sectors(device)?, attribute(device, "ro")?))
}

/// `DEVICE SEED BASE_SEED REQUESTS WORKERS`: sends random requests from several threads, each to its own part of the
/// disk, which initially contains the stream BASE_SEED. Checks everything that is read, and the whole disk at the end.
pub(super) fn fuzz(words: &mut Words<'_>, progress: &mut File) -> Result<String, String> {
    let device = words.text("DEVICE")?;
    let (seed, base_seed) = (words.value("SEED")?, words.value("BASE_SEED")?);
    let (requests, workers) = (words.value("REQUESTS")?, words.value("WORKERS")?);
    let models = disk_model::models(seed, base_seed, sectors(device)?, workers);
    send_line(progress, "started")?;
    let run = |model| -> Result<thread::JoinHandle<Result<u64, String>>, String> {
        let disk = open(device)?;
        Ok(thread::spawn(move || fuzz_part(&disk, model, requests)))
    };
    let threads = models.into_iter().map(run).collect::<Result<Vec<_>, _>>()?;
    let mut reads = 0;
    for thread in threads {
        reads += thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(format!("{reads} reads checked"))
}

fn fuzz_part(disk: &File, mut model: DiskModel, requests: u64) -> Result<u64, String> {
    let mut buffer = request_buffer();
    let mut reads = 0;
    for number in 0..requests {
        let checked = perform(disk, &mut model, &mut buffer);
        reads += u64::from(checked.map_err(|wrong| format!("request {number}: {wrong}"))?);
    }
    for start in model.sectors().step_by(usize::try_from(MAX_SECTORS).unwrap_or(1)) {
        let range = start..(start + MAX_SECTORS).min(model.sectors().end);
        let bytes = buffer.part(length(&range))?;
        disk.read_exact_at(bytes, start * SECTOR as u64).map_err(failed("reading the whole disk"))?;
        model.check(start, bytes)?;
    }
    Ok(reads)
}

/// Allocates a buffer for any request of a model.
pub(super) fn request_buffer() -> Buffer {
    Buffer::new(SECTOR * usize::try_from(MAX_SECTORS).unwrap_or(0))
}

/// Sends the model's next request to the disk. Returns `true` if it was a read, whose data was then checked.
pub(super) fn perform(disk: &File, model: &mut DiskModel, buffer: &mut Buffer) -> Result<bool, String> {
    let request = model.next_request();
    let done = match &request {
        Request::Read(range) => {
            let bytes = buffer.part(length(range))?;
            let done = disk.read_exact_at(bytes, range.start * SECTOR as u64);
            if done.is_ok() {
                model.check(range.start, bytes)?;
            }
            done
        }
        Request::Write(range) => {
            let bytes = buffer.part(length(range))?;
            model.fill(range.start, bytes);
            disk.write_all_at(bytes, range.start * SECTOR as u64)
        }
        Request::WriteZeros(range) => range_request(disk, BLKZEROOUT, range),
        Request::Discard(range) => match range_request(disk, BLKDISCARD, range) {
            // A disk need not support discards.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            done => done,
        },
        Request::Flush => disk.sync_all(),
    };
    done.map_err(|error| format!("{request:?}: {error}"))?;
    Ok(matches!(request, Request::Read(_)))
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(0) * SECTOR
}

/// `DEVICE SEED`: checks that the disk holds the stream SEED and nothing else.
pub(super) fn verify(words: &mut Words<'_>) -> Result<String, String> {
    let device = words.text("DEVICE")?;
    let seed = words.value("SEED")?;
    let (disk, end) = (open(device)?, sectors(device)? * SECTOR as u64);
    let mut buffer = Buffer::new(1 << 20);
    let mut at = 0;
    while at < end {
        let bytes = buffer.part(usize::try_from(end - at).unwrap_or(usize::MAX))?;
        disk.read_exact_at(bytes, at).map_err(failed("reading the disk"))?;
        if let Some(wrong) = pattern::mismatch(seed, at, bytes) {
            return Err(format!("byte {wrong} is wrong"));
        }
        at += bytes.len() as u64;
    }
    Ok(format!("{end}"))
}

/// Sends the whole contents of a disk.
pub(super) fn send(device: &str, to: &mut impl Write) -> Result<(), String> {
    let (disk, end) = (open(device)?, sectors(device)? * SECTOR as u64);
    let mut buffer = Buffer::new(1 << 18);
    let mut at = 0;
    while at < end {
        let bytes = buffer.part(usize::try_from(end - at).unwrap_or(usize::MAX))?;
        disk.read_exact_at(bytes, at).map_err(failed("reading the disk"))?;
        to.write_all(bytes).map_err(failed("sending"))?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// `DEVICE SECTOR SEED`: writes one sector of the stream SEED and flushes.
pub(super) fn poke(words: &mut Words<'_>) -> Result<String, String> {
    let disk = open(words.text("DEVICE")?)?;
    let (sector, seed): (u64, u64) = (words.value("SECTOR")?, words.value("SEED")?);
    let mut buffer = Buffer::new(SECTOR);
    let bytes = buffer.part(SECTOR)?;
    pattern::fill(seed, sector * SECTOR as u64, bytes);
    disk.write_all_at(bytes, sector * SECTOR as u64).map_err(failed("writing"))?;
    disk.sync_all().map_err(failed("flushing"))?;
    Ok(String::new())
}

fn records(words: &mut Words<'_>) -> Result<(File, u64, Records), String> {
    let disk = open(words.text("DEVICE")?)?;
    let (seed, count) = (words.value("SEED")?, words.value("COUNT")?);
    let blocks = words.value("FIRST_BLOCK")?..words.value("END_BLOCK")?;
    Ok((disk, seed, Records::new(seed, count, &blocks)))
}

/// `DEVICE SEED COUNT FIRST_BLOCK END_BLOCK`: writes records; prints `flushed N` whenever the first N are durable.
pub(super) fn write_records(words: &mut Words<'_>, progress: &mut File) -> Result<String, String> {
    let (disk, seed, records) = records(words)?;
    let mut buffer = Buffer::new(RECORD);
    let mut random = Random::new(seed);
    let mut until_flush = 1;
    let mut done = 0;
    for (number, block) in records.iter() {
        let bytes = buffer.part(RECORD)?;
        records.fill(number, bytes);
        disk.write_all_at(bytes, block * RECORD as u64).map_err(failed("writing a record"))?;
        done = number + 1;
        until_flush -= 1;
        if until_flush == 0 {
            disk.sync_all().map_err(failed("flushing"))?;
            send_line(progress, &format!("flushed {done}"))?;
            until_flush = 1 + random.below(RECORDS_PER_FLUSH);
        }
    }
    disk.sync_all().map_err(failed("flushing"))?;
    Ok(done.to_string())
}

/// `DEVICE SEED COUNT FIRST_BLOCK END_BLOCK FLUSHED`: checks that the first FLUSHED records are on the disk.
pub(super) fn check_records(words: &mut Words<'_>) -> Result<String, String> {
    let (disk, _, records) = records(words)?;
    let flushed = words.value("FLUSHED")?;
    let mut buffer = Buffer::new(RECORD);
    let places = records.verify(flushed, |block, record| {
        let bytes = buffer.part(RECORD)?;
        disk.read_exact_at(bytes, block * RECORD as u64).map_err(failed("reading a record"))?;
        record.copy_from_slice(bytes);
        Ok(())
    })?;
    Ok(places.to_string())
}

/// `DEVICE read|write BLOCK_BYTES TOTAL_BYTES` → `BYTES NANOSECONDS`: sends one request at a time, in order.
pub(super) fn bench(words: &mut Words<'_>) -> Result<String, String> {
    let disk = open(words.text("DEVICE")?)?;
    let direction = words.text("read|write")?;
    let (block, total): (usize, u64) = (words.value("BLOCK_BYTES")?, words.value("TOTAL_BYTES")?);
    let mut buffer = Buffer::new(block);
    let bytes = buffer.part(block)?;
    pattern::fill(1, 0, bytes);
    let started = Instant::now();
    let mut at = 0;
    while at < total {
        match direction {
            "write" => disk.write_all_at(bytes, at),
            _ => disk.read_exact_at(bytes, at),
        }
        .map_err(failed("reading or writing"))?;
        at += bytes.len() as u64;
    }
    Ok(format!("{at} {}", started.elapsed().as_nanos()))
}
