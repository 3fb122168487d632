//! The launcher's part of the jail: it prepares the folder and the control group, and starts the process.
//!
//! Preparing and cleaning up depend only on the contents of [`JailConfig`], so that a launcher that was restarted can
//! clean up after a microVM that it did not start.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::cgroup::{Cgroup, CgroupError};
use super::config::{JailConfig, Wall};
use super::root::folder_problem;
use super::sys::check;

/// Name of the folder inside the run directory that becomes the monitor's root.
pub const ROOT_FOLDER: &str = "root";

/// The reason for which a jail could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The folder could not be created.
    #[error("cannot make {folder}, the monitor's empty root: {source}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The error that the host returned.
        source: io::Error,
    },
    /// The folder exists, but cannot become the monitor's root.
    #[error(
        "{folder} cannot become the monitor's root: {problem}; the run directory must be new and writable by root alone"
    )]
    Unsuitable {
        /// The folder.
        folder: PathBuf,
        /// The reason for which it cannot.
        problem: String,
    },
    /// The control group could not be created.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// The reason for which a jail could not be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The folder could not be removed.
    #[error("cannot remove {folder}, which was the monitor's root: {source}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The error that the host returned.
        source: io::Error,
    },
    /// The control group could not be removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// The reason for which a monitor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The control group cannot be joined.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The control socket could not be passed to the monitor.
    #[error("cannot hand the control socket to the monitor: {0}")]
    Control(io::Error),
    /// The process could not be started, or could not be moved into its control group.
    #[error("cannot start {binary}{place}: {source}", place = .cgroup.as_ref().map(|path| format!(" in the control group {}", path.display())).unwrap_or_default())]
    Start {
        /// The program.
        binary: PathBuf,
        /// Control group of the process, if it has one.
        cgroup: Option<PathBuf>,
        /// The error that the host returned.
        source: io::Error,
    },
}

/// Creates the resources that the jail of a microVM needs on the host: an empty folder in `run_dir` (which must exist
/// and be writable by root only) and the control group, if `config` has one. Returns the configuration with the folder
/// in it.
///
/// # Errors
/// [`PrepareError`]; nothing remains then.
pub fn prepare(run_dir: &Path, config: &JailConfig) -> Result<JailConfig, PrepareError> {
    let mut config = config.clone();
    if config.has(Wall::Root) {
        let run_dir = run_dir
            .canonicalize()
            .map_err(|source| PrepareError::Folder { folder: run_dir.into(), source })?;
        let folder = run_dir.join(ROOT_FOLDER);
        // The launcher's umask may remove bits from the mode. That does no harm: the owner is the only user.
        DirBuilder::new()
            .mode(0o755)
            .create(&folder)
            .map_err(|source| PrepareError::Folder { folder: folder.clone(), source })?;
        if let Some(problem) = folder_problem(&folder) {
            let _ = fs::remove_dir(&folder);
            return Err(PrepareError::Unsuitable { folder, problem });
        }
        config.chroot = Some(folder);
    }
    if let Some(cgroup) = &config.cgroup
        && let Err(error) = Cgroup::create(cgroup)
    {
        if let Some(folder) = &config.chroot {
            let _ = fs::remove_dir(folder);
        }
        return Err(error.into());
    }
    Ok(config)
}

/// Removes what [`prepare`] created, after the monitor has exited. Resources that do not exist are no error.
///
/// # Errors
/// [`CleanupError`], after as much as possible was removed. A control group that still has a process remains:
/// [`Cgroup::kill`] it first.
pub fn clean_up(config: &JailConfig) -> Result<(), CleanupError> {
    let mut result = Ok(());
    if let Some(folder) = &config.chroot {
        match fs::remove_dir(folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                result = Err(CleanupError::Folder { folder: folder.clone(), source });
            }
            _ => {}
        }
    }
    if let Some(cgroup) = &config.cgroup {
        Cgroup::of(cgroup)?.remove()?;
    }
    result
}

/// Starts `binary run --control-fd N` with the arguments of `jail`. The process runs in its control group, with an
/// empty environment, and inherits `control_listener` as descriptor `N` and otherwise only `stderr`. It enters the rest
/// of the jail itself ([`super::enter`]), where the socket becomes [`super::CONTROL_FD`].
///
/// `N` is a number that is free in the launcher. Moving the descriptor to a fixed number between fork and exec could
/// overwrite the pipe over which the standard library reports a failed exec.
///
/// # Errors
/// [`SpawnError`]; no process remains then.
pub fn spawn(
    binary: &Path,
    jail: &JailConfig,
    control_listener: OwnedFd,
    stderr: Stdio,
) -> Result<Child, SpawnError> {
    let cgroup = jail.cgroup.as_ref().map(Cgroup::of).transpose()?;
    let procs = cgroup.as_ref().map(Cgroup::open_procs).transpose()?;
    // The duplicate is not one of the standard streams, and is closed in every other program that is started.
    let control = control_listener.try_clone().map_err(SpawnError::Control)?;
    let (control_fd, procs_fd) = (control.as_raw_fd(), procs.as_ref().map(|file| file.as_raw_fd()));
    let mut command = Command::new(binary);
    command
        .arg("run")
        .args(["--control-fd", &control_fd.to_string()])
        .args(jail.to_args())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let before_exec = move || {
        if let Some(procs) = procs_fd {
            // SAFETY: `procs` stays open in the parent until the child has been started.
            join(unsafe { BorrowedFd::borrow_raw(procs) })?;
        }
        // SAFETY: no pointers; the descriptor is inherited.
        check(unsafe { libc::fcntl(control_fd, libc::F_SETFD, 0) })?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only, does not allocate and takes no lock.
    unsafe { command.pre_exec(before_exec) };
    command.spawn().map_err(|source| SpawnError::Start {
        binary: binary.into(),
        cgroup: cgroup.map(|cgroup| cgroup.path().to_owned()),
        source,
    })
}

/// Moves the calling process into the group whose `cgroup.procs` is `procs`.
fn join(procs: BorrowedFd<'_>) -> io::Result<()> {
    let this_process = b"0";
    // SAFETY: the buffer is valid for its length.
    let written = unsafe { libc::write(procs.as_raw_fd(), this_process.as_ptr().cast(), this_process.len()) };
    if written == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_that_cannot_be_made_leaves_no_folder() {
        let run_dir = tempfile::tempdir().unwrap();
        let cgroup = Some(crate::CgroupConfig::unlimited(run_dir.path(), "vm"));
        let config = JailConfig { cgroup, ..JailConfig::default() };
        prepare(run_dir.path(), &config).unwrap_err();
        assert_eq!(run_dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let (listener, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let error =
            spawn(Path::new("/no/such/monitor"), &JailConfig::disabled(), listener.into(), Stdio::null());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("/no/such/monitor") && message.contains("No such file"), "{message}");
    }
}
