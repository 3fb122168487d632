//! The jail: it confines a monitor process that a hostile guest may have taken over, and thereby protects the host.
//!
//! The launcher [`prepare`]s a folder and a control group and [`spawn`]s the monitor as root. The monitor [`enter`]s
//! the jail before it reads a byte from its control socket; only then does it receive its resources, as descriptors.
//! The jail consists of walls that do not rely on one another. Each is a [`Wall`] with a name, is put up by default,
//! and can be left out by that name for debugging. `docs/jail.md` describes how each is tested.
//!
//! * [`config`] – the walls and their settings, and their conversion to and from the command line
//! * [`process`] – the launcher's part: preparing, starting and cleaning up
//! * [`cgroup`] – control groups (version 2): limits on the host resources that a microVM may use
//! * [`seccomp`] – the system calls that each kind of thread may make
//!
//! Helpers of the daemon that handle what strangers made, too, enter the same jail ([`enter_helper`]).

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "tests cast small numbers that they chose themselves"
    )
)]

pub mod cgroup;
pub mod config;
mod descriptors;
mod landlock;
mod privileges;
pub mod process;
mod root;
pub mod seccomp;
mod sys;

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

pub use cgroup::{Cgroup, CgroupConfig, CgroupError};
pub use config::{JailConfig, JailMode, OnViolation, Wall};
pub use process::{CleanupError, PrepareError, SpawnError, clean_up, prepare, spawn};
pub use root::RootMethod;
pub use seccomp::{Filters, SeccompError, ThreadRole};

use hearth_vmm_api::steps::Steps;
use sys::{check, unshare};

/// The number of the control socket's descriptor inside the jail.
pub const CONTROL_FD: RawFd = 3;

/// If the monitor could create files, only its own user could access them.
const UMASK: libc::mode_t = 0o077;

/// The reason for which a process could not enter the jail. The process must exit then: the jail may be incomplete.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The jail was entered too late.
    #[error("the jail must be entered while the process has one thread, but it has {0}")]
    Threads(usize),
    /// The process does not have the privileges to put the wall up.
    #[error(
        "jail wall `{0}` needs root: run as root, leave it out with --jail-off={0}, or have no jail with --jail=off"
    )]
    NotRoot(Wall),
    /// The user or group inside the jail would be root on the host.
    #[error(
        "jail wall `privileges`: the monitor cannot be {uid}:{gid} inside the jail: give it a --jail-uid and a --jail-gid that are not 0 and belong to nobody else"
    )]
    Root {
        /// The requested user id.
        uid: u32,
        /// The requested group id.
        gid: u32,
    },
    /// No folder was given for the root wall.
    #[error(
        "jail wall `root` needs an empty folder: name one with --jail-root, or leave the wall out with --jail-off=root"
    )]
    NoFolder,
    /// The folder that was given for the root wall is not suitable.
    #[error(
        "jail wall `root`: {folder} cannot become the monitor's root: {problem}; the launcher must make an empty folder that only root may write to"
    )]
    Folder {
        /// The folder that was given.
        folder: PathBuf,
        /// The reason for which it is not suitable.
        problem: String,
    },
    /// The descriptor that was given is not the control socket.
    #[error(
        "descriptor {fd} cannot be the control socket: {source}; the launcher must pass one and name its number with --control-fd"
    )]
    Control {
        /// The descriptor that was given.
        fd: RawFd,
        /// The error for this descriptor.
        source: io::Error,
    },
    /// The process's own page map cannot be opened.
    #[error("cannot open /proc/self/pagemap, which a later suspend reads: {0}; is /proc mounted?")]
    Pagemap(io::Error),
    /// A wall could not be put up.
    #[error(
        "jail wall `{wall}`: cannot {action}: {source}; it needs Linux 6.7 and a launcher that is fully root, or leave it out with --jail-off={wall}"
    )]
    Wall {
        /// The wall that could not be put up.
        wall: Wall,
        /// The operation that the kernel was to perform.
        action: &'static str,
        /// The error that the kernel returned.
        source: io::Error,
    },
    /// A wall was put up, but a check shows that it is not effective.
    #[error("jail wall `{wall}` does not hold: {what}")]
    Breached {
        /// The wall that is not effective.
        wall: Wall,
        /// The check that failed.
        what: &'static str,
    },
    /// The system call filters could not be compiled or installed.
    #[error("jail wall `seccomp`: {0}")]
    Seccomp(#[from] SeccompError),
}

