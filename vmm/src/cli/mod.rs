//! The command line: [`run`] is the monitor itself, which a launcher starts; [`boot`] is a launcher for
//! people; [`ctl`] talks to a monitor that runs.

mod args;
mod boot;
mod console;
mod ctl;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Hearth's virtual machine monitor: one process per microVM on Linux KVM, for aarch64
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a microVM from files, with its console on this terminal
    Boot(Box<boot::Boot>),
    /// Ask or tell a monitor that runs
    Ctl(Box<ctl::Ctl>),
    /// Be a monitor: what a launcher starts, with the control socket as a descriptor
    #[command(hide = true)]
    Run(Box<run::Run>),
}

/// Runs the command line.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Boot(boot) => boot.run(),
        Command::Ctl(ctl) => ctl.run(),
        Command::Run(run) => run.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hearth-vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
