//! `hearth-vmm`: the monitor process, and a command-line front to it for people and tests.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
