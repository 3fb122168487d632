//! The user's terminal as the console of the metal: raw while connected, restored afterwards.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::ports;

/// Character that ends the input of a terminal (control-D).
const END_OF_TRANSMISSION: u8 = 4;

/// A connected terminal, whose settings are restored when this is dropped.
#[derive(Debug)]
pub(crate) struct Connected {
    output: Option<JoinHandle<()>>,
    _raw: Option<Raw>,
}

/// Connects stdin and stdout to the console behind `stream`, in raw mode if stdin is a terminal.
pub(crate) fn connect(stream: UnixStream) -> Result<Connected> {
    let raw = if io::stdin().is_terminal() { Some(Raw::enter()?) } else { None };
    let mut input = stream.try_clone().context("cannot share the console's socket")?;
    // This thread lives until the process exits: a read from stdin cannot be interrupted.
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            if input.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
                return;
            }
        }
        // An error cannot be reported to anybody here.
        let _ = input.write_all(&[END_OF_TRANSMISSION]);
    });
    Ok(Connected { output: Some(ports::stream(stream, io::stdout())), _raw: raw })
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(output) = self.output.take() {
            // A copy that has panicked has no more output.
            let _ = output.join();
        }
    }
}

/// Rows and columns of the terminal.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Raw mode of stdin.
#[derive(Debug)]
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).context("cannot set the terminal up")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // An error cannot be reported to anybody here.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
