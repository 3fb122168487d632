//! `hearth-vmm verify`: reads all of a snapshot and finds what is damaged.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use hearth_vmm::snapshot::verify::{Verified, verify};

use super::output;

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Folder of the snapshot
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        for Verified { folder, memory, working_set } in verify(&self.folder)? {
            let compared = |what: &str, pages: Option<u64>| match pages {
                Some(pages) => format!("{what}: {pages} pages are as they were written"),
                None => format!("{what}: has no checksums, it is of an older release"),
            };
            let lines = std::iter::once(compared("memory", memory));
            let lines = lines.chain(working_set.map(|pages| compared("working-set", pages)));
            for line in lines {
                output::print(format_args!("{}: {line}", folder.display()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
