//! The daemon's side of a worker: its start, its progress, its end.
//!
//! A thread owns the worker: it starts it, makes its connections, and reaps it. The worker dies with this thread, and with the
//! future that waits for it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use hearth_sys::{die_with_starter, pass};
use hearth_vmm_api::socket::PacketSocket;
use hearth_vmm_jail::{JailConfig, clean_up, prepare};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{mpsc, oneshot};

use super::broker::Broker;
use super::process::{AUTHORITIES, COMMAND, CONTROL_FD, MEMORY, PROCESSOR_SECONDS};
use super::protocol::{self, Failure, Report, shown};
use super::{Facts, Named, Task, WorkerConfig};
use crate::artifact::download::{OnProgress, Progress};
use crate::artifact::error::ArtifactError;
use crate::failure::{FailureCode, StateReason};

/// Reports of progress that wait for the daemon; more are left out.
const PROGRESS: usize = 64;

/// Bytes of a worker's standard error that are read for the message about its end.
const LAST_WORDS: usize = 2000;

/// Variables that say where this host has its authorities.
const AUTHORITIES_AT: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What a worker is started for.
pub(in crate::artifact) struct Job {
    pub(in crate::artifact) task: Task,
    /// Those of the task. They are closed here as soon as the worker has them.
    pub(in crate::artifact) descriptors: Vec<OwnedFd>,
    /// The servers that the operator named for it.
    pub(in crate::artifact) named: Named,
    /// Whether it verifies certificates of servers.
    pub(in crate::artifact) authorities: bool,
    /// Bytes of the largest file that it may write.
    pub(in crate::artifact) file_bytes: u64,
    /// Bytes of memory that it may use.
    pub(in crate::artifact) memory: u64,
}

/// Has a worker do a job. `folder` is one that only root may write to, in which nothing is left. Dropping the future kills the worker.
pub(in crate::artifact) async fn run(
    config: &WorkerConfig,
    job: Job,
    folder: &Path,
    on_progress: OnProgress<'_>,
) -> Result<Facts, ArtifactError> {
    let (progress, mut reports) = mpsc::channel(PROGRESS);
    let (done, ended) = oneshot::channel();
    let life = Life::default();
    let _end = KillOnDrop(life.clone());
    let (config, folder) = (config.clone(), folder.to_owned());
    let thread = std::thread::Builder::new().name("fetch-worker".to_owned());
    let thread = thread.spawn(move || {
        // Nobody waits any more if it cannot be sent.
        let _ = done.send(in_jail(&config, job, &folder, &life, &progress));
    });
    thread.map_err(ArtifactError::io("starting a thread for the fetch"))?;
    // The channel closes when the thread is done.
    while let Some(report) = reports.recv().await {
        on_progress(report);
    }
    ended.await.unwrap_or_else(|_| Err(broken("the thread of the fetch has ended".to_owned())))
}

/// A worker's process, as far as it may be killed.
#[derive(Clone, Default)]
struct Life(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    process: Option<OwnedFd>,
    over: bool,
}

impl Life {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The process has started. It is killed at once if it is too late.
    fn began(&self, process: OwnedFd) {
        let mut state = self.state();
        state.process = Some(process);
        if state.over {
            kill(&state);
        }
    }

    fn end(&self) {
        let mut state = self.state();
        state.over = true;
        kill(&state);
    }
}

