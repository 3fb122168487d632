//! Connections to apps, which are servers of the test, and a simulated shell.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use hearth_host::agent::FrameError;
use hearth_host::agent::double::{self, Line};
use hearth_host::agent::exec::{Events, Stdin};
use hearth_proto::guest::v1 as agent;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::Double;
use super::world::GONE;
use crate::platform::{ConnectError, Connection, Streams};

/// Bytes of output in one message, as the agent sends them.
const PIECE: usize = 128 << 10;
/// Messages of input that are queued for a program.
const WAITING: usize = 16;

/// Connects to a port of the app of the microVM `id`. Bytes pass through the microVM's process; when it exits, the
/// connection is cut off.
pub(super) async fn connect(
    host: &Double,
    id: &str,
    process: u64,
    port: u16,
) -> Result<Box<dyn Connection>, ConnectError> {
    let address = host.world().ports.get(&port).copied();
    let refused = || ConnectError::App(format!("nobody listens on port {port} of the app").into());
    let app = TcpStream::connect(address.ok_or_else(refused)?).await.map_err(|_| refused())?;
    let failed = |error: std::io::Error| ConnectError::Guest(error.into());
    if host.direct {
        app.set_nodelay(true).map_err(failed)?;
        return Ok(Box::new(app));
    }
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut world = host.world();
    // The process may have exited meanwhile.
    let runs = world.runs(id, process);
    let process = world.process(process).filter(|_| runs);
    let relays = process.map(|process| &mut process.relays);
    let relays = relays.ok_or_else(|| ConnectError::Guest(GONE.into()))?;
    while relays.try_join_next().is_some() {} // removes finished relays
    relays.spawn(relay(theirs, app));
    *world.connections.entry(port).or_default() += 1;
    Ok(Box::new(ours))
}

/// Relays as the agent does: an app that reads no more may still have a response to send.
async fn relay(daemon: UnixStream, app: TcpStream) {
    let ((mut up, mut down), (mut from, mut to)) = (daemon.into_split(), app.into_split());
    let upward = async {
        let _ = tokio::io::copy(&mut up, &mut to).await;
        let _ = to.shutdown().await;
    };
    let downward = async {
        let _ = tokio::io::copy(&mut from, &mut down).await;
        let _ = down.shutdown().await;
    };
    tokio::join!(upward, downward);
}

/// A connection whose other end is closed.
pub(super) fn closed() -> impl Connection + 'static {
    tokio::io::duplex(1).0
}

/// A simulated terminal. Its program echoes its input in capitals, reports the size of the terminal, and exits with
/// the code that follows `exit`. A command is shown, and exits with 3.
///
/// With pipes, a program of this machine: its bytes are those of real pipes.
pub(super) async fn shell(command: &[String], streams: Streams) -> Result<(Stdin, Events), ConnectError> {
    let process = agent::Process { arguments: command.to_vec(), ..agent::Process::default() };
    let what = Some(agent::open_exec::What::Process(process));
    let exec = agent::OpenExec { what, ..agent::OpenExec::default() };
    let program = match streams {
        Streams::Terminal => double::served(|line| async { drop(terminal(line).await) }),
        Streams::Pipes => double::served(|line| async { drop(piped(line).await) }),
    };
    program.exec(exec).await.map_err(|error| ConnectError::Guest(error.into()))
}