impl JailError {
    fn wall(wall: Wall, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Wall { wall, action, source }
    }
}

/// The resources of a process that is inside the jail.
#[derive(Debug)]
pub struct Walls {
    /// The listening control socket. The number of its descriptor is [`CONTROL_FD`].
    pub control: OwnedFd,
    /// `/proc/self/pagemap`, which can no longer be opened inside the jail. It was opened without capabilities, so it
    /// shows which pages are present or swapped, but never where they lie in the host's memory.
    pub pagemap: File,
    /// The system call filters. The calling thread runs under the filter of [`ThreadRole::Control`]. Every thread that
    /// it starts must first install its own, narrower filter.
    pub filters: Filters,
    /// The walls that were put up.
    pub standing: Vec<Wall>,
    /// How the old root was left; `None` if the root wall is left out.
    pub root: Option<RootMethod>,
    /// The duration of each step.
    pub steps: Steps,
}

/// Enters the jail: puts up every wall of `config` around this process. The process keeps `control_fd`, stdout and
/// stderr. The process's only thread must call this before it does anything else. Afterwards no path can be opened and
/// no program run, and the calling thread runs under the control thread's system call filter.
///
/// Nothing ties the process to its parent (no `PR_SET_PDEATHSIG`), so it outlives the launcher.
///
/// # Errors
/// [`JailError`] contains the wall, the cause and the remedy. The process must exit then: the jail may be incomplete.
pub fn enter(config: &JailConfig, control_fd: RawFd) -> Result<Walls, JailError> {
    let mut steps = Steps::default();
    check_preconditions(config)?;
    let control = take_control(config, control_fd)?;
    let pagemap =
        privileges::without_capabilities(|| File::open("/proc/self/pagemap")).map_err(JailError::Pagemap)?;
    steps.done("descriptors");
    let filters = if config.has(Wall::Seccomp) {
        seccomp::prepare_process();
        Filters::compile(config.on_violation)?
    } else {
        Filters::none()
    };
    steps.done("filters");
    let (root, standing) = confine(config, &mut steps)?;
    filters.install(ThreadRole::Control)?;
    steps.done("seccomp");
    Ok(Walls { control, pagemap, filters, standing, root, steps })
}

/// Enters the jail with a process that is not a monitor: a helper of the daemon, which parses what strangers made. The walls are the same,
/// but for the system calls: a helper may make all that are not listed as dangerous ([`seccomp`]), in all of its threads. It gets
/// files and connections from its launcher, over the socket that is returned.
///
/// The same conditions apply as for [`enter`]. Changing the user has the kernel forget `PR_SET_PDEATHSIG`: a helper that is to
/// die with its launcher sets it afterwards.
///
/// # Errors
/// [`JailError`] contains the wall, the cause and the remedy. The process must exit then: the jail may be incomplete.
pub fn enter_helper(config: &JailConfig, control_fd: RawFd) -> Result<OwnedFd, JailError> {
    check_preconditions(config)?;
    let control = take_control(config, control_fd)?;
    if config.has(Wall::Seccomp) {
        seccomp::prepare_process();
    }
    confine(config, &mut Steps::default())?;
    if config.has(Wall::Seccomp) {
        seccomp::deny_dangerous(config.on_violation)?;
    }
    Ok(control)
}

/// Takes over the control socket, and closes everything else that was inherited.
fn take_control(config: &JailConfig, control_fd: RawFd) -> Result<OwnedFd, JailError> {
    let control = descriptors::adopt_control(control_fd)
        .map_err(|source| JailError::Control { fd: control_fd, source })?;
    if !config.has(Wall::Descriptors) {
        return Ok(control);
    }
    let close = JailError::wall(Wall::Descriptors, "close the inherited descriptors");
    descriptors::keep_only(control).map_err(close)
}

