//! The command line. [`run`] is the monitor itself, which a launcher starts; [`boot`] and [`restore`] are launchers for
//! interactive use; [`save`] and [`ctl`] send requests to a running monitor; [`verify`] reads a snapshot.
//!
//! * [`args`] – values that consist of parts
//! * [`host`] – files, taps and sockets of a machine
//! * [`session`], [`console`] – a monitor that this program starts, and the guest's console on this terminal
//! * [`origin`] – what `boot` and `restore` record for a later `suspend`
//! * [`table`], [`output`] – formatting of steps and pages; output for people

mod args;
mod boot;
mod console;
mod ctl;
mod host;
mod origin;
mod output;
mod restore;
mod run;
mod save;
mod scrub;
mod session;
mod table;
mod verify;

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
    /// Make a microVM of a snapshot's folder, with its console on this terminal
    Restore(Box<restore::Restore>),
    /// Write a microVM that runs into a folder, all of it; it goes on
    Snapshot(Box<save::Snapshot>),
    /// Write what has changed in a microVM into a folder, and end it
    Suspend(Box<save::Suspend>),
    /// Read all of a snapshot's folder, and of the one it builds on, or of an image's, and find damage
    Verify(verify::Verify),
    /// Ask or tell a monitor that runs
    Ctl(Box<ctl::Ctl>),
    /// Be a monitor: what a launcher starts, with the control socket as a descriptor
    #[command(hide = true)]
    Run(Box<run::Run>),
    /// Verify files for a daemon, which sends them over the control socket
    #[command(hide = true)]
    Scrub(Box<scrub::Scrub>),
}

/// Runs the command line.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Boot(boot) => boot.run(),
        Command::Restore(restore) => restore.run(),
        Command::Snapshot(snapshot) => snapshot.run(),
        Command::Suspend(suspend) => suspend.run(),
        Command::Verify(verify) => verify.run(),
        Command::Ctl(ctl) => ctl.run(),
        Command::Run(run) => run.run(),
        Command::Scrub(scrub) => scrub.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            output::print_error(one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Formats an error and its causes in one line, without causes whose text is already in the message.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text = text + separator + &cause;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let told = anyhow::anyhow!(missing()).context(format!("opening it: {}; is it there?", missing()));
        assert_eq!(one_line(&told), "opening it: entity not found; is it there?");
        assert_eq!(
            one_line(&anyhow::anyhow!(missing()).context("opening it")),
            "opening it: entity not found"
        );
    }
}
