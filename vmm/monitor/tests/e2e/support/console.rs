//! The guest's console output, line by line.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, PipeReader, Read};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use super::TEST_TIMEOUT;

/// Number of lines shown when a test fails.
const SHOWN: usize = 60;

/// Reads the lines of an output on a thread, until it is closed or nobody wants them.
pub(crate) fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    lines
}

/// Reads a console until it is closed, and provides its lines.
#[derive(Debug)]
pub(crate) struct Console {
    lines: Receiver<String>,
    seen: VecDeque<String>,
}

impl Console {
    /// Starts reading from `pipe`.
    pub(crate) fn new(pipe: PipeReader) -> Self {
        Self { lines: lines(pipe), seen: VecDeque::new() }
    }

    /// Waits for a line that contains `text`, after the lines of earlier waits.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.note(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("`{text}` did not come on the console: {error}"),
            }
        }
    }

    /// Returns the last lines so far.
    pub(crate) fn tail(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.note(line);
        }
        self.seen.iter().map(|line| format!("  | {line}\n")).collect()
    }

    fn note(&mut self, line: String) {
        if self.seen.len() == SHOWN {
            self.seen.pop_front();
        }
        self.seen.push_back(line);
    }
}
