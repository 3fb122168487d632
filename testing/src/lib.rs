//! Shared by the tests of all packages.
//!
//! * [`skip`] – skips a test that cannot run on this machine
//! * [`full`] – whether the long tests run, too
//! * [`fill_disk`] – fills a disk
//! * [`search`] – searches for texts in snapshots
//! * `calls` – calls with extreme values of every method that the daemon has (feature `calls`: only its own tests need gRPC)

#![forbid(unsafe_code)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(feature = "calls")]
pub mod calls;
pub mod search;

use std::env;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::thread;

/// Environment variable that is set where tests have everything that they need: none may be skipped there.
const COMPLETE: &str = "HEARTH_METAL";
/// Environment variable with the path of a file that gets a line for each skipped test: its program, a tab, its name.
const NOTES: &str = "HEARTH_SKIPPED";

/// Environment variable with which the long tests run, too.
const FULL: &str = "HEARTH_FULL";

/// Whether the long tests run, too: with `cargo xtask test --full`.
#[must_use]
pub fn full() -> bool {
    env::var_os(FULL).is_some()
}

/// Appends to a file until its disk is full to the last byte.
///
/// # Panics
/// It cannot be written for another reason.
pub fn fill_disk(path: &Path) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    let mut length = 1 << 20;
    while length > 0 {
        match file.write(&vec![7; length]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => length /= 2,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Records that the test of this thread cannot run here, and why. `cargo xtask test` runs it on the metal instead, or fails.
///
/// # Panics
/// On the metal, where no test may be skipped; and if the record cannot be written.
pub fn skip(why: &str) {
    if env::var_os(COMPLETE).is_some() {
        panic!("no test may be skipped here, but {why}");
    }
    eprintln!("skipped: {why}");
    let Some(notes) = env::var_os(NOTES) else { return };
    let program = env::args_os().next().unwrap_or_default();
    // With one test thread, tests run on the main thread, which has no test's name; nextest passes it in a variable.
    let test = thread::current().name().filter(|name| *name != "main").map(str::to_owned);
    let test = test.or_else(|| env::var("NEXTEST_TEST_NAME").ok());
    let test = test.or_else(|| env::args().skip(1).find(|word| word.contains("::"))).unwrap_or_default();
    // Each line is one write, because other processes append at the same time.
    let line = format!("{}\t{test}\n", program_name(Path::new(&program)));
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&notes)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        panic!("{} cannot be written: {error}", Path::new(&notes).display());
    }
}

/// The name of a test program's cargo target: the file's name without the hash that cargo adds.
fn program_name(program: &Path) -> String {
    let name = program.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    name.rsplit_once('-').map_or(name, |(target, _)| target).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_after_their_targets() {
        assert_eq!(program_name(Path::new("/t/debug/deps/hearth_vmm-0123456789abcdef")), "hearth_vmm");
        assert_eq!(program_name(Path::new("jail")), "jail");
    }
}
