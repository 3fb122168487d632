//! A monitor process that is held by descriptor, whichever process started it.
//!
//! A process id can be reused by another process; the descriptor (pidfd) cannot. To find a process again after a restart of this
//! one, its id is recorded together with its start time and the boot that both belong to. Nothing that a monitor says about itself
//! decides which process is ended.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use hearth_vmm_client::launch::PROCESS_RECORD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// File with the id of the host's boot, which differs for each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Index of the start time among the words of `/proc/PID/stat` after the name (proc_pid_stat(5), field 22).
const START_TIME: usize = 19;
/// Longest record of a process in bytes.
const RECORD_BYTES: u64 = 4096;

/// Identifies a process on this host, for all time.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start time, in clock ticks since the boot.
    pub start_time: u64,
    /// Id of the host's boot.
    pub boot_id: String,
}

impl Identity {
    fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, start_time, boot_id: fs::read_to_string(BOOT_ID)?.trim().to_owned() })
    }

    /// Reads what was recorded when the monitor in this run directory was started; none if no monitor was started there.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn recorded(folder: &Path) -> io::Result<Option<Self>> {
        let mut text = String::new();
        match File::open(folder.join(PROCESS_RECORD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?.take(RECORD_BYTES).read_to_string(&mut text)?,
        };
        // A record without its second line is of a process that has not become a monitor.
        Ok(parse_record(&text))
    }
}

/// Parses the id of a boot, and a line of `/proc/PID/stat` below it.
fn parse_record(text: &str) -> Option<Identity> {
    let (boot_id, stat) = text.split_once('\n')?;
    let (pid, _) = stat.split_once(' ')?;
    let (pid, start_time) = (pid.parse().ok()?, start_time(stat)?);
    Some(Identity { pid, start_time, boot_id: boot_id.to_owned() })
}

/// Parses the start time in a line of `/proc/PID/stat`. The process chooses the name in it, which may contain any character.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(START_TIME)?.parse().ok()
}

/// A process. Dropping this does not affect it.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    fd: OwnedFd,
}

/// How a child of this process has terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this status.
    Status(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// Unknown, because it is not a child of this process, or was reaped before.
    Unknown,
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "it ended with status {status}"),
            Self::Signal(signal) => write!(f, "it was ended by signal {signal}"),
            Self::Unknown => f.write_str("it has ended"),
        }
    }
}

impl Process {
    /// Opens the process that has this id now; none if there is none.
    ///
    /// # Errors
    /// A system call failed.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let fd = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match Identity::of(pid) {
            Ok(identity) => Ok(Some(Self { identity, fd })),
            // The process has exited, and was waited for, in between.
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Finds the recorded process; none if it has exited.
    ///
    /// # Errors
    /// A system call failed.
    pub fn find(identity: &Identity) -> io::Result<Option<Self>> {
        // The identities are compared after the descriptor was opened, so that the comparison is about the process it refers to.
        Ok(Self::open(identity.pid)?.filter(|process| process.identity == *identity))
    }

    /// The identity to record.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Memory that is the process's own, in bytes: what it has written, whether it is resident or swapped out.
    ///
    /// # Errors
    /// The process has exited, or the kernel does not tell.
    pub fn private_memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.identity.pid))?;
        private_memory(&status).ok_or_else(|| io::Error::other("there is no RssAnon in its status"))
    }

    /// Waits until the process has exited, at most `limit`. Returns whether it has.
    ///
    /// # Errors
    /// A system call failed.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        // A limit that the kernel cannot count is none.
        let limit = Timespec::try_from(limit).ok();
        let mut entries = [PollFd::new(&self.fd, PollFlags::IN)];
        Ok(retry_on_intr(|| poll(&mut entries, limit.as_ref()))? > 0)
    }

    /// Whether the process has exited.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        self.wait(Duration::ZERO).unwrap_or(false)
    }

    /// Waits until the process has exited, on the runtime.
    ///
    /// # Errors
    /// A system call failed.
    pub async fn exited(&self) -> io::Result<()> {
        hearth_sys::readable(self.fd.try_clone()?).await
    }

    /// Kills the process (`SIGKILL`). If it has exited already, that is no error.
    ///
    /// # Errors
    /// A system call failed.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills the process, and waits until it has exited, at most `limit`.
    ///
    /// # Errors
    /// It does not exit in time (`TimedOut`), or a system call failed.
    pub fn end(&self, limit: Duration) -> io::Result<()> {
        self.kill()?;
        if !self.wait(limit)? {
            let message = format!("process {} was killed and does not end", self.identity.pid);
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        let _ = self.reap();
        Ok(())
    }

    /// Reaps the process if it is a child of this one: until then, an exited child stays in the table of processes.
    #[must_use]
    pub fn reap(&self) -> ExitStatus {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // An error: it is not a child of this process, or was reaped already.
        let Ok(Some(end)) = waitid(WaitId::PidFd(self.fd.as_fd()), options) else {
            return ExitStatus::Unknown;
        };
        let signal = || end.terminating_signal().map(ExitStatus::Signal);
        end.exit_status().map(ExitStatus::Status).or_else(signal).unwrap_or(ExitStatus::Unknown)
    }
}

