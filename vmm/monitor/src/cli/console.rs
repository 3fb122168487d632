//! The guest's console on this terminal: raw mode while the machine runs, and a key sequence to leave it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;

/// The key that leaves the console when it is typed after [`ESCAPE`].
const QUIT: u8 = b'x';
/// Ctrl-A.
const ESCAPE: u8 = 1;

/// A terminal in raw mode. Dropping this restores its previous mode.
#[derive(Debug)]
pub(super) struct RawTerminal(libc::termios);

impl RawTerminal {
    /// Puts standard input into raw mode; returns `None` if it is not a terminal.
    pub(super) fn enter() -> Option<Self> {
        // SAFETY: all-zero is a valid `termios`.
        let mut termios: libc::termios = unsafe { std::mem::zeroed() };
        let stdin = io::stdin().as_raw_fd();
        // SAFETY: `termios` is valid for writes.
        if unsafe { libc::tcgetattr(stdin, &raw mut termios) } != 0 {
            return None;
        }
        let before = Self(termios);
        // SAFETY: `termios` is a filled-in `termios`.
        unsafe { libc::cfmakeraw(&raw mut termios) };
        // Output processing stays on, so that a newline from the guest starts a new line on this terminal, too.
        termios.c_oflag = before.0.c_oflag;
        // SAFETY: as above.
        unsafe { libc::tcsetattr(stdin, libc::TCSANOW, &raw const termios) };
        Some(before)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: a `termios` that `tcgetattr` filled in.
        unsafe { libc::tcsetattr(io::stdin().as_raw_fd(), libc::TCSANOW, &raw const self.0) };
    }
}

/// Copies the guest's output to standard output until the guest closes its end.
pub(super) fn forward_output(from: OwnedFd) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut from, mut to) = (std::fs::File::from(from), io::stdout());
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    })
}

/// Copies standard input to the guest for as long as this process runs; calls `quit` on Ctrl-A x.
pub(super) fn forward_input(to: OwnedFd, quit: impl Fn() + Send + 'static) {
    thread::spawn(move || {
        let (mut from, mut to) = (io::stdin(), std::fs::File::from(to));
        let mut escape = Escape::default();
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let (bytes, leave) = escape.filter(&buffer[..count]);
            if leave {
                quit();
            }
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
    });
}

/// Detects Ctrl-A x in the typed input. Ctrl-A Ctrl-A sends one Ctrl-A to the guest.
#[derive(Debug, Default)]
struct Escape(bool);

impl Escape {
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(typed.len());
        let mut leave = false;
        for &byte in typed {
            match (std::mem::take(&mut self.0), byte) {
                (false, ESCAPE) => self.0 = true,
                (true, QUIT) => leave = true,
                (true, byte) if byte != ESCAPE => bytes.extend([ESCAPE, byte]),
                (_, byte) => bytes.push(byte),
            }
        }
        (bytes, leave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_sequence_leaves_and_nothing_else_is_lost() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ls\n"), (b"ls\n".to_vec(), false));
        assert_eq!(escape.filter(b"\x01"), (Vec::new(), false));
        assert_eq!(escape.filter(b"x"), (Vec::new(), true));
        assert_eq!(escape.filter(b"\x01\x01"), (b"\x01".to_vec(), false));
        assert_eq!(escape.filter(b"\x01ax"), (b"\x01ax".to_vec(), false));
    }
}
