//! Prints permanent lines, and on a terminal a changing line below them.

use std::io::{self, IsTerminal as _, Write as _};

use crate::error::Failure;
use crate::out::colours;

const CLEAR: &str = "\r\x1b[2K";

/// The stream to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputStream {
    /// Stdout, for results.
    Stdout,
    /// Stderr, for everything else.
    Stderr,
}

/// Progress on a stream.
#[derive(Debug)]
pub(crate) struct Live {
    stream: OutputStream,
    terminal: bool,
    colour: bool,
    shown: bool,
}

impl Live {
    pub(crate) fn new(stream: OutputStream) -> Self {
        let terminal = match stream {
            OutputStream::Stdout => io::stdout().is_terminal(),
            OutputStream::Stderr => io::stderr().is_terminal(),
        };
        Self { stream, terminal, colour: terminal && colours(), shown: false }
    }

    /// Whether a changing line is visible.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a permanent line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        let clear = if std::mem::take(&mut self.shown) { CLEAR } else { "" };
        self.write(&format!("{clear}{text}\n"))
    }

    /// Prints a permanent line that is less important.
    pub(crate) fn dim(&mut self, text: &str) -> Result<(), Failure> {
        if self.colour { self.line(&format!("\x1b[2m{text}\x1b[0m")) } else { self.line(text) }
    }

    /// Sets the changing line; only on a terminal.
    pub(crate) fn show(&mut self, text: &str) -> Result<(), Failure> {
        if !self.terminal {
            return Ok(());
        }
        self.shown = true;
        self.write(&format!("{CLEAR}{text}"))
    }

    /// Removes the changing line.
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.shown) { self.write(CLEAR) } else { Ok(()) }
    }

    /// A mark for success or failure, coloured if possible.
    pub(crate) fn mark(&self, good: bool) -> &'static str {
        match (self.colour, good) {
            (true, true) => "\x1b[32m✓\x1b[0m",
            (true, false) => "\x1b[31m✗\x1b[0m",
            (false, true) => "✓",
            (false, false) => "✗",
        }
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        match self.stream {
            OutputStream::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes())?;
                stdout.flush()?;
            }
            // A terminal that was closed does not stop the command.
            OutputStream::Stderr => drop(io::stderr().lock().write_all(text.as_bytes())),
        }
        Ok(())
    }
}
