//! Starting a monitor process in its jail, and cleaning up after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use super::{CONTROL_SOCKET, Client, ClientError};
use crate::control::socket::PacketListener;
use crate::jail::{self, Cgroup, JailConfig};

/// How to start a monitor process.
#[derive(Debug)]
pub struct Launch {
    binary: PathBuf,
    run_dir: PathBuf,
    jail: JailConfig,
    stderr: Stdio,
}

/// Why a monitor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The run directory or the socket in it.
    #[error("{what} {path}: {source}")]
    RunDirectory {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// What the jail needs on the host.
    #[error(transparent)]
    Prepare(#[from] jail::PrepareError),
    /// The process.
    #[error(transparent)]
    Spawn(#[from] jail::SpawnError),
    /// The process ended before it answered; it has said why on its standard error.
    #[error("the monitor did not start ({status}): {source}")]
    NotStarted {
        /// How the process ended.
        status: String,
        /// What the connection said.
        source: ClientError,
    },
}

impl Launch {
    /// The monitor `binary`, with its socket and its empty root in `run_dir` (made if it is not there).
    #[must_use]
    pub fn new(binary: &Path, run_dir: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            run_dir: run_dir.to_owned(),
            jail: JailConfig::default(),
            stderr: Stdio::inherit(),
        }
    }

    /// Another jail than the default one.
    #[must_use]
    pub fn jail(mut self, jail: JailConfig) -> Self {
        self.jail = jail;
        self
    }

    /// Where the process's error output goes; inherited by default.
    #[must_use]
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.stderr = stderr;
        self
    }

    /// Starts the process and connects to it.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind but the run directory.
    pub fn start(self) -> Result<Vmm, LaunchError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| LaunchError::RunDirectory { what, path, source }
        };
        fs::create_dir_all(&self.run_dir).map_err(failed("making the run directory", &self.run_dir))?;
        let path = self.run_dir.join(CONTROL_SOCKET);
        let listener = PacketListener::bind(&path).map_err(failed("listening at", &path))?;
        let (child, jail) = match self.spawn(listener) {
            Ok(started) => started,
            Err(error) => {
                let _ = fs::remove_file(&path); // the error at hand is the one to report
                return Err(error);
            }
        };
        // The first answer shows that the process has entered its jail.
        let connected = Client::connect(path.clone()).and_then(|client| client.status().map(|_| client));
        match connected {
            Ok(client) => Ok(Vmm { child: Some(child), jail, client }),
            Err(source) => {
                let mut child = child;
                let _ = child.kill(); // it may have ended by itself
                let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                clean_up(&path, &jail);
                Err(LaunchError::NotStarted { status, source })
            }
        }
    }

    fn spawn(self, listener: PacketListener) -> Result<(Child, JailConfig), LaunchError> {
        let jail = jail::prepare(&self.run_dir, &self.jail)?;
        match jail::spawn(&self.binary, &jail, listener.into(), self.stderr) {
            Ok(child) => Ok((child, jail)),
            Err(error) => {
                let _ = jail::clean_up(&jail); // the error at hand is the one to report
                Err(error.into())
            }
        }
    }
}

/// Removes the socket and what the jail had on the host; what is gone already is gone.
fn clean_up(socket: &Path, jail: &JailConfig) {
    let _ = fs::remove_file(socket);
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
    /// The connection to it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills the process (`SIGKILL`); what its guest had not flushed is lost.
    ///
    /// # Errors
    /// What the system answers.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.as_mut().map_or(Ok(()), Child::kill)
    }

    /// Waits for the process to end and cleans up after it.
    ///
    /// # Errors
    /// What the system answers.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let Some(child) = self.child.as_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        let status = child.wait()?;
        self.child = None;
        if let Some(cgroup) = self.jail.cgroup.as_ref().and_then(|cgroup| Cgroup::of(cgroup).ok()) {
            let _ = cgroup.wait_empty(Duration::from_secs(5)); // the kernel empties it a moment after the end
        }
        clean_up(&self.client.path, &self.jail);
        Ok(status)
    }

    /// Lets the process go on by itself, with its jail; returns its process id and the jail, which whoever
    /// sees it end cleans up with [`jail::clean_up`].
    #[must_use]
    pub fn detach(mut self) -> (u32, JailConfig) {
        (self.child.take().map_or(0, |child| child.id()), self.jail.clone())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill(); // it may have ended by itself
            let _ = self.wait();
        }
    }
}
