//! Starting a monitor process in its jail, and cleaning up after it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use hearth_vmm_api::socket::PacketListener;
use hearth_vmm_jail::{self as jail, Cgroup, JailConfig};

use super::{CONTROL_SOCKET, Client, ClientError};

/// File in the run directory with the record of the process ([`jail::spawn`]).
pub const PROCESS_RECORD: &str = "process";

/// The parameters for starting a monitor process.
#[derive(Debug)]
pub struct Launch {
    binary: PathBuf,
    run_dir: PathBuf,
    jail: JailConfig,
    stderr: Stdio,
}

/// The reason for which a monitor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The run directory or the socket in it could not be prepared.
    #[error("{what} {path}: {source}")]
    RunDirectory {
        /// The step that failed.
        what: &'static str,
        /// The path that the step concerned.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// The jail could not be prepared on the host.
    #[error(transparent)]
    Prepare(#[from] jail::PrepareError),
    /// The process could not be started.
    #[error(transparent)]
    Spawn(#[from] jail::SpawnError),
    /// The process exited before it answered. It has written the reason to its standard error.
    #[error("the monitor did not start ({status}): {source}")]
    NotStarted {
        /// The exit status of the process.
        status: String,
        /// The error of the connection.
        source: ClientError,
    },
}

impl Launch {
    /// Creates the parameters for the monitor `binary`, whose socket and empty root lie in `run_dir` (created if
    /// missing).
    #[must_use]
    pub fn new(binary: &Path, run_dir: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            run_dir: run_dir.to_owned(),
            jail: JailConfig::default(),
            stderr: Stdio::inherit(),
        }
    }

    /// Sets a jail other than the default one.
    #[must_use]
    pub fn jail(mut self, jail: JailConfig) -> Self {
        self.jail = jail;
        self
    }

    /// Sets the destination of the process's standard error; it is inherited by default.
    #[must_use]
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.stderr = stderr;
        self
    }

    /// Starts the process and connects to it.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing remains but the run directory.
    pub fn start(self) -> Result<Vmm, LaunchError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| LaunchError::RunDirectory { what, path, source }
        };
        fs::create_dir_all(&self.run_dir).map_err(failed("making the run directory", &self.run_dir))?;
        let path = self.run_dir.join(CONTROL_SOCKET);
        let listener = PacketListener::bind(&path).map_err(failed("listening at", &path))?;
        let record = self.run_dir.join(PROCESS_RECORD);
        let made = File::create(&record).map_err(failed("making the record", &record));
        let (child, jail) = match made.and_then(|file| self.spawn(listener, file)) {
            Ok(started) => started,
            Err(error) => {
                // The original error is reported, not one of these.
                let _ = fs::remove_file(&path);
                let _ = fs::remove_file(&record);
                return Err(error);
            }
        };
        // The first response shows that the process has entered its jail.
        let connected = Client::connect(path.clone()).and_then(|client| client.status().map(|_| client));
        match connected {
            Ok(client) => Ok(Vmm { child: Some(child), jail, client }),
            Err(source) => {
                let mut child = child;
                let _ = child.kill(); // the process may have exited by itself
                let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                clean_up(&path, &jail);
                Err(LaunchError::NotStarted { status, source })
            }
        }
    }

    fn spawn(self, listener: PacketListener, record: File) -> Result<(Child, JailConfig), LaunchError> {
        let jail = jail::prepare(&self.run_dir, &self.jail)?;
        match jail::spawn(&self.binary, &jail, listener.into(), self.stderr, record) {
            Ok(child) => Ok((child, jail)),
            Err(error) => {
                let _ = jail::clean_up(&jail); // report the original error, not this one
                Err(error.into())
            }
        }
    }
}

/// Removes the socket, the record of the process and the resources of the jail on the host; ignores what is already gone.
fn clean_up(socket: &Path, jail: &JailConfig) {
    let _ = fs::remove_file(socket);
    let _ = fs::remove_file(socket.with_file_name(PROCESS_RECORD));
    let _ = jail::clean_up(jail);
}

/// A monitor process that this process has started.
///
/// Dropping it kills the process and cleans up after it, unless it was [detached](Self::detach).
#[derive(Debug)]
pub struct Vmm {
    child: Option<Child>,
    jail: JailConfig,
    client: Client,
}

impl Vmm {
    /// Returns the connection to the monitor.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the process id; 0 once the process has been waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills the process (`SIGKILL`). Data that its guest has not flushed is lost.
    ///
    /// # Errors
    /// The error that the system returns.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.as_mut().map_or(Ok(()), Child::kill)
    }

    /// Waits for the process to exit and cleans up after it.
    ///
    /// # Errors
    /// The error that the system returns.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let Some(child) = self.child.as_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        let status = child.wait()?;
        self.child = None;
        if let Some(cgroup) = self.jail.cgroup.as_ref().and_then(|cgroup| Cgroup::of(cgroup).ok()) {
            let _ = cgroup.wait_empty(Duration::from_secs(5)); // it is empty shortly after the exit
        }
        clean_up(&self.client.path, &self.jail);
        Ok(status)
    }

    /// Leaves the process running in its jail and returns its process id and the jail. The caller becomes responsible
    /// for cleaning up with [`jail::clean_up`] when the process has exited.
    #[must_use]
    pub fn detach(mut self) -> (u32, JailConfig) {
        (self.child.take().map_or(0, |child| child.id()), self.jail.clone())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill(); // the process may have exited by itself
            let _ = self.wait();
        }
    }
}
