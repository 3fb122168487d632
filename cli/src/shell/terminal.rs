//! The local terminal.

use std::io::{self, IsTerminal as _};
use std::panic;

use crossterm::terminal::{disable_raw_mode, enable_raw_mode, size};

use crate::error::Failure;

/// A terminal in raw mode, whose keys all go to the server. It is restored when this is dropped, and after a panic.
#[derive(Debug)]
pub(super) struct Raw(());

impl Raw {
    /// Makes the terminal raw; none if stdin is no terminal.
    pub(super) fn enter() -> Result<Option<Self>, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            // A release build aborts on a panic, so nothing is dropped then.
            drop(disable_raw_mode());
            before(what);
        }));
        enable_raw_mode()
            .map_err(|error| Failure::failed(format!("cannot make the terminal raw: {error}")))?;
        Ok(Some(Self(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A failure is ignored: the terminal was closed.
        drop(disable_raw_mode());
    }
}

/// Columns and rows of the terminal; none if there is no terminal, or its size is unknown.
pub(super) fn columns_and_rows() -> Option<(u16, u16)> {
    if !io::stdin().is_terminal() && !io::stdout().is_terminal() {
        return None;
    }
    size().ok().filter(|(columns, rows)| *columns > 0 && *rows > 0)
}