/// Puts up the walls between those of descriptors and of system calls. Returns how the root was left, and the walls that stand.
fn confine(config: &JailConfig, steps: &mut Steps) -> Result<(Option<RootMethod>, Vec<Wall>), JailError> {
    if config.has(Wall::Session) {
        new_session().map_err(JailError::wall(Wall::Session, "start a session of its own"))?;
    }
    if config.has(Wall::Network) {
        unshare(libc::CLONE_NEWNET).map_err(JailError::wall(Wall::Network, "make a network namespace"))?;
    }
    if config.has(Wall::Ipc) {
        let namespaces = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        unshare(namespaces).map_err(JailError::wall(Wall::Ipc, "make IPC and UTS namespaces"))?;
    }
    steps.done("namespaces");
    let mut root = None;
    if let (true, Some(folder)) = (config.has(Wall::Root), &config.chroot) {
        let method = root::enter(folder);
        root =
            Some(method.map_err(|(action, source)| JailError::Wall { wall: Wall::Root, action, source })?);
    }
    steps.done("root");
    if config.has(Wall::Limits) {
        limit(config).map_err(JailError::wall(Wall::Limits, "lower the resource limits"))?;
    }
    if config.has(Wall::Privileges) {
        let (wall, dropped) = (Wall::Privileges, privileges::drop_to(config.uid, config.gid));
        dropped.map_err(|(action, source)| JailError::Wall { wall, action, source })?;
        let left = privileges::left_over(config.uid, config.gid);
        if let Some(what) = left.map_err(JailError::wall(wall, "read the privileges back"))? {
            return Err(JailError::Breached { wall, what });
        }
    }
    steps.done("privileges");
    let mut standing: Vec<Wall> = config.walls().collect();
    if config.has(Wall::Landlock)
        && landlock::enter().map_err(JailError::wall(Wall::Landlock, "enter a Landlock domain"))?.is_none()
    {
        standing.retain(|wall| *wall != Wall::Landlock);
    }
    steps.done("landlock");
    Ok((root, standing))
}

/// Returns errors that can be detected before anything has changed.
fn check_preconditions(config: &JailConfig) -> Result<(), JailError> {
    // SAFETY: no pointers, cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if let Some(wall) = config.walls().find(|wall| wall.needs_root() && !is_root) {
        return Err(JailError::NotRoot(wall));
    }
    if config.has(Wall::Privileges) && (config.uid == 0 || config.gid == 0) {
        return Err(JailError::Root { uid: config.uid, gid: config.gid });
    }
    if config.has(Wall::Root) {
        let folder = config.chroot.as_ref().ok_or(JailError::NoFolder)?;
        if let Some(problem) = root::folder_problem(folder) {
            return Err(JailError::Folder { folder: folder.clone(), problem });
        }
    }
    let threads = std::fs::read_dir("/proc/self/task").map_err(JailError::Pagemap)?.count();
    if config.walls().next().is_some() && threads != 1 {
        return Err(JailError::Threads(threads));
    }
    Ok(())
}

fn new_session() -> io::Result<()> {
    // SAFETY: no pointers, cannot fail.
    unsafe { libc::umask(UMASK) };
    // SAFETY: no pointers, cannot fail.
    let leads_already = unsafe { libc::getsid(0) == libc::getpid() };
    if !leads_already {
        // SAFETY: no pointers.
        check(unsafe { libc::setsid() })?;
    }
    Ok(())
}

fn limit(config: &JailConfig) -> io::Result<()> {
    lower(libc::RLIMIT_CORE, 0)?;
    lower(libc::RLIMIT_NOFILE, config.nofile)?;
    lower(libc::RLIMIT_MEMLOCK, config.memlock)?;
    if let Some(bytes) = config.fsize {
        lower(libc::RLIMIT_FSIZE, bytes)?;
        // With the signal ignored, a write past the limit returns EFBIG, an I/O error for the guest, instead of killing
        // the monitor.
        // SAFETY: ignoring a signal runs no code.
        if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Lowers a limit permanently, to `value` or to the launcher's own limit, whichever is lower.
fn lower(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    let value = value.min(limit.rlim_max);
    limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    Ok(())
}
