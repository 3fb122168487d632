//! `hearth-vmm snapshot` and `hearth-vmm suspend`: write a running machine into a folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use hearth_vmm_api::snapshot::id_text;
use hearth_vmm_client::Client;
use hearth_vmm_client::snapshot::{self, Take, Taken};

use super::origin::Origin;
use super::output;
use super::table::table;

/// Where to.
#[derive(Debug, Args)]
struct Place {
    /// Control socket of the monitor
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,

    /// Folder to write; it appears as a whole or not at all
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    /// Replace a snapshot that is there
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
pub(super) struct Snapshot {
    #[command(flatten)]
    place: Place,

    /// End the machine, instead of letting it go on
    #[arg(long)]
    end: bool,
}

#[derive(Debug, Args)]
pub(super) struct Suspend {
    #[command(flatten)]
    place: Place,

    /// Full snapshot that the machine was restored from, where `restore` was another program's
    #[arg(long, value_name = "FOLDER")]
    base: Option<PathBuf>,
}

/// Prints what was written.
fn report(what: &str, folder: &Path, base: Option<&Path>, taken: &Taken) {
    let kind = match base {
        Some(base) => format!("what differs from {}", base.display()),
        None => "all of it".into(),
    };
    output::print(format_args!("{what} {}: {kind}", folder.display()));
    output::print(table(&taken.saved.steps, &taken.saved.pages));
    if let Some(left) = &taken.left {
        output::print(format_args!("what was replaced could not be removed: remove {}", left.display()));
    }
}

impl Snapshot {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Place { socket, folder, replace } = self.place;
        let client = Client::connect(socket)?;
        let taken = snapshot::take(&client, &folder, &Take { replace, ..Take::default() })?;
        if self.end {
            client.shutdown()?;
        } else if taken.was_running {
            client.resume()?;
        }
        report("snapshot in", &folder, None, &taken);
        Ok(ExitCode::SUCCESS)
    }
}

impl Suspend {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Place { socket, folder, replace } = self.place;
        let origin = Origin::beside(&socket)?;
        let client = Client::connect(socket)?;
        let builds_on = client.status()?.base_id;
        let base = match (self.base, builds_on.is_empty()) {
            (Some(base), _) => Some(base),
            (None, true) => None,
            (None, false) => match origin.base {
                Some(base) => Some(base),
                None => bail!(
                    "the machine was restored from snapshot {}, whose folder is not known: name it with --base FOLDER, or \
                     write all of the machine with `hearth-vmm snapshot --end`",
                    id_text(&builds_on)
                ),
            },
        };
        let take = Take { base, overlays: origin.overlays, replace, ..Take::default() };
        let taken = snapshot::suspend(&client, &folder, &take)?;
        report("suspended into", &folder, take.base.as_deref(), &taken);
        Ok(ExitCode::SUCCESS)
    }
}
