//! `hearth-vmm ctl`: sends one request to a running monitor.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hearth_vmm_client::Client;
use hearth_vmm_client::snapshot::write_working_set;

use super::output;

#[derive(Debug, Args)]
pub(super) struct Ctl {
    /// Control socket of the monitor
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what state the machine is in
    Status,
    /// Stop the vCPUs
    Pause,
    /// Let the vCPUs go on
    Resume,
    /// Show all counters
    Metrics,
    /// End the machine without asking its guest
    Shutdown,
    /// Wait for the machine's end and show why it ended
    Wait,
    /// Take memory from the guest, or give it back
    Balloon {
        /// Memory to take, in MiB
        #[arg(value_name = "MIB")]
        target_mib: u32,
    },
    /// Write the pages that a recording machine has needed so far to a file
    WorkingSet {
        /// File to write; it appears as a whole, or replaces one that is there
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

impl Ctl {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let client = Client::connect(self.socket)?;
        match self.command {
            Command::Status => {
                let status = client.status()?;
                let name =
                    status.state().as_str_name().trim_start_matches("MACHINE_STATE_").to_ascii_lowercase();
                output::print(format_args!("state     {name}"));
                output::print(format_args!("pid       {}", status.pid));
                output::print(format_args!("restarts  {}", status.restarts));
                output::print(format_args!(
                    "version   {} (protocol {})",
                    status.program_version, status.version
                ));
            }
            Command::Pause => client.pause()?,
            Command::Resume => client.resume()?,
            Command::Metrics => {
                for group in client.metrics()?.groups {
                    for counter in group.counters {
                        output::print(format_args!(
                            "{:<8} {:<24} {}",
                            group.name, counter.name, counter.value
                        ));
                    }
                }
            }
            Command::Shutdown => client.shutdown()?,
            Command::Wait => {
                let reason = client.wait_exit()?;
                let name = reason.kind().as_str_name().trim_start_matches("EXIT_KIND_").to_ascii_lowercase();
                output::print(format_args!("{name}: {}", reason.message));
            }
            Command::Balloon { target_mib } => client.set_balloon(target_mib)?,
            Command::WorkingSet { file } => {
                let saved = write_working_set(&client, &file)?;
                output::print(format_args!("touched   {} pages", saved.touched_pages));
                output::print(format_args!("written   {} pages", saved.written_pages));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
