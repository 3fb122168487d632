//! The commands. A connection carries one request line of words. The answer consists of lines of text; the last one is
//! `ok …` or `err …`. Numbers are decimal.
//!
//! * [`machine`] – CPUs, clocks, entropy, stopping the machine
//! * [`kernel`] – the kernel's command line, log and counts of interrupts
//! * [`timers`] – how often a timer wakes a thread
//! * [`memory`] – filling, freeing and counting memory
//! * [`pages`] – memory in which the content of every page is known and checked
//! * [`memory_data`] – a nonce and a counter that a restore keeps and a restart does not
//! * [`work`] – background work that must continue whatever happens to the machine
//!
//! Commands for tests of snapshots:
//!
//! ```text
//! nonce-set HEX | nonce-get → HEX      exists only in memory: distinguishes a restore from a restart
//! pid-counter → COUNT                  how often this was called since the guest's start
//! clocks → REALTIME MONOTONIC BOOTTIME in nanoseconds
//! clock-set NANOSECONDS                sets REALTIME
//! urandom BYTES | getrandom BYTES → HEX  (clones must differ)
//! cmdline → LINE
//! dmesg-grep WORD,WORD… → 0, or COUNT FIRST_LINE
//! interrupts NAME → COUNT              sum of all CPUs and all lines of /proc/interrupts that contain NAME
//! timer-storm MILLISECONDS → WAKEUPS EXPIRATIONS  of a 10 ms timer
//!
//! mem-random MIB SEED → PAGES          allocate and write memory; returns the number of pages that are held now
//! mem-dirty COUNT SEED → PAGES         overwrite COUNT different pages (of 4 KiB, aligned)
//! mem-zero COUNT SEED → PAGES          overwrite COUNT different pages with zeros
//! mem-check → PAGES                    check every page that is held, or `err` with the first that is wrong
//! mem-free → MIB                       free this memory, and that of mem-fill
//!
//! work-start DEVICE                    start block (overwrites the disk's first 4 MiB), tcp, timer and pty
//! mount-work DEVICE                    start files, on the disk's ext4 file system, in /mnt
//! work-status → STATUS                 `block=N tcp=N timer=N pty=N files=N errors=N first_error=TEXT`
//! work-check → STATUS                  waits until each kind has made progress; `err STATUS` if any failed
//! work-stop → STATUS                   stops all work, unmounts
//! vsock-disk PORT DEVICE               serve the disk's contents, for a check of the file system on the host
//! ```
//! * [`disk`] – random requests against a model, records for crash tests, throughput
//! * [`network`] – addresses and TCP
//! * [`streams`] – vsock servers and clients

mod disk;
mod kernel;
mod machine;
mod memory;
mod memory_data;
mod network;
mod pages;
mod streams;
mod timers;
mod work;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::str::FromStr;

/// State that persists from one command to the next.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    held_memory: memory::Held,
    pages: pages::Pages,
    memory_data: memory_data::MemoryData,
    work: work::Work,
}

/// The words of a request after the command's name.
#[derive(Debug)]
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    /// Takes the next word as text.
    fn text(&mut self, name: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("the argument {name} is missing"))
    }

    /// Parses the next word as a value.
    fn value<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        let word = self.text(name)?;
        word.parse().map_err(|_| format!("`{word}` is no {name}"))
    }

    /// Parses the next word as a value, if there is one.
    fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(word) = self.0.next() else { return Ok(None) };
        word.parse().map(Some).map_err(|_| format!("`{word}` is no {name}"))
    }
}

/// Reads the request of a connection, executes it and sends the answer.
pub(crate) fn answer(guest: &Guest, mut connection: File) {
    let mut request = String::new();
    if BufReader::new(&connection).read_line(&mut request).is_err() {
        return;
    }
    let mut words = Words(request.split_whitespace());
    let last = match words.text("COMMAND").and_then(|name| run(guest, name, &mut words, &mut connection)) {
        Ok(result) => format!("ok {result}"),
        Err(reason) => format!("err {reason}"),
    };
    // It is no error if the host has disconnected.
    let _ = send_line(&mut connection, &last);
}