fn kill(state: &State) {
    if let Some(process) = &state.process {
        // An error means that it has exited.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

struct KillOnDrop(Life);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Prepares the jail, and removes what was made for it.
fn in_jail(
    config: &WorkerConfig,
    job: Job,
    folder: &Path,
    life: &Life,
    progress: &mpsc::Sender<Progress>,
) -> Result<Facts, ArtifactError> {
    if life.state().over {
        return Err(broken("the fetch was given up before it began".to_owned()));
    }
    let jail = JailConfig { fsize: Some(job.file_bytes), cgroup: None, ..config.jail.clone() };
    let jail = prepare(folder, &jail).map_err(|error| broken(error.to_string()))?;
    let result = work(config, &jail, job, life, progress);
    // The caller removes the folder.
    let _ = clean_up(&jail);
    result
}

fn work(
    config: &WorkerConfig,
    jail: &JailConfig,
    job: Job,
    life: &Life,
    progress: &mpsc::Sender<Progress>,
) -> Result<Facts, ArtifactError> {
    let starting = |error: io::Error| broken(format!("starting {}: {error}", config.program.display()));
    let (socket, theirs) = PacketSocket::pair().map_err(starting)?;
    let mut child = start(config, jail, &job, theirs.into()).map_err(starting)?;
    let process = Pid::from_raw(child.id().cast_signed());
    let process = process.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    // Without it, a fetch that is cancelled ends a little later, when this thread has noticed.
    if let Some(Ok(process)) = process {
        life.began(process);
    }
    let result = talk(config, &socket, job, progress);
    // Whatever it has said, it is over.
    let _ = child.kill();
    let status = child.wait().map_err(starting)?;
    result.map_err(|end| end.into_error(config, status, &last_words(&mut child)))
}

fn start(config: &WorkerConfig, jail: &JailConfig, job: &Job, socket: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(&config.program);
    let socket = pass(&mut command, socket);
    command
        .arg(COMMAND)
        .args([CONTROL_FD, &socket.to_string()])
        .args([MEMORY, &job.memory.to_string()])
        .args([PROCESSOR_SECONDS, &config.processor_seconds.to_string()])
        .args(job.authorities.then_some(AUTHORITIES))
        .args(jail.to_args())
        .env_clear()
        .envs(AUTHORITIES_AT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    die_with_starter(&mut command);
    command.spawn()
}

/// Why a conversation has ended without facts.
enum End {
    /// The worker has failed at its task.
    Failed(Failure),
    /// The worker said something that is no report.
    Malformed(String),
    /// The worker said nothing for too long.
    Silent,
    /// The worker has closed its socket, or could not be spoken to.
    Gone(io::Error),
}

/// Gives the worker its task, makes its connections and passes its progress on, until it is done.
fn talk(
    config: &WorkerConfig,
    socket: &PacketSocket,
    job: Job,
    progress: &mpsc::Sender<Progress>,
) -> Result<Facts, End> {
    let Job { task, descriptors, named, .. } = job;
    let is_fetch = !matches!(task, Task::Tar { .. });
    // How fast a tar is taken is not the worker's doing. The build has a deadline.
    socket.set_timeout(is_fetch.then_some(config.silence)).map_err(End::Gone)?;
    let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    protocol::send(socket, &task, &borrowed).map_err(End::Gone)?;
    drop(borrowed);
    drop(descriptors);
    let mut broker = Broker::new(config.network.clone(), named);
    let mut buffer = Vec::new();
    loop {
        let (report, _) = match protocol::receive::<Report>(socket, &mut buffer) {
            Ok(Some(received)) => received,
            Ok(None) => return Err(End::Gone(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(End::Silent),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(End::Malformed(error.to_string()));
            }
            Err(error) => return Err(End::Gone(error)),
        };
        match report {
            Report::Connect(server) => {
                let (answer, stream) = broker.connect(&server);
                let descriptors: Vec<_> = stream.iter().map(|stream| stream.as_fd()).collect();
                protocol::send(socket, &answer, &descriptors).map_err(End::Gone)?;
            }
            Report::Progress(report) => {
                // The daemon is told what it keeps up with.
                let _ = progress.try_send(report);
            }
            Report::Done(facts) => return Ok(facts),
            Report::Failed(failure) => return Err(End::Failed(failure)),
        }
    }
}

impl End {
    fn into_error(self, config: &WorkerConfig, status: ExitStatus, last_words: &str) -> ArtifactError {
        let ended = "The process that fetches and checks the code artifact ended before it was done.";
        let (detail, log) = match self {
            Self::Failed(failure) => return failure.into(),
            Self::Malformed(why) => {
                (ended, format!("the fetch worker sent something that is no report: {why}"))
            }
            Self::Silent => (
                "The fetch of the code artifact came to a stand.",
                format!("the fetch worker said nothing for {} s", config.silence.as_secs()),
            ),
            Self::Gone(error) => {
                (ended, format!("the fetch worker has ended ({status}): {error}; {last_words}"))
            }
        };
        let reason = StateReason::Detailed(FailureCode::InternalPlatformError, detail.to_owned());
        ArtifactError::Worker { reason, log }
    }
}

impl From<Failure> for ArtifactError {
    fn from(Failure { code, detail, log }: Failure) -> Self {
        let reason = match detail {
            Some(detail) => StateReason::Detailed(code, shown(&detail)),
            None => StateReason::Code(code),
        };
        Self::Worker { reason, log: shown(&log) }
    }
}

fn broken(log: String) -> ArtifactError {
    ArtifactError::Worker { reason: FailureCode::InternalPlatformError.into(), log }
}

/// The end of what the worker wrote to its standard error. It has exited; a pipe that somebody else holds open is not waited for.
fn last_words(child: &mut Child) -> String {
    let Some(stderr) = child.stderr.take() else { return String::new() };
    let mut bytes = vec![0; LAST_WORDS];
    let read = fcntl_getfl(&stderr)
        .and_then(|flags| fcntl_setfl(&stderr, flags | OFlags::NONBLOCK))
        .map_err(io::Error::from)
        .and_then(|()| File::from(OwnedFd::from(stderr)).read(&mut bytes));
    bytes.truncate(read.unwrap_or_default());
    shown(&String::from_utf8_lossy(&bytes))
}
