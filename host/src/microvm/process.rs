//! A monitor process that is held by descriptor, whichever process started it.
//!
//! A process id can be reused by another process; the descriptor (pidfd) cannot. To find a process again after a restart of this
//! one, its id is recorded together with its start time and the boot that both belong to.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// File with the id of the host's boot, which differs for each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Index of the start time among the words of `/proc/PID/stat` after the name (proc_pid_stat(5), field 22).
const START_TIME: usize = 19;

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
pub enum Ended {
    /// It exited with this status.
    Status(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// Unknown, because it is not a child of this process, or was reaped before.
    Unknown,
}

impl std::fmt::Display for Ended {
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
        // SAFETY: pidfd_open takes a process id and flags and touches no memory of this process.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = match i32::try_from(fd) {
            // SAFETY: the descriptor is new and has no other owner.
            Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
            _ => {
                return match io::Error::last_os_error() {
                    error if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => Ok(None),
                    error => Err(error),
                };
            }
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

    /// Waits until the process has exited, at most `limit`. Returns whether it has.
    ///
    /// # Errors
    /// A system call failed.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        loop {
            // SAFETY: `poll` is one valid entry for the length of the call.
            match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
                -1 => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
                count => return Ok(count > 0),
            }
        }
    }

    /// Whether the process has exited.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO).unwrap_or(false)
    }

    /// Waits until the process has exited, on the runtime.
    ///
    /// # Errors
    /// A system call failed.
    pub async fn ended(&self) -> io::Result<()> {
        let fd = self.fd.try_clone()?;
        // SAFETY: the descriptor is owned by the object that it is registered for, and is not closed or replaced before that is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        fd.readable().await?.retain_ready();
        Ok(())
    }

    /// Kills the process (`SIGKILL`). If it has exited already, that is no error.
    ///
    /// # Errors
    /// A system call failed.
    pub fn kill(&self) -> io::Result<()> {
        let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
        // SAFETY: the descriptor is a process's, and the signal is sent without information.
        match unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), libc::SIGKILL, info, flags)
        } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if is_gone(&error) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Reaps the process if it is a child of this one: until then, an exited child stays in the table of processes.
    #[must_use]
    pub fn reap(&self) -> Ended {
        let Ok(fd) = libc::id_t::try_from(self.fd.as_raw_fd()) else { return Ended::Unknown };
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WNOHANG;
        // SAFETY: `info` is a valid place for the answer.
        if unsafe { libc::waitid(libc::P_PIDFD, fd, info.as_mut_ptr(), options) } != 0 {
            return Ended::Unknown; // not a child of this process, or reaped already
        }
        // SAFETY: plain numbers, for which zeroes are valid, and filled in by the call where there was an end.
        let info = unsafe { info.assume_init() };
        // SAFETY: the answer to waitid has a process id and a status.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        match info.si_code {
            _ if pid == 0 => Ended::Unknown,
            libc::CLD_EXITED => Ended::Status(status),
            _ => Ended::Signal(status),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

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
        assert!(!process.has_ended());
        process.kill().unwrap();
        assert!(process.wait(Duration::from_secs(60)).unwrap());
        assert_eq!(process.reap(), Ended::Signal(libc::SIGKILL));
        assert_eq!(process.reap(), Ended::Unknown, "noted already");
        process.kill().unwrap();
        assert!(Process::find(&identity).unwrap().is_none());
        assert!(child.wait().is_err(), "it was noted above");
    }

    #[tokio::test]
    async fn an_end_is_waited_for_on_the_runtime() {
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        process.ended().await.unwrap();
        assert_eq!(process.reap(), Ended::Status(3));
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
}
