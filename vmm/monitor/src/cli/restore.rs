//! `hearth-vmm restore`: restores a machine from a snapshot's folder, with its console on this terminal.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use clap::Args;
use hearth_vmm_api::config::restore::{RestoreClock, RestoreConfig};
use hearth_vmm_client::Client;
use hearth_vmm_client::snapshot::{self, write_working_set};
use hearth_vmm_client::tap;

use super::args::Disk;
use super::host::{Disks, NewFile, VsockHost, open};
use super::origin::Origin;
use super::output;
use super::session::{Console, Session, SessionOptions};
use super::table::table;

/// The device that provides descriptors for [`Restore::record`] (Linux, Documentation/admin-guide/mm/userfaultfd.rst).
const USERFAULTFD: &str = "/dev/userfaultfd";

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Folder of the snapshot
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    /// Disk, attached as it was: PATH[,ro|,rw|,overlay=NEW-PATH]; may be repeated, in the order of the snapshot's
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<Disk>,

    /// Existing tap for a network card; may be repeated, in the order of the snapshot's
    #[arg(long = "tap", value_name = "NAME")]
    taps: Vec<String>,

    /// Where clients of the guest's vsock ports connect, as with `boot`
    #[arg(long, value_name = "PATH")]
    vsock: Option<PathBuf>,

    /// Kernel, needed only where the guest may restart itself
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Initramfs, needed only where the guest may restart itself
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,

    /// Working set to bring in; the file working-set of the (full) snapshot where it exists
    #[arg(long, value_name = "FILE", conflicts_with_all = ["no_working_set", "record"])]
    working_set: Option<PathBuf>,

    /// Bring no working set in
    #[arg(long)]
    no_working_set: bool,

    /// Record the working set, and write it to FILE on Ctrl-A x (or with `ctl SOCKET working-set FILE` at any time)
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Let the guest's clocks go ahead by the time that has passed since the snapshot: the default for a diff
    #[arg(long, conflicts_with = "continue_clock")]
    advance_clock: bool,

    /// Let the guest's clocks go on from the snapshot: the default for a full snapshot
    #[arg(long)]
    continue_clock: bool,

    #[command(flatten)]
    session: SessionOptions,
}

impl Restore {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let opened = snapshot::open(&self.folder)?;
        if let Some(disk) = self.disks.iter().find(|disk| !disk.serial.is_empty()) {
            bail!("disk {}: its serial id is the snapshot's: leave serial= out", disk.path.display());
        }
        if let Some(record) = &self.record {
            writable_place(record)?;
        }
        let memory_mib = opened.machine()?.memory_mib;
        let clock = match (opened.is_diff() || self.advance_clock) && !self.continue_clock {
            true => RestoreClock::Advance,
            false => RestoreClock::Continue,
        };
        let Disks { sources, overlays, new } = Disks::open(&self.disks)?;
        let origin = Origin { base: Some(opened.next_base().to_owned()), overlays };
        let (console, guest_output, guest_input) = Console::open()?;
        let vsock = self.vsock.as_deref().map(VsockHost::open).transpose()?;
        let mut config = opened.into_config(sources)?;
        let sockets = vsock.map(|host| {
            (config.vsock_listener, config.vsock_broker) = (Some(host.listener), Some(host.broker));
            host.file
        });
        config.console_output = Some(guest_output);
        config.console_input = Some(guest_input);
        config.console_max_bytes = u64::MAX;
        config.clock = clock;
        self.open_files(&mut config)?;
        let session = Session::start(self.session, memory_mib, &origin)?;
        let restored = session.client().restore(config)?;
        new.into_iter().for_each(NewFile::keep);
        let clock = match clock {
            RestoreClock::Continue => "its clocks go on from the snapshot",
            _ => "its clocks go ahead to now",
        };
        output::print_error(format_args!("restored from {}; {clock}", self.folder.display()));
        output::print_error_lines(table(&restored.steps, &restored.pages));

        let recorded = Arc::new(AtomicBool::new(false));
        let (record, done) = (self.record.clone(), Arc::clone(&recorded));
        let quit = move |client: &Client| {
            if let Some(record) = &record {
                done.store(save_record(client, record), Ordering::SeqCst);
            }
            let _ = client.shutdown(); // the monitor may have exited by itself
        };
        let ended = session.run(console, |client| Ok(client.resume()?), quit);
        drop(sockets);
        if let Some(record) = self.record.filter(|_| !recorded.load(Ordering::SeqCst)) {
            output::print_error(format_args!(
                "{} was not written: only Ctrl-A x does that, or `hearth-vmm ctl SOCKET working-set FILE`",
                record.display()
            ));
        }
        ended
    }

    fn open_files(&self, config: &mut RestoreConfig) -> anyhow::Result<()> {
        let optional = |what: &str, path: &Option<PathBuf>| {
            path.as_ref().map(|path| open(what, path, false)).transpose()
        };
        config.taps = self.taps.iter().map(|name| tap::open_tap(name)).collect::<Result<_, _>>()?;
        config.kernel = optional("kernel", &self.kernel)?;
        config.initramfs = optional("initramfs", &self.initrd)?;
        if let Some(given) = optional("working set", &self.working_set)? {
            config.working_set = Some(given);
        }
        if self.no_working_set || self.record.is_some() {
            config.working_set = None;
        }
        if self.record.is_some() {
            let device = open("device", Path::new(USERFAULTFD), true);
            config.userfaultfd = Some(device.context("recording a working set takes Linux 6.1 and root")?);
        }
        Ok(())
    }
}

/// Returns an error if `path` cannot be written to, before the machine runs in vain.
fn writable_place(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || !parent.is_dir() {
        bail!("{} cannot be written: name a file in a folder that exists", path.display());
    }
    Ok(())
}

fn save_record(client: &Client, to: &Path) -> bool {
    match write_working_set(client, to) {
        Ok(saved) => {
            let (touched, written) = (saved.touched_pages, saved.written_pages);
            output::print_error(format_args!("{}: {touched} pages, {written} of them written", to.display()));
            true
        }
        Err(error) => {
            output::print_error(error);
            false
        }
    }
}
