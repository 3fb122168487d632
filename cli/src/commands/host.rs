//! `hearth host`: the host's state, backups of its store.

use clap::{Args, Subcommand};
use hearth_proto::host::v1::{AccountStatus, BackUpStoreRequest, HostStatus};

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
    /// What the host has, and how much of it is in use; also without this word. Callers without a grant for the host see their
    /// account and the endpoints
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
    // The release is never empty for those who may see the host.
    let sees_host = !status.version.is_empty();
    if sees_host {
        fields.add("daemon", format!("hearthd {}, profile {}", status.version, status.profile));
        fields.add("started", moment(status.started_at.as_ref()));
    } else {
        fields.add("profile", &*status.profile);
    }
    fields.add("account", format!("{} in {}", status.account, status.region));
    if let Some(account) = &status.account_status {
        fields.add("account memory", used(account.memory_mib, account.max_memory_mib));
        fields.add("account disk", disk(account.disk_bytes, account.max_disk_bytes));
        fields.maybe("account limits", limits(account));
    }
    if sees_host {
        add_host(&mut fields, status);
    }
    let endpoint = status.endpoint.as_ref().filter(|endpoint| !endpoint.address.is_empty());
    fields.maybe(
        "endpoints",
        endpoint.map(|endpoint| format!("*.{} at {}", endpoint.domain, endpoint.address)),
    );
    if !sees_host {
        fields.add(
            "host",
            "not shown: an operator can add \"GetHostStatus\" to the actions of a policy of this key",
        );
    }
    fields.text()
}

/// Memory in use, of what there may be.
fn used(mib: i64, limit: Option<i64>) -> String {
    limit.map_or_else(|| format!("{mib} MiB"), |limit| format!("{mib} of {limit} MiB"))
}

/// Bytes of the disk in use, of what there may be.
fn disk(taken: i64, limit: Option<i64>) -> String {
    limit.map_or_else(|| bytes(taken), |limit| format!("{} of {}", bytes(taken), bytes(limit)))
}

/// The other limits of an account, if it has any.
fn limits(account: &AccountStatus) -> Option<String> {
    let limits = [
        (account.max_images, "images"),
        (account.max_versions, "versions of an image"),
        (account.max_builds, "builds at a time"),
    ];
    let limits: Vec<_> =
        limits.iter().filter_map(|(limit, of)| Some(format!("{} {of}", (*limit)?))).collect();
    (!limits.is_empty()).then(|| limits.join(", "))
}

fn add_host(fields: &mut Fields, status: &HostStatus) {
    fields.add("processor", format!("{}, {} CPUs", status.processor, status.cpus));
    fields.add("kernel", &*status.kernel);
    fields.add("memory", bytes(status.memory_bytes));
    let (reserved, capacity) = (status.reserved_mib, status.capacity_mib);
    fields.add("microVM memory", format!("{reserved} of {capacity} MiB reserved"));
    fields
        .add("disk", format!("{} of {} free", bytes(status.disk_free_bytes), bytes(status.disk_total_bytes)));
    let disks = status
        .account_disks
        .iter()
        .map(|disk| format!("{} {}, room for {}", disk.account, bytes(disk.bytes), bytes(disk.room_bytes)));
    let disks: Vec<_> = disks.collect();
    fields.maybe("account disks", (!disks.is_empty()).then(|| disks.join("; ")));
    let states = status.microvms.iter().filter(|(_, count)| **count > 0);
    let states: Vec<_> = states.map(|(state, count)| format!("{count} {state}")).collect();
    fields.add("microVMs", if states.is_empty() { "none".to_owned() } else { states.join(", ") });
    fields.add("builds", format!("{} under way", status.builds_under_way));
    let pools = status.pools.iter().map(|pool| format!("{} {}/{}", pool.name, pool.ready, pool.wanted));
    fields.add("pools", pools.collect::<Vec<_>>().join(", "));
}
