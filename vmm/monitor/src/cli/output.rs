//! Output for people. Nothing may be reading it any more (`… | head`). That does not make the operation fail, but
//! `println!` would panic.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints a line on standard output.
pub(super) fn print(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}"); // errors are ignored, see the module's docs
}

/// Prints a line on standard error, with the program's name.
pub(super) fn print_error(line: impl Display) {
    let _ = writeln!(io::stderr(), "hearth-vmm: {line}"); // errors are ignored, see the module's docs
}

/// Prints lines that continue the previous message, on standard error.
pub(super) fn print_error_lines(lines: impl Display) {
    let _ = writeln!(io::stderr(), "{lines}"); // errors are ignored, see the module's docs
}
