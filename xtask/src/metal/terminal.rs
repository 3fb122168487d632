//! The user's terminal as the console of the metal: raw while connected, restored afterwards.

use std::io::{self, IsTerminal, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

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
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ writes one winsize to the given address, which is valid for it; all zeros is a valid value.
    let size = unsafe {
        if libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) != 0 {
            return None;
        }
        size.assume_init()
    };
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Raw mode of stdin.
#[derive(Debug)]
struct Raw {
    before: libc::termios,
}

impl Raw {
    fn enter() -> Result<Self> {
        let mut before = MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: tcgetattr writes one termios to the given address, which is valid for it; all zeros is a valid value.
        let before = unsafe {
            if libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error()).context("cannot read the terminal's settings");
            }
            before.assume_init()
        };
        let mut raw = before;
        // SAFETY: both functions only use the termios they are given.
        unsafe {
            libc::cfmakeraw(&raw mut raw);
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw);
        }
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: the settings were filled in by tcgetattr.
        unsafe {
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const self.before);
        }
    }
}
