//! `hearth-vmm`: the monitor process and a command-line interface to it, for operators and tests.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
