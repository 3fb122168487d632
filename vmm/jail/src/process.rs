//! The launcher's part of the jail: it prepares the folder and the control group, and starts the process.
//!
//! Preparing and cleaning up depend only on the contents of [`JailConfig`], so that a launcher that was restarted can
//! clean up after a microVM that it did not start.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
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
/// File with the id of the host's boot, which differs for each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// More bytes than `/proc/PID/stat` has (proc_pid_stat(5): 52 numbers and a name of 16 bytes).
const STAT_BYTES: usize = 2048;

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
    /// The record of the process could not be begun.
    #[error("cannot write the record of a monitor process: {0}")]
    Record(io::Error),
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
/// `record` gets two lines: the id of the host's boot, and what `/proc/PID/stat` has of the process. The process writes the second one before it becomes
/// the monitor, so that there is never a monitor without a record: a launcher that was restarted need not believe what a monitor says
/// about itself.
///
/// # Errors
/// [`SpawnError`]; no process remains then.
pub fn spawn(
    binary: &Path,
    jail: &JailConfig,
    control_listener: OwnedFd,
    stderr: Stdio,
    mut record: File,
) -> Result<Child, SpawnError> {
    let boot = fs::read(BOOT_ID).map_err(SpawnError::Record)?;
    record.write_all(&boot).map_err(SpawnError::Record)?;
    let record_fd = record.as_raw_fd();
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
        // SAFETY: `record` stays open in the parent until the child has been started.
        copy_stat(unsafe { BorrowedFd::borrow_raw(record_fd) })?;
        // SAFETY: no pointers; the descriptor is inherited.
        check(unsafe { libc::fcntl(control_fd, libc::F_SETFD, 0) })?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only, does not allocate and takes no lock.
    unsafe { command.pre_exec(before_exec) };
    let started = command.spawn().map_err(|source| SpawnError::Start {
        binary: binary.into(),
        cgroup: cgroup.map(|cgroup| cgroup.path().to_owned()),
        source,
    });
    drop(record);
    started
}

/// Appends `/proc/self/stat` to the record. Between fork and exec: only system calls, on memory of the stack.
fn copy_stat(record: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the path is a string with a terminating zero.
    let stat = unsafe { libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    check(stat)?;
    // SAFETY: it was opened just now, and nothing else owns it.
    let stat = unsafe { OwnedFd::from_raw_fd(stat as RawFd) };
    let mut line = [0_u8; STAT_BYTES];
    // SAFETY: the buffer is valid for its length.
    let read = unsafe { libc::read(stat.as_raw_fd(), line.as_mut_ptr().cast(), line.len()) };
    let Some(line) = usize::try_from(read).ok().and_then(|read| line.get(..read)) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the buffer is valid for its length.
    let written = unsafe { libc::write(record.as_raw_fd(), line.as_ptr().cast(), line.len()) };
    match usize::try_from(written) {
        Ok(written) if written == line.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Err(_) => Err(io::Error::last_os_error()),
    }
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
    fn the_record_is_of_the_process_that_was_started() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        // Any program does: it gets arguments that it does not know and ends, and is not waited for before its record was read.
        let (program, path) = (Path::new("/bin/true"), folder.path().join("process"));
        let record = File::create(&path).unwrap();
        let mut child =
            spawn(program, &JailConfig::disabled(), listener.into(), Stdio::null(), record).unwrap();
        let text = fs::read_to_string(path).unwrap();
        let (boot, stat) = text.split_once('\n').unwrap();
        assert_eq!(boot, fs::read_to_string(BOOT_ID).unwrap().trim());
        assert!(stat.starts_with(&format!("{} (", child.id())) && stat.ends_with('\n'), "{stat}");
        child.wait().unwrap();
    }

    #[test]
    fn a_process_whose_record_cannot_be_written_does_not_start() {
        let (listener, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error =
            spawn(Path::new("/bin/true"), &JailConfig::disabled(), listener.into(), Stdio::null(), full);
        assert!(matches!(error, Err(SpawnError::Record(_))), "{error:?}");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let (listener, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (missing, record) = (Path::new("/no/such/monitor"), tempfile::tempfile().unwrap());
        let error = spawn(missing, &JailConfig::disabled(), listener.into(), Stdio::null(), record);
        let message = error.unwrap_err().to_string();
        assert!(message.contains("/no/such/monitor") && message.contains("No such file"), "{message}");
    }
}
