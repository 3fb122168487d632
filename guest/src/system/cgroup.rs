//! The app's control groups: all processes of the app can be frozen at once (Linux,
//! Documentation/admin-guide/cgroup-v2.rst, `cgroup.freeze`).
//!
//! ```text
//!   /sys/fs/cgroup       the agent
//!     app                frozen and thawed
//!       container        the app and the processes beside it; the root of the container's cgroup namespace
//!       beside           the processes beside it while `container` accepts no processes
//! ```
//!
//! The container sees nothing above `container`, so whatever it does with its own groups, it can neither leave `app` nor thaw it.
//! A group that gives controllers to groups below it has no processes itself: an app that does so with its root – a container
//! runtime, an init – leaves no room there for processes beside it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::devices::{self, Device};

/// Mount point of the hierarchy, which `init` mounts.
pub const FOLDER: &str = "/sys/fs/cgroup";

/// Name of the group that contains all processes of the app.
const APP: &str = "app";
/// Names of the groups below it that have processes.
const CONTAINER: &str = "container";
const BESIDE: &str = "beside";

/// The groups of a container.
#[derive(Debug)]
pub struct Groups {
    app: PathBuf,
    /// `cgroup.freeze`, kept open so that a thaw is one system call.
    freeze: File,
    /// `cgroup.procs` of the groups that have processes, by preference.
    entrances: [File; 2],
}

impl Groups {
    /// Makes the groups. With `delegate`, the container's groups get all controllers of the machine.
    ///
    /// # Errors
    /// The kernel has no cgroup version 2, or a file operation failed.
    pub fn make(root: &Path, delegate: bool) -> io::Result<Self> {
        let app = root.join(APP);
        for group in [app.clone(), app.join(CONTAINER), app.join(BESIDE)] {
            match fs::create_dir(&group) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        if delegate {
            for group in [root, &app] {
                for controller in fs::read_to_string(group.join("cgroup.controllers"))?.split_whitespace() {
                    // Some controllers are not available at all times; the app runs without those.
                    let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
        let open = |path: PathBuf| File::options().write(true).open(path);
        let freeze = open(app.join("cgroup.freeze"))?;
        let entrance = |group| open(app.join(group).join("cgroup.procs"));
        Ok(Self { freeze, entrances: [entrance(CONTAINER)?, entrance(BESIDE)?], app })
    }

    /// Lets the processes in the groups open these devices only.
    ///
    /// # Errors
    /// The kernel was built without `CONFIG_CGROUP_BPF`, or a system call failed.
    pub fn limit_devices(&self, allowed: &[Device]) -> io::Result<()> {
        devices::limit(File::open(&self.app)?, allowed)
    }

    /// Descriptors of `cgroup.procs`, by which a process [enters](enter) the groups.
    #[must_use]
    pub fn entrances(&self) -> [RawFd; 2] {
        self.entrances.each_ref().map(|entrance| entrance.as_raw_fd())
    }

    /// Freezes all processes in the groups. Returns false if some are not frozen after `limit`.
    ///
    /// # Errors
    /// A system call failed.
    pub async fn freeze(&self, limit: Duration) -> io::Result<bool> {
        let events = File::open(self.app.join("cgroup.events"))?;
        // SAFETY: a file is open, and the same one, as long as it lives.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::PRIORITY) }?;
        self.set("1")?;
        let frozen = async {
            let mut text = [0; 64];
            loop {
                // Each read arms the notification of the next change.
                let length = events.get_ref().read_at(&mut text, 0)?;
                if String::from_utf8_lossy(&text[..length]).lines().any(|line| line == "frozen 1") {
                    return Ok(());
                }
                events.ready(Interest::PRIORITY).await?.clear_ready();
            }
        };
        timeout(limit, frozen).await.map_or(Ok(false), |frozen: io::Result<()>| frozen.map(|()| true))
    }

    /// Thaws all processes in the groups.
    ///
    /// # Errors
    /// A system call failed.
    pub fn thaw(&self) -> io::Result<()> {
        self.set("0")
    }

    fn set(&self, value: &str) -> io::Result<()> {
        self.freeze.write_all_at(value.as_bytes(), 0)
    }
}

/// Moves the calling process, which has one thread, into the first of these groups that accepts it. In a frozen group, the process
/// stops until the group is thawed.
///
/// # Errors
/// A system call failed.
pub fn enter(entrances: &[impl AsFd]) -> io::Result<()> {
    let mut result = Ok(());
    for entrance in entrances {
        result = enter_one(entrance.as_fd());
        if !result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            break;
        }
    }
    result
}

fn enter_one(entrance: BorrowedFd<'_>) -> io::Result<()> {
    // 0 stands for the process that writes it.
    File::from(entrance.try_clone_to_owned()?).write_all(b"0")
}
