//! The commands. A connection carries one request line of words; the answer is lines of text, the last of
//! which is `ok …` or `err …`. Numbers are decimal.
//!
//! * [`machine`] – CPUs, clocks, entropy, the end
//! * [`memory`] – filling, freeing and counting memory
//! * [`disk`] – random requests against a model, records for crash tests, throughput
//! * [`network`] – addresses and TCP
//! * [`streams`] – vsock servers and clients

mod disk;
mod machine;
mod memory;
mod network;
mod streams;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::str::FromStr;

/// What lives from one command to the next.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    held_memory: memory::Held,
}

/// The words after the command's name.
#[derive(Debug)]
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    /// The next word as text.
    fn text(&mut self, name: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("the argument {name} is missing"))
    }

    /// The next word as a value.
    fn value<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        let word = self.text(name)?;
        word.parse().map_err(|_| format!("`{word}` is no {name}"))
    }

    /// The next word as a value, if there is one.
    fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(word) = self.0.next() else { return Ok(None) };
        word.parse().map(Some).map_err(|_| format!("`{word}` is no {name}"))
    }
}

/// Reads the request of a connection and answers it.
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
    // That the host has gone is no error.
    let _ = tell(&mut connection, &last);
}

/// What a guest finds on a machine with a disk and an entropy device, a line each.
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
        "rng" => machine::rng(words.value("BYTES")?),
        "sync" => machine::sync(),
        "poweroff" => machine::end(crate::system::Ending::PowerOff),
        "restart" => machine::end(crate::system::Ending::Restart),
        "mem-fill" => guest.held_memory.fill(words.value("MIB")?),
        "mem-free" => guest.held_memory.free(),
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
        "vsock-sink" => streams::sink(words),
        "vsock-take" => streams::take(words),
        "vsock-connect-many" => streams::connect_many(words),
        unknown => Err(format!("there is no command `{unknown}`")),
    }
}

/// Sends a line to the host.
fn tell(connection: &mut File, line: &str) -> Result<(), String> {
    connection.write_all(format!("{line}\n").as_bytes()).map_err(failed("answering the host"))
}

/// For `map_err`: what was being done when an error came up.
fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}
