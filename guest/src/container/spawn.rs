//! Starts container processes, for the agent.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use hearth_proto::guest::v1::{Exited, Failure};
use prost::Message;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::NAME;
use crate::refusal::{Context as _, Refusal};
use crate::system::cgroup::Groups;
use crate::system::reaper::Reaper;
use crate::system::{check, duplicate, file_in_memory, namespaces};

/// Bytes that are read of a failure report.
const REPORT_LIMIT: u64 = 16 << 10;

/// The namespaces of the container.
#[derive(Debug)]
pub struct Namespaces {
    /// Mount namespace.
    pub mount: OwnedFd,
    /// UTS namespace: the host name.
    pub uts: OwnedFd,
    /// IPC namespace: System V IPC and POSIX message queues.
    pub ipc: OwnedFd,
    /// Cgroup namespace.
    pub cgroup: OwnedFd,
}

/// The PID namespace of a container process.
#[derive(Debug, Clone, Copy)]
pub enum PidNamespace<'a> {
    /// The agent's.
    Agents,
    /// A new one, in which the process is the first.
    New,
    /// An existing one.
    Of(&'a OwnedFd),
}

/// Starts container processes.
#[derive(Debug, Clone)]
pub struct Spawner {
    /// Path of this program.
    pub program: PathBuf,
    /// Reports the exit of processes.
    pub reaper: Reaper,
}

/// A container process to start.
#[derive(Debug)]
pub struct SpawnRequest<'a, J> {
    /// The command: `prepare`, `run` and so on.
    pub kind: &'static str,
    /// The message for the process.
    pub job: &'a J,
    /// The container's namespaces, where it exists already.
    pub container: Option<&'a Namespaces>,
    /// The groups that are frozen together with the app. If none, the process stays in the agent's group.
    pub groups: Option<&'a Groups>,
    /// PID namespace of the process.
    pub pids: PidNamespace<'a>,
    /// Stdin, stdout and stderr.
    pub streams: [Stdio; 3],
}

/// A process that was started.
#[derive(Debug)]
pub struct ContainerProcess {
    /// Process id, in the agent's PID namespace.
    pub pid: libc::pid_t,
    /// How the process terminated, once it has.
    pub exited: oneshot::Receiver<Exited>,
    report: pipe::Receiver,
}

impl Spawner {
    /// Starts a process. Must be called on the thread of the reaper's task.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn start<J: Message>(&self, request: SpawnRequest<'_, J>) -> Result<ContainerProcess, Refusal> {
        self.try_to_start(request).or_refuse(|| "starting a process for the container")
    }

    fn try_to_start<J: Message>(&self, request: SpawnRequest<'_, J>) -> io::Result<ContainerProcess> {
        let job = file_in_memory(&request.job.encode_to_vec())?;
        let (report, report_writer) = io::pipe()?;
        let mut inherited = vec![job.as_raw_fd(), report_writer.as_raw_fd()];
        // The process enters the groups after it has executed this program again. If it entered them before, the thread that starts it
        // would wait for the exec as long as a group is frozen.
        inherited.extend(request.groups.into_iter().flat_map(Groups::entrances));
        if let Some(Namespaces { mount, uts, ipc, cgroup }) = request.container {
            inherited.extend([mount, uts, ipc, cgroup].map(|namespace| namespace.as_raw_fd()));
        }
        let mut command = Command::new(&self.program);
        let [stdin, stdout, stderr] = request.streams;
        command.arg0(NAME).arg(request.kind).args(inherited.iter().map(ToString::to_string));
        command.stdin(stdin).stdout(stdout).stderr(stderr).env_clear();
        // SAFETY: after the fork, the closure only makes system calls.
        unsafe { command.pre_exec(move || inherited.iter().try_for_each(|number| inherit(*number))) };
        let pids = request.pids;
        let spawn = move || {
            match pids {
                PidNamespace::Agents => {}
                PidNamespace::New => namespaces::leave(libc::CLONE_NEWPID)?,
                PidNamespace::Of(namespace) => namespaces::enter(namespace, libc::CLONE_NEWPID)?,
            }
            command.spawn()
        };
        // The thread's later children would be in the other PID namespace, too; so the thread is used for this child only.
        let child = namespaces::on_a_thread(spawn)?;
        let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
        let exited = self.reaper.watch(pid);
        drop(report_writer);
        let report = pipe::Receiver::from_owned_fd(duplicate(&report)?)?;
        Ok(ContainerProcess { pid, exited, report })
    }
}

impl ContainerProcess {
    /// Waits until the process runs the program that it was made for (`run`), is ready (`prepare`) or has exited successfully.
    ///
    /// # Errors
    /// The reason why it has failed.
    pub async fn succeeded(&mut self) -> Result<(), Refusal> {
        let mut report = Vec::new();
        let read = (&mut self.report).take(REPORT_LIMIT).read_to_end(&mut report).await;
        read.or_refuse(|| "waiting for a process of the container")?;
        if report.is_empty() {
            return Ok(());
        }
        match Failure::decode(report.as_slice()) {
            Ok(failure) => Err(failure.into()),
            Err(error) => {
                Err(Refusal::system("starting a process for the container", &io::Error::other(error)))
            }
        }
    }
}

/// Keeps this descriptor open in the program that is executed.
fn inherit(number: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop)
}
