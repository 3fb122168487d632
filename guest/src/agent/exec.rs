//! Processes beside the app, and tar archives into the container and out of it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::guest::v1::{ExecInput, ExecOutput, Exited, OpenExec, Process, WindowSize};
use hearth_proto::guest::v1::{exec_input, exec_output, open_exec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::{Agent, App, Container};
use crate::container::job::Archive;
use crate::container::spawn::{ContainerProcess, PidNamespace, SpawnRequest};
use crate::refusal::{Context as _, Refusal};
use crate::system::sockets::{Stream, peer_is_gone};
use crate::system::{check, descriptor, kill, set_window_size};
use hearth_agent_protocol::frame::{self, FrameError};

/// Bytes of output in one message.
const STEP: usize = 128 << 10;
/// Capacity in bytes of the pipes of archives: large, so that few context switches move much.
const PIPE: libc::c_int = 1 << 20;
/// Messages of input that are queued for the process. When the queue is full, the host has to wait.
const WAITING: usize = 8;
/// How often a connection whose input waits is checked for having been closed.
const LOOK: Duration = Duration::from_secs(1);
/// How long the host has to receive the last message and to close the connection.
const LINGER: Duration = Duration::from_secs(30);
/// The end of input on a terminal: its end-of-file character (termios(3), VEOF).
const END_OF_FILE: u8 = 4;

/// The checked request of a connection: a process or an archive.
#[derive(Debug)]
pub(super) struct Plan {
    container: Arc<Container>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Process { process: Process, app: Arc<App>, terminal: Option<WindowSize>, privileged: bool },
    Archive { kind: &'static str, path: String },
}

impl Plan {
    /// Checks whether the request can be served now.
    pub(super) fn make(agent: &Agent, open: OpenExec) -> Result<Self, Refusal> {
        let container = agent.container()?;
        let archive = |kind, path: String| match path.is_empty() {
            true => Err(Refusal::invalid("the path in the container is empty")),
            false => Ok(Work::Archive { kind, path }),
        };
        let work = match open.what {
            Some(open_exec::What::Process(process)) => {
                let app = agent.app()?;
                if app.exited().is_some() {
                    let message = "the app has ended, and with it the namespace that processes ran in";
                    return Err(Refusal::invalid(message));
                }
                let process = if open.as_app { app.beside(process) } else { process };
                Work::Process { process, app, terminal: open.terminal, privileged: open.privileged }
            }
            Some(open_exec::What::UnpackInto(path)) => archive("unpack", path)?,
            Some(open_exec::What::Pack(path)) => archive("pack", path)?,
            None => return Err(Refusal::invalid("OpenExec says nothing of what to do")),
        };
        Ok(Self { container, work })
    }
}

/// The agent's sides of a process's stdin, stdout and stderr.
struct AgentStreams {
    stdin: Arc<Stream>,
    outputs: Vec<(Arc<Stream>, Output)>,
    terminal: bool,
}

#[derive(Clone, Copy)]
enum Output {
    Stdout,
    Stderr,
}

type Sink = Arc<Mutex<OwnedWriteHalf>>;

/// Runs the planned work until it is done or the connection is closed.
pub(super) async fn serve(agent: &Agent, plan: Plan, connection: UnixStream) -> Result<(), FrameError> {
    let (mut source, sink) = connection.into_split();
    let sink = Arc::new(Mutex::new(sink));
    let event = match run(agent, plan, &mut source, &sink).await {
        Ok(Some(exited)) => exec_output::Event::Exited(exited),
        Ok(None) => return Ok(()), // the connection was closed
        Err(refusal) => exec_output::Event::Failed(refusal.into()),
    };
    send(&sink, event).await?;
    sink.lock().await.shutdown().await?;
    // The host may still send input. If the connection were closed with input unread, it would be reset and the last message lost.
    let discard = async { while source.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {} };
    let _ = tokio::time::timeout(LINGER, discard).await;
    Ok(())
}

async fn run(
    agent: &Agent,
    plan: Plan,
    source: &mut OwnedReadHalf,
    sink: &Sink,
) -> Result<Option<Exited>, Refusal> {
    let container = &plan.container;
    match plan.work {
        Work::Process { process, app, terminal, privileged } => {
            let mut job = container.run_job(Some(process), false, privileged || container.all_capabilities);
            job.terminal = terminal.is_some();
            let (streams, agent_streams) = match &terminal {
                Some(size) => terminal_streams(container, size).or_refuse(|| "making a terminal")?,
                None => pipes(None).or_refuse(|| "making pipes")?,
            };
            let (pids, namespaces) = (PidNamespace::Of(&app.pids), Some(&container.namespaces));
            let groups = Some(&container.groups);
            let request =
                SpawnRequest { kind: "run", job: &job, container: namespaces, groups, pids, streams };
            let mut started = agent.spawner.start(request)?;
            // While the app is frozen, the process waits for the thaw; the host may have closed the connection by then.
            if !wait_until_started(&mut started, source).await? {
                return Ok(None);
            }
            Ok(attend(&mut started, agent_streams, source, sink).await)
        }
        Work::Archive { kind, path } => {
            let (streams, agent_streams) = pipes(Some(PIPE)).or_refuse(|| "making pipes")?;
            let (pids, namespaces) = (PidNamespace::Agents, Some(&container.namespaces));
            let job = Archive { path };
            let groups = Some(&container.groups);
            let request = SpawnRequest { kind, job: &job, container: namespaces, groups, pids, streams };
            let mut started = agent.spawner.start(request)?;
            let end = attend(&mut started, agent_streams, source, sink).await;
            started.succeeded().await?;
            Ok(end)
        }
    }
}

/// Waits until the process runs the program that it was made for. Returns false if the connection was closed first; the process
/// has been killed then.
async fn wait_until_started(started: &mut ContainerProcess, source: &OwnedReadHalf) -> Result<bool, Refusal> {
    let is_gone = async {
        while !peer_is_gone(AsRef::<UnixStream>::as_ref(source)) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        biased;
        succeeded = started.succeeded() => return succeeded.map(|()| true),
        () = is_gone => {}
    }
    kill_and_wait(started).await;
    Ok(false)
}

/// Kills a process with its group, and waits until it has terminated.
async fn kill_and_wait(started: &mut ContainerProcess) {
    let _ = kill(-started.pid, libc::SIGKILL);
    let _ = kill(started.pid, libc::SIGKILL); // it may have no group of its own yet
    let _ = (&mut started.exited).await;
}

/// Passes input and output on until the process has terminated. If the connection is closed first, kills the process and returns
/// no result.
async fn attend(
    started: &mut ContainerProcess,
    agent_streams: AgentStreams,
    source: &mut OwnedReadHalf,
    sink: &Sink,
) -> Option<Exited> {
    let (stop, _) = watch::channel(false);
    let (lost, mut is_lost) = mpsc::channel(1);
    let pumps: Vec<JoinHandle<()>> = agent_streams
        .outputs
        .iter()
        .map(|(stream, output)| {
            let (stream, sink) = (Arc::clone(stream), Arc::clone(sink));
            let (output, stop, lost) = (*output, stop.subscribe(), lost.clone());
            tokio::spawn(async move {
                if pump(&stream, output, &sink, stop).await.is_err() {
                    let _ = lost.try_send(());
                }
            })
        })
        .collect();
    let ended = tokio::select! {
        ended = &mut started.exited => Some(ended.unwrap_or_default()),
        () = pass_input(started.pid, agent_streams, source) => None,
        _ = is_lost.recv() => None,
    };
    if ended.is_none() {
        for pump in pumps {
            pump.abort();
        }
        kill_and_wait(started).await;
        return None;
    }
    let _ = stop.send(true);
    for pump in pumps {
        let _ = pump.await;
    }
    ended
}

/// Passes input on. Returns when the connection is closed.
async fn pass_input(pid: libc::pid_t, agent_streams: AgentStreams, source: &mut OwnedReadHalf) {
    let (queue, waiting) = mpsc::channel(WAITING);
    let terminal = agent_streams.terminal;
    // Only of a terminal. A pipe must not be held here: its reader sees the end when all writers have closed it.
    let screen = terminal.then(|| Arc::clone(&agent_streams.stdin));
    let mut queue = Some(queue);
    let feeding = feed(agent_streams.stdin, waiting);
    drop(agent_streams.outputs);
    let receiving = async {
        while let Ok(Some(input)) = frame::read::<ExecInput>(source).await {
            match input.event {
                Some(exec_input::Event::Stdin(bytes)) => {
                    let alive = enqueue(queue.as_ref(), bytes, source).await;
                    if !alive {
                        return;
                    }
                }
                Some(exec_input::Event::StdinClosed(_)) => {
                    let alive = !terminal || enqueue(queue.as_ref(), vec![END_OF_FILE], source).await;
                    if !alive {
                        return;
                    }
                    queue = None;
                }
                Some(exec_input::Event::Resize(size)) => {
                    let (rows, columns) = window(&size);
                    if let Some(screen) = &screen {
                        let _ = set_window_size(screen.as_fd(), rows, columns);
                    }
                }
                Some(exec_input::Event::Signal(signal)) => {
                    let signal = libc::c_int::try_from(signal).unwrap_or(0);
                    let _ = kill(-pid, signal); // the process may have terminated
                }
                None => {}
            }
        }
    };
    // The connection stays open when stdin is not read any more.
    let feeding = async {
        feeding.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = receiving => {}
        () = feeding => {}
    }
}

/// Queues input. Returns false if the connection is closed while the input waits for room.
async fn enqueue(queue: Option<&mpsc::Sender<Vec<u8>>>, bytes: Vec<u8>, source: &OwnedReadHalf) -> bool {
    let Some(queue) = queue else { return true }; // input after the end of input is discarded
    loop {
        match tokio::time::timeout(LOOK, queue.reserve()).await {
            Ok(Ok(place)) => {
                place.send(bytes);
                return true;
            }
            Ok(Err(_)) => return true, // stdin is not read any more
            Err(_) if peer_is_gone(AsRef::<UnixStream>::as_ref(source)) => return false,
            Err(_) => {}
        }
    }
}

async fn feed(stdin: Arc<Stream>, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = waiting.recv().await {
        if stdin.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Passes output on until the stream ends. After `stop`, passes on only what is there already, at most the capacity of a pipe:
/// other processes may hold the pipe, too, and go on writing.
async fn pump(
    stream: &Stream,
    output: Output,
    sink: &Sink,
    mut stop: watch::Receiver<bool>,
) -> Result<(), FrameError> {
    let mut buffer = vec![0; STEP];
    let mut left = usize::try_from(PIPE).unwrap_or_default();
    loop {
        let read = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => stream.read_now(&mut buffer).inspect(|read| left = left.saturating_sub(*read)),
            read = stream.read(&mut buffer) => read,
        };
        let Ok(length @ 1..) = read else { return Ok(()) };
        let bytes = buffer[..length].to_vec();
        send(
            sink,
            match output {
                Output::Stdout => exec_output::Event::Stdout(bytes),
                Output::Stderr => exec_output::Event::Stderr(bytes),
            },
        )
        .await?;
        if left == 0 {
            return Ok(());
        }
    }
}

async fn send(sink: &Sink, event: exec_output::Event) -> Result<(), FrameError> {
    frame::write(&mut *sink.lock().await, &ExecOutput { event: Some(event) }).await
}

type ChildStdio = [Stdio; 3];

fn pipes(size: Option<libc::c_int>) -> io::Result<(ChildStdio, AgentStreams)> {
    let (stdin, stdin_writer) = io::pipe()?;
    let (stdout, stdout_writer) = io::pipe()?;
    let (stderr, stderr_writer) = io::pipe()?;
    if let Some(size) = size {
        for pipe in [stdin.as_raw_fd(), stdout.as_raw_fd()] {
            // SAFETY: takes no pointer. A smaller pipe works, too.
            unsafe { libc::fcntl(pipe, libc::F_SETPIPE_SZ, size) };
        }
    }
    let stream = |descriptor: OwnedFd| Stream::new(descriptor).map(Arc::new);
    let outputs = vec![(stream(stdout.into())?, Output::Stdout), (stream(stderr.into())?, Output::Stderr)];
    let agent_streams = AgentStreams { stdin: stream(stdin_writer.into())?, outputs, terminal: false };
    Ok(([stdin.into(), stdout_writer.into(), stderr_writer.into()], agent_streams))
}

/// Opens a terminal in the container's devpts. Neither side is opened by a path in the container, which could lead anywhere.
fn terminal_streams(container: &Container, size: &WindowSize) -> io::Result<(ChildStdio, AgentStreams)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let folder = container.terminals.as_raw_fd();
    // SAFETY: the path is a constant string.
    let screen = descriptor(unsafe { libc::openat(folder, c"ptmx".as_ptr(), flags) })?;
    let unlocked: libc::c_int = 0;
    // SAFETY: the pointer is to a number that lives until the call returns.
    check(unsafe { libc::ioctl(screen.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    // SAFETY: takes no pointer.
    let line = descriptor(unsafe { libc::ioctl(screen.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    let (rows, columns) = window(size);
    set_window_size(&screen, rows, columns)?;
    let screen = Arc::new(Stream::new(screen)?);
    let agent_streams =
        AgentStreams { stdin: Arc::clone(&screen), outputs: vec![(screen, Output::Stdout)], terminal: true };
    Ok(([line.try_clone()?.into(), line.try_clone()?.into(), line.into()], agent_streams))
}

fn window(size: &WindowSize) -> (u16, u16) {
    let clamp = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    (clamp(size.rows), clamp(size.columns))
}
