//! `hearth-vmm verify`: reads all of a snapshot or an image and finds what is damaged.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use hearth_vmm::snapshot::verify::{Report, Subject};
use hearth_vmm_api::snapshot::bulk::Bulk;
use hearth_vmm_api::snapshot::sums::{SUMS, Sums};

use super::output;

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Folder of the snapshot or the image
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    /// Also make checksums of the files that have none, and keep them in the folder
    #[arg(long)]
    make_sums: bool,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut damaged = 0;
        for (number, (folder, subject)) in Subject::open(&self.folder)?.into_iter().enumerate() {
            // What the folder builds on is another one, which may be another's.
            let make = self.make_sums && number == 0;
            let report = subject.verify(make, &mut Bulk::from_disk(&mut |_| Ok(())));
            print(&folder, &report);
            damaged += report.damage.len();
            if make && report.damage.is_empty() && !report.made.files.is_empty() {
                keep(&folder, report.made)?;
            }
        }
        Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print(folder: &Path, report: &Report) {
    let folder = folder.display();
    for (file, what) in &report.whole {
        output::print(format_args!("{folder}: {file}: {what} as written"));
    }
    for (file, what) in &report.uncovered {
        output::print(format_args!("{folder}: {file}: not covered: {what} has no checksums"));
    }
    for (file, damage) in &report.damage {
        output::print_error(format_args!("{folder}: {file}: {damage}"));
    }
}

/// Adds checksums to those of a folder; the file appears as a whole or not at all.
fn keep(folder: &Path, made: Sums) -> anyhow::Result<()> {
    let path = folder.join(SUMS);
    let mut sums = match File::open(&path) {
        Ok(file) => Sums::read(&file, SUMS)?,
        Err(_) => Sums::default(),
    };
    let count = made.files.len();
    sums.files.extend(made.files);
    let temporary = folder.join(format!(".{SUMS}.tmp-{}-0", std::process::id()));
    let written = File::create_new(&temporary).and_then(|mut file| {
        file.write_all(&sums.encode())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    });
    written.with_context(|| format!("writing {}", path.display()))?;
    output::print(format_args!("{}: checksums of {count} files are made", path.display()));
    Ok(())
}
