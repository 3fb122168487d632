//! `hearth-vmm scrub`: verifies files for a daemon, in the jail. It reads what monitors have written, whose guests may have
//! taken them over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{OwnedFd, RawFd};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Args;
use hearth_vmm::snapshot::verify::{Report, Subject};
use hearth_vmm_api::scrub::{ScrubReport, ScrubTask};
use hearth_vmm_api::snapshot::bulk::Bulk;
use hearth_vmm_api::socket::PacketSocket;
use hearth_vmm_jail::{JailConfig, Wall, enter_helper};

/// Most bytes of memory: checksums and block maps of the largest files take a fraction of it.
const MEMORY: u64 = 1 << 30;
/// Bytes after which the daemon is told how much was read.
const REPORT: u64 = 4 << 20;
/// Longest sleep: the daemon is told that the process lives.
const NAP: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Scrub {
    /// The socket over which the task comes
    #[arg(long, value_name = "FD")]
    control_fd: RawFd,

    #[command(flatten)]
    jail: JailConfig,
}

impl Scrub {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        be_idle();
        if self.jail.has(Wall::Limits) {
            limit(libc::RLIMIT_DATA, MEMORY).context("limiting memory")?;
        }
        let socket = PacketSocket::from_fd(enter_helper(&self.jail, self.control_fd)?);
        // The change of users has cleared what the launcher set. If it died before, the socket is closed.
        // SAFETY: prctl with numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let mut packet = Vec::new();
        let Some(descriptors) = socket.receive(&mut packet).context("receiving the task")? else {
            return Ok(ExitCode::SUCCESS);
        };
        let task = ScrubTask::decode(&packet).ok_or_else(|| anyhow!("the task makes no sense"))?;
        work(&socket, &task, descriptors)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn work(socket: &PacketSocket, task: &ScrubTask, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
    let mut files = descriptors.into_iter().map(File::from);
    let sums: Vec<File> = files.by_ref().take(task.sums).collect();
    let into = if task.make { files.next() } else { None };
    let files: BTreeMap<_, _> = task.names.iter().cloned().zip(files).collect();
    let mut pace = Pace { socket, rate: task.rate, began: Instant::now(), read: 0, unsaid: 0 };
    let mut on_read = |bytes| pace.read(bytes);
    let report = Subject::new(files, sums).verify(task.make, &mut Bulk::from_disk(&mut on_read));
    let unsaid = pace.unsaid;
    let Report { uncovered, damage, made, .. } = report;
    let say = |report: ScrubReport| socket.send(&report.encode(), &[]).context("reporting");
    say(ScrubReport::Read(unsaid))?;
    if let Some(mut into) = into.filter(|_| !made.files.is_empty()) {
        into.write_all(&made.encode()).context("writing checksums")?;
    }
    for (name, _) in uncovered {
        say(ScrubReport::Uncovered(name))?;
    }
    for (file, damage) in damage {
        say(ScrubReport::Damage { file, text: damage.to_string() })?;
    }
    say(ScrubReport::Done)
}

/// Keeps to a rate, and tells the daemon what was read.
struct Pace<'a> {
    socket: &'a PacketSocket,
    /// Bytes in a second; 0 is no limit.
    rate: u64,
    began: Instant,
    read: u64,
    unsaid: u64,
}

impl Pace<'_> {
    fn read(&mut self, bytes: u64) -> io::Result<()> {
        self.read += bytes;
        self.unsaid += bytes;
        if self.unsaid >= REPORT {
            self.say()?;
        }
        loop {
            let due = self
                .read
                .saturating_mul(1000)
                .checked_div(self.rate)
                .map_or(Duration::ZERO, Duration::from_millis);
            let ahead = due.saturating_sub(self.began.elapsed());
            if ahead.is_zero() {
                return Ok(());
            }
            sleep(ahead.min(NAP));
            if ahead > NAP {
                self.say()?;
            }
        }
    }

    fn say(&mut self) -> io::Result<()> {
        let report = ScrubReport::Read(std::mem::take(&mut self.unsaid));
        self.socket.send(&report.encode(), &[])
    }
}

