//! Telling people things. Nobody may be listening any more (`… | head`): that is no failure of what was done, and
//! `println!` would panic.

use std::fmt::Display;
use std::io::{self, Write as _};

/// A line on standard output.
pub(super) fn out(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}"); // see above
}

/// A line on standard error, with the program's name.
pub(super) fn err(line: impl Display) {
    let _ = writeln!(io::stderr(), "hearth-vmm: {line}"); // see above
}

/// Lines that belong to the line before, on standard error.
pub(super) fn err_plain(lines: impl Display) {
    let _ = writeln!(io::stderr(), "{lines}"); // see above
}