/// Own memory in bytes, from `/proc/PID/status` (proc_pid_status(5)).
fn private_memory(status: &str) -> Option<u64> {
    let kib = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    // Without swap in the kernel there is no VmSwap.
    Some(kib("RssAnon")?.saturating_add(kib("VmSwap").unwrap_or_default()).saturating_mul(1 << 10))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn private_memory_is_what_is_resident_or_swapped_out_and_of_no_file() {
        let status =
            "Name:\tRssAnon: 9 kB\nRssAnon:\t     104 kB\nRssFile:\t    1792 kB\nVmSwap:\t       8 kB\n";
        assert_eq!(private_memory(status), Some(112 << 10));
        assert_eq!(private_memory("RssAnon:\t     104 kB\n"), Some(104 << 10));
        assert_eq!(private_memory("Name:\tzombie\n"), None);
        let own = Process::open(std::process::id()).unwrap().unwrap();
        let before = own.private_memory().unwrap();
        let written = vec![1_u8; 32 << 20];
        let after = own.private_memory().unwrap();
        assert!(
            after >= before + (16 << 20),
            "{before} and {after} bytes, of which {} are new",
            written.len()
        );
    }

    #[test]
    fn a_process_is_found_again_until_it_has_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        let identity = process.identity().clone();
        assert!(Process::find(&identity).unwrap().is_some());
        for other in [
            Identity { start_time: identity.start_time + 1, ..identity.clone() },
            Identity { boot_id: "another".into(), ..identity.clone() },
        ] {
            assert!(Process::find(&other).unwrap().is_none(), "{other:?}");
        }
        assert!(!process.has_exited());
        process.kill().unwrap();
        assert!(process.wait(Duration::from_secs(60)).unwrap());
        assert_eq!(process.reap(), ExitStatus::Signal(Signal::KILL.as_raw()));
        assert_eq!(process.reap(), ExitStatus::Unknown, "noted already");
        process.kill().unwrap();
        assert!(Process::find(&identity).unwrap().is_none());
        assert!(child.wait().is_err(), "it was noted above");
    }

    #[tokio::test]
    async fn an_end_is_waited_for_on_the_runtime() {
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        process.exited().await.unwrap();
        assert_eq!(process.reap(), ExitStatus::Status(3));
        assert!(child.wait().is_err(), "it was noted above");
    }

    #[test]
    fn the_name_of_a_process_does_not_move_its_start_time() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["sh", "a) S 1 2", "x (y"] {
            assert_eq!(start_time(&format!("12 ({name}) {rest}")), Some(4711), "{name}");
        }
        assert_eq!(start_time("12 (sh) S"), None);
    }

    #[test]
    fn a_record_is_the_boot_and_the_process() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20\n";
        let identity = Identity { pid: 12, start_time: 4711, boot_id: "boot".into() };
        assert_eq!(parse_record(&format!("boot\n{stat}")), Some(identity));
        for text in ["", "boot", "boot\n", "boot\n12 (sh) S", "boot\n12", "boot\nx (sh) S"] {
            assert_eq!(parse_record(text), None, "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Identity::recorded(folder.path()).unwrap(), None);
    }
}
