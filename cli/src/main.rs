//! `hearth`: the command-line client of hearthd.
//!
//! * [`options`] – options of every command; [`settings`] – the same with environment and configuration file
//! * [`connect`] – the connection; [`names`] – short names and prefixes instead of ARNs and whole ids
//! * [`commands`] – the commands: one file per command
//! * [`out`] – tables, fields, JSON; [`live`] – lines that change on a terminal
//! * [`upload`] – makes artifacts of folders and zips, and uploads them
//! * [`endpoint`] – microVMs' endpoints: address, token, authority; [`trust`] – the machine's authorities
//! * [`relay`] – lets browsers reach endpoints; [`shell`] – a shell in a microVM
//! * [`interrupt`] – Ctrl-C and other signals
//! * [`error`] – errors in one line: what failed, why, and what to do; exit statuses
#![forbid(unsafe_code)]

mod commands;
mod connect;
mod endpoint;
mod error;
mod interrupt;
mod live;
mod names;
mod options;
mod out;
mod pages;
mod parse;
mod relay;
mod settings;
mod shell;
mod trust;
mod upload;

use std::process::ExitCode;

use clap::Parser as _;

use crate::commands::Cli;
use crate::error::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start: {error}")).report(),
    };
    let done = runtime.block_on(commands::execute(cli));
    // Blocking reads of a file that are not needed any more must not keep the process alive.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
