//! Prints a build's events to a terminal or a log.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hearth_image_builder::build::event::Sink;
use hearth_image_builder::build::{Event, LogStream};

/// Interval between reports of the artifact's received bytes.
const BYTES_EVERY: Duration = Duration::from_millis(500);

/// A sink that prints events to stderr; stdout is for results.
pub(super) fn sink(quiet: bool) -> Sink {
    let started = Instant::now();
    let colour = std::io::stderr().is_terminal();
    let last_bytes = Mutex::new(None::<Instant>);
    Sink::new(move |event| {
        let line = match event {
            Event::Started(step) => format!("{} {step} …", clock(started)),
            Event::Finished(step, elapsed) => {
                let took = format!("{:.1} s", elapsed.as_secs_f64());
                let mark = if colour { "\x1b[32m✓\x1b[0m" } else { "✓" };
                format!("{} {mark} {step} ({took})", clock(started))
            }
            Event::Log { .. } if quiet => return,
            Event::Log { stream, line, .. } => {
                let name = match stream {
                    LogStream::Build => "build",
                    LogStream::Snapshot => "app",
                    LogStream::Validate => "clone",
                };
                format!("          {name} | {}", printable(&line))
            }
            Event::Fetched { bytes, total } => {
                let Ok(mut last) = last_bytes.lock() else { return };
                if total != Some(bytes) && last.is_some_and(|last| last.elapsed() < BYTES_EVERY) {
                    return;
                }
                *last = Some(Instant::now());
                let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
                format!("          {bytes}{of} bytes")
            }
            Event::CodeInstalled { bytes } => format!("          {bytes} bytes of code"),
        };
        // A terminal that was closed does not fail the build.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    })
}

fn clock(started: Instant) -> String {
    format!("[{:6.1} s]", started.elapsed().as_secs_f64())
}

/// A line without control characters, which could move the cursor: it comes from a guest.
pub(super) fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .chars()
        .map(|character| if character.is_control() && character != '\t' { '\u{fffd}' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_write_to_the_terminal_of_whoever_builds() {
        assert_eq!(printable(b"ok\x1b[2J\tend\xff"), "ok\u{fffd}[2J\tend\u{fffd}");
    }
}