/// Returns information about a machine with a disk and an entropy device, one item per line.
pub(crate) fn look_around() -> Vec<String> {
    let disk = "vda";
    let written = disk::bench(&mut Words(format!("{disk} write 4096 1048576").split_whitespace()));
    [
        ("CPUs", machine::cpuinfo()),
        ("memory (KiB: total, free, available)", memory::meminfo()),
        ("disk (sectors, read-only, serial id)", disk::info(disk)),
        ("1 MiB written to the disk (bytes, nanoseconds)", written),
        ("entropy", machine::rng(16)),
    ]
    .into_iter()
    .map(|(what, found)| format!("  {what}: {}", found.unwrap_or_else(|reason| reason)))
    .collect()
}

fn run(guest: &Guest, name: &str, words: &mut Words<'_>, progress: &mut File) -> Result<String, String> {
    match name {
        "ping" => Ok("pong".to_string()),
        "cpuinfo" => machine::cpuinfo(),
        "clock" => machine::clock(),
        "clocks" => machine::clocks(),
        "clock-set" => machine::set_clock(words.value("NANOSECONDS")?),
        "rng" => machine::rng(words.value("BYTES")?),
        "urandom" => machine::urandom(words.value("BYTES")?),
        "getrandom" => machine::getrandom(words.value("BYTES")?),
        "cmdline" => kernel::command_line(),
        "dmesg-grep" => kernel::search_log(words.text("WORDS")?),
        "interrupts" => kernel::interrupts(words.text("NAME")?),
        "timer-storm" => timers::storm(words.value("MILLISECONDS")?),
        "nonce-set" => guest.memory_data.set_nonce(words.text("HEX")?),
        "nonce-get" => guest.memory_data.nonce(),
        "pid-counter" => guest.memory_data.count(),
        "sync" => machine::sync(),
        "poweroff" => machine::shut_down(crate::system::Ending::PowerOff),
        "restart" => machine::shut_down(crate::system::Ending::Restart),
        "mem-fill" => guest.held_memory.fill(words.value("MIB")?),
        "mem-free" => Ok((guest.held_memory.free() + guest.pages.free()).to_string()),
        "mem-random" => guest.pages.take(words),
        "mem-dirty" => guest.pages.dirty(words),
        "mem-zero" => guest.pages.zero(words),
        "mem-check" => guest.pages.check(),
        "drop-caches" => memory::drop_caches(),
        "meminfo" => memory::meminfo(),
        "blk-info" => disk::info(words.text("DEVICE")?),
        "blk-fuzz" => disk::fuzz(words, progress),
        "blk-verify" => disk::verify(words),
        "blk-poke" => disk::poke(words),
        "blk-write" => disk::write_records(words, progress),
        "blk-check" => disk::check_records(words),
        "blk-bench" => disk::bench(words),
        "net-up" => network::up(words),
        "tcp-echo" => network::echo(words, progress),
        "tcp-connect" => network::connect(words),
        "vsock-echo" => streams::echo(words.value("PORT")?),
        "vsock-source" => streams::source(words),
        "vsock-disk" => streams::disk(words),
        "vsock-sink" => streams::sink(words),
        "vsock-take" => streams::take(words),
        "vsock-connect-many" => streams::connect_many(words),
        "work-start" => guest.work.start(words.text("DEVICE")?),
        "mount-work" => guest.work.mount(words.text("DEVICE")?),
        "work-status" => guest.work.status(),
        "work-check" => guest.work.check(),
        "work-stop" => guest.work.stop(),
        unknown => Err(format!("there is no command `{unknown}`")),
    }
}

/// Sends a line to the host.
fn send_line(connection: &mut File, line: &str) -> Result<(), String> {
    connection.write_all(format!("{line}\n").as_bytes()).map_err(failed("answering the host"))
}

/// For `map_err`: adds the step that failed to the error.
fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}