/// Serves a program of this machine as the agent serves one: its input waits until it reads, its output until the daemon reads, and it
/// is killed when the daemon closes the connection.
async fn piped(mut line: Line) -> Result<(), FrameError> {
    use agent::exec_input::Event as Input;
    use agent::exec_output::Event as Output;
    let Some(agent::open::Kind::Exec(exec)) = line.accept().await?.kind else { return Ok(()) };
    let Some(agent::open_exec::What::Process(process)) = exec.what else { return Ok(()) };
    let (program, arguments) = match process.arguments.split_first() {
        Some((program, arguments)) => (program.as_str(), arguments),
        None => ("sh", [].as_slice()),
    };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(_) => {
            let (code, message) = (agent::FailureCode::NotFound.into(), format!("no such file: {program}"));
            return line.output(Output::Failed(agent::Failure { code, message })).await;
        }
    };
    let (Some(mut stdin), (queue, mut waiting)) = (child.stdin.take(), mpsc::channel::<Vec<u8>>(WAITING))
    else {
        return Ok(());
    };
    let (mut reader, mut writer) = line.split();
    // The connection is read, and so its end is seen, while the program does not read.
    let receive = async {
        let mut queue = Some(queue);
        while let Ok(input) = reader.receive::<agent::ExecInput>().await {
            match input.event {
                Some(Input::Stdin(bytes)) => {
                    if let Some(queue) = &queue {
                        drop(queue.send(bytes).await);
                    }
                }
                Some(Input::StdinClosed(_)) => queue = None,
                _ => {}
            }
        }
    };
    let feed = async {
        while let Some(bytes) = waiting.recv().await {
            drop(stdin.write_all(&bytes).await); // the program may read no more
        }
        drop(stdin);
        std::future::pending::<()>().await;
    };
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Ok(());
    };
    let output = async {
        let (mut out, mut err) = (vec![0; PIECE], vec![0; PIECE]);
        let (mut has_out, mut has_err) = (true, true);
        while has_out || has_err {
            let event = tokio::select! {
                read = stdout.read(&mut out), if has_out => {
                    let read = read.unwrap_or(0);
                    has_out = read > 0;
                    Output::Stdout(out.get(..read).unwrap_or_default().to_vec())
                }
                read = stderr.read(&mut err), if has_err => {
                    let read = read.unwrap_or(0);
                    has_err = read > 0;
                    Output::Stderr(err.get(..read).unwrap_or_default().to_vec())
                }
            };
            writer.output(event).await?;
        }
        let status = child.wait().await?;
        let code = status.code().or(status.signal().map(|signal| signal.saturating_add(128)));
        let code = code.and_then(|code| u32::try_from(code).ok()).unwrap_or(255);
        writer.output(Output::Exited(agent::Exited { code, ..agent::Exited::default() })).await
    };
    tokio::select! {
        () = receive => Ok(()),
        () = feed => Ok(()),
        ended = output => ended,
    }
}

async fn terminal(mut line: Line) -> Result<(), FrameError> {
    use agent::exec_input::Event as Input;
    use agent::exec_output::Event as Output;
    let Some(agent::open::Kind::Exec(exec)) = line.accept().await?.kind else { return Ok(()) };
    let exited = |code| Output::Exited(agent::Exited { code, ..agent::Exited::default() });
    if let Some(agent::open_exec::What::Process(process)) = exec.what
        && let Some(program) = process.arguments.first()
    {
        // As the agent refuses what it cannot execute.
        if program == "/absent" {
            let message = "no such file: /absent".to_owned();
            let failure = agent::Failure { code: agent::FailureCode::NotFound.into(), message };
            return line.output(Output::Failed(failure)).await;
        }
        line.output(Output::Stdout(process.arguments.join("|").into_bytes())).await?;
        return line.output(exited(3)).await;
    }
    loop {
        match line.receive::<agent::ExecInput>().await?.event {
            Some(Input::Stdin(bytes)) => {
                let text = String::from_utf8_lossy(&bytes).to_uppercase();
                if let Some(code) = text.trim().strip_prefix("EXIT ") {
                    return line.output(exited(code.parse().unwrap_or(255))).await;
                }
                line.output(Output::Stdout(text.into_bytes())).await?;
            }
            Some(Input::Resize(size)) => {
                let size = format!("{}x{}", size.columns, size.rows);
                line.output(Output::Stdout(size.into_bytes())).await?;
            }
            _ => {}
        }
    }
}