/// Has this process wait for all others, at processors and disks, and not look like a monitor. Where the kernel does not do
/// so, it is only less polite.
fn be_idle() {
    const WHO_PROCESS: libc::c_int = 1; // IOPRIO_WHO_PROCESS
    const CLASS_IDLE: libc::c_int = 3 << 13; // IOPRIO_CLASS_IDLE
    // SAFETY: system calls with numbers, and a name with a terminating zero, about the calling process.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"hearth-scrub".as_ptr());
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE);
    }
}

/// Lowers a limit of this process.
fn limit(resource: libc::__rlimit_resource_t, bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the structure lives through the call.
    match unsafe { libc::setrlimit(resource, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::thread;

    use hearth_vmm_api::snapshot::sums::{SUMS, Sums};

    use super::*;

    /// What the process reports of these files, and the checksums that it makes.
    fn scrubbed(names: &[&str], files: &[&File], sums: Option<&File>) -> (Vec<ScrubReport>, File) {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let made = tempfile::tempfile().unwrap();
        let task = ScrubTask {
            rate: 0,
            make: sums.is_none(),
            sums: usize::from(sums.is_some()),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let new = sums.is_none().then_some(&made);
        let descriptors: Vec<_> =
            sums.into_iter().chain(new).chain(files.iter().copied()).map(File::as_fd).collect();
        ours.send(&task.encode(), &descriptors).unwrap();
        let process = thread::spawn(move || {
            let mut packet = Vec::new();
            let descriptors = theirs.receive(&mut packet).unwrap().unwrap();
            work(&theirs, &ScrubTask::decode(&packet).unwrap(), descriptors).unwrap();
        });
        let (mut reports, mut packet) = (Vec::new(), Vec::new());
        while ours.receive(&mut packet).unwrap().is_some() {
            reports.push(ScrubReport::decode(&packet).unwrap());
        }
        process.join().unwrap();
        (reports, made)
    }

    #[test]
    fn what_comes_without_checksums_gets_them_and_is_compared_with_them() {
        let disk = tempfile::tempfile().unwrap();
        let write =
            |byte: u8, at| std::os::unix::fs::FileExt::write_all_at(&disk, &[byte; 5000], at).unwrap();
        write(1, 0);
        write(2, 9 << 20);
        let missing = || ScrubReport::Damage { file: "state".into(), text: "the file is missing".into() };
        let (reports, made) = scrubbed(&["disk"], &[&disk], None);
        let read: u64 =
            reports.iter().map(|report| if let ScrubReport::Read(bytes) = report { *bytes } else { 0 }).sum();
        assert_eq!(read, (1 << 20) + 5000);
        assert_eq!(
            reports[reports.len() - 3..],
            [ScrubReport::Uncovered("disk".into()), missing(), ScrubReport::Done]
        );
        assert!(Sums::read(&made, SUMS).unwrap().files.keys().eq(["disk"]));

        let (reports, _) = scrubbed(&["disk"], &[&disk], Some(&made));
        assert_eq!(reports[reports.len() - 2..], [missing(), ScrubReport::Done]);
        write(3, 9 << 20);
        let (reports, _) = scrubbed(&["disk"], &[&disk], Some(&made));
        let damaged = |report: &ScrubReport| matches!(report, ScrubReport::Damage { file, text } if file == "disk" && text.contains("5000 bytes at 9437184"));
        assert!(reports.iter().any(damaged), "{reports:?}");
        std::os::unix::fs::FileExt::write_all_at(&made, &[0xff], 20).unwrap();
        let (reports, _) = scrubbed(&["disk"], &[&disk], Some(&made));
        let damaged =
            |report: &ScrubReport| matches!(report, ScrubReport::Damage { file, .. } if file == "checksums");
        assert!(reports.iter().any(damaged), "{reports:?}");
    }
}
