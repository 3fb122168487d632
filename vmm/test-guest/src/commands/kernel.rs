//! Information from the kernel: its command line, its log, its counts of interrupts.

use std::fs;
use std::io;

use super::failed;

/// Actions of syslog(2).
const SYSLOG_READ_ALL: libc::c_int = 3;
const SYSLOG_SIZE_BUFFER: libc::c_int = 10;

/// `→ LINE`: returns the kernel's command line.
pub(super) fn command_line() -> Result<String, String> {
    let line = fs::read_to_string("/proc/cmdline").map_err(failed("reading the command line"))?;
    Ok(line.trim().to_string())
}

/// `WORD,WORD… → COUNT`, or `COUNT FIRST`: returns the number of lines of the kernel's log that contain one of the
/// words, and the first of these lines. Upper and lower case are distinguished.
pub(super) fn search_log(words: &str) -> Result<String, String> {
    let log = log().map_err(failed("reading the kernel's log"))?;
    let has_word = |line: &&str| words.split(',').any(|word| !word.is_empty() && line.contains(word));
    let found: Vec<&str> = log.lines().filter(has_word).collect();
    Ok(found.first().map_or("0".to_string(), |first| format!("{} {first}", found.len())))
}

fn log() -> io::Result<String> {
    // SAFETY: this action takes no buffer.
    let size = unsafe { libc::klogctl(SYSLOG_SIZE_BUFFER, std::ptr::null_mut(), 0) };
    let mut log = vec![0_u8; usize::try_from(size).map_err(|_| io::Error::last_os_error())?];
    // SAFETY: the pointer and the length are those of a buffer that lives until the call returns.
    let length = unsafe { libc::klogctl(SYSLOG_READ_ALL, log.as_mut_ptr().cast(), size) };
    log.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// `NAME → COUNT`: returns how often interrupts have occurred, on all CPUs, for the lines in /proc/interrupts that
/// contain NAME (`arch_timer`, `virtio0`, `Rescheduling` …).
pub(super) fn interrupts(name: &str) -> Result<String, String> {
    let table = fs::read_to_string("/proc/interrupts").map_err(failed("reading /proc/interrupts"))?;
    let mut lines = table.lines().filter(|line| line.contains(name)).peekable();
    if lines.peek().is_none() {
        return Err(format!("no interrupt is called {name}"));
    }
    // The format is `NUMBER: COUNT COUNT … TEXT`, with one count per CPU.
    let counts = |line: &str| {
        let words = line.split_whitespace().skip(1);
        words.map_while(|word| word.parse::<u64>().ok()).take(cpus(&table)).sum::<u64>()
    };
    Ok(lines.map(counts).sum::<u64>().to_string())
}

/// Returns the number of CPUs in the table's heading.
fn cpus(table: &str) -> usize {
    table.lines().next().map_or(0, |heading| heading.split_whitespace().count())
}
