//! `hearth host`: the host's state, backups of its store.

use clap::{Args, Subcommand};
use hearth_proto::host::v1::{BackUpStoreRequest, HostStatus};

use super::Context;
use crate::error::Failure;
use crate::out::{Fields, bytes, moment};

/// The host: its state, backups of its store
#[derive(Debug, Args)]
pub(crate) struct Host {
    #[command(subcommand)]
    command: Option<HostCommand>,
}

#[derive(Debug, Subcommand)]
enum HostCommand {
    /// What the host has, and how much of it is in use; also without this word
    Status,
    /// Write a consistent copy of the daemon's store into its backup folder
    Backup,
}

impl Host {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let (client, out) = (&context.client, context.out);
        match self.command {
            None | Some(HostCommand::Status) => {
                let status = client.host_status().await?;
                if out.json {
                    out.json(status)
                } else if out.quiet {
                    out.line(&status.account)
                } else {
                    out.text(&fields(status))
                }
            }
            Some(HostCommand::Backup) => {
                let mut host = client.host();
                let answer =
                    client.call("back the store up", host.back_up_store(BackUpStoreRequest {})).await?;
                if out.json {
                    out.json(&answer)
                } else if out.quiet {
                    out.line(&answer.name)
                } else {
                    out.line(&format!("{}  {}", answer.name, bytes(answer.bytes)))
                }
            }
        }
    }
}

fn fields(status: &HostStatus) -> String {
    let mut fields = Fields::default();
    fields.add("daemon", format!("hearthd {}, profile {}", status.version, status.profile));
    fields.add("started", moment(status.started_at.as_ref()));
    fields.add("account", format!("{} in {}", status.account, status.region));
    fields.add("processor", format!("{}, {} CPUs", status.processor, status.cpus));
    fields.add("kernel", &*status.kernel);
    fields.add("memory", bytes(status.memory_bytes));
    let (reserved, capacity) = (status.reserved_mib, status.capacity_mib);
    fields.add("microVM memory", format!("{reserved} of {capacity} MiB reserved"));
    fields
        .add("disk", format!("{} of {} free", bytes(status.disk_free_bytes), bytes(status.disk_total_bytes)));
    let states = status.microvms.iter().filter(|(_, count)| **count > 0);
    let states: Vec<_> = states.map(|(state, count)| format!("{count} {state}")).collect();
    fields.add("microVMs", if states.is_empty() { "none".to_owned() } else { states.join(", ") });
    fields.add("builds", format!("{} under way", status.builds_under_way));
    let pools = status.pools.iter().map(|pool| format!("{} {}/{}", pool.name, pool.ready, pool.wanted));
    fields.add("pools", pools.collect::<Vec<_>>().join(", "));
    let endpoint = status.endpoint.as_ref().filter(|endpoint| !endpoint.address.is_empty());
    fields.maybe(
        "endpoints",
        endpoint.map(|endpoint| format!("*.{} at {}", endpoint.domain, endpoint.address)),
    );
    fields.text()
}
