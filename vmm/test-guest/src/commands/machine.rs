//! Commands for CPUs, clocks, entropy, and stopping the machine.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::thread;

use super::failed;
use crate::system::{self, Ending};

/// `online=LIST ran=LIST features=WORD,WORD…`: the CPUs that Linux has brought up, those on which a thread has run just
/// now, and the feature words of /proc/cpuinfo.
pub(super) fn cpuinfo() -> Result<String, String> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").map_err(failed("reading CPUs"))?;
    let text = fs::read_to_string("/proc/cpuinfo").map_err(failed("reading /proc/cpuinfo"))?;
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    let features = text.lines().find_map(|line| line.strip_prefix("Features")?.split_once(": "));
    let features = features.map(|(_, words)| words.trim().replace(' ', ",")).unwrap_or_default();
    let threads: Vec<_> = (0..count).map(|cpu| thread::spawn(move || run_on(cpu))).collect();
    let mut ran = Vec::new();
    for thread in threads {
        let cpu = thread.join().map_err(|_| "a thread panicked")?;
        ran.push(cpu.map_err(failed("running on every CPU"))?.to_string());
    }
    Ok(format!("online={} ran={} features={features}", online.trim(), ran.join(",")))
}

/// Moves the calling thread to `cpu` and returns the CPU on which it then runs.
fn run_on(cpu: usize) -> io::Result<i32> {
    // SAFETY: all zeros are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours; numbers beyond its end are ignored.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the length are those of a set that lives until the call returns.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes no pointer.
    Ok(unsafe { libc::sched_getcpu() })
}

/// Returns `REALTIME MONOTONIC` in nanoseconds.
pub(super) fn clock() -> Result<String, String> {
    Ok(format!("{} {}", nanoseconds(libc::CLOCK_REALTIME), nanoseconds(libc::CLOCK_MONOTONIC)))
}

/// Returns `REALTIME MONOTONIC BOOTTIME` in nanoseconds.
pub(super) fn clocks() -> Result<String, String> {
    Ok(format!("{} {}", clock()?, nanoseconds(libc::CLOCK_BOOTTIME)))
}

/// `NANOSECONDS →`: sets the real-time clock. The kernel of the test guest does not read the board's.
pub(super) fn set_clock(time: i64) -> Result<String, String> {
    let time = libc::timespec { tv_sec: time / 1_000_000_000, tv_nsec: time % 1_000_000_000 };
    // SAFETY: the pointer is to a structure that lives until the call returns.
    let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    if result < 0 {
        Err(format!("setting the clock: {}", io::Error::last_os_error()))
    } else {
        Ok(String::new())
    }
}

/// Returns the time of a clock in nanoseconds.
pub(super) fn nanoseconds(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a structure that lives until the call returns.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Maximum number of random bytes in one answer.
const MAX_RANDOM: usize = 1 << 16;

/// Returns the given number of bytes from the entropy device, in hexadecimal.
pub(super) fn rng(bytes: usize) -> Result<String, String> {
    read_random("/dev/hwrng", bytes)
}

/// Returns the given number of bytes from the kernel's generator through /dev/urandom, in hexadecimal.
pub(super) fn urandom(bytes: usize) -> Result<String, String> {
    read_random("/dev/urandom", bytes)
}

fn read_random(device: &str, bytes: usize) -> Result<String, String> {
    let mut random = vec![0; bytes.min(MAX_RANDOM)];
    let read = File::open(device).and_then(|mut device| device.read_exact(&mut random));
    read.map_err(|error| format!("reading {device}: {error}"))?;
    Ok(hexadecimal(&random))
}

/// Returns the given number of bytes from the kernel's generator through getrandom(2), in hexadecimal.
pub(super) fn getrandom(bytes: usize) -> Result<String, String> {
    let mut random = vec![0_u8; bytes.min(MAX_RANDOM)];
    let mut rest = random.as_mut_slice();
    while !rest.is_empty() {
        // SAFETY: the pointer and the length are those of a slice that nothing else uses meanwhile.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error());
        let count = count.map_err(failed("asking for random bytes"))?;
        rest = rest.get_mut(count..).unwrap_or_default();
    }
    Ok(hexadecimal(&random))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes back dirty data.
pub(super) fn sync() -> Result<String, String> {
    // SAFETY: takes no pointer.
    unsafe { libc::sync() };
    Ok(String::new())
}

/// Stops the machine. The stream is closed without an answer, unless the kernel refuses.
pub(super) fn shut_down(how: Ending) -> Result<String, String> {
    Err(format!("the kernel refused: {}", system::shut_down(how)))
}
