//! Connections to apps, which are servers of the test, and a simulated shell.

use hearth_host::agent::FrameError;
use hearth_host::agent::double::{self, Line};
use hearth_host::agent::exec::{Events, Stdin};
use hearth_proto::guest::v1 as agent;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};

use super::Double;
use super::world::GONE;
use crate::platform::{ConnectError, Connection};

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
pub(super) async fn shell(command: &[String]) -> Result<(Stdin, Events), ConnectError> {
    let process = agent::Process { arguments: command.to_vec(), ..agent::Process::default() };
    let what = Some(agent::open_exec::What::Process(process));
    let exec = agent::OpenExec { what, ..agent::OpenExec::default() };
    let terminal = double::served(|line| async { drop(terminal(line).await) }).exec(exec).await;
    terminal.map_err(|error| ConnectError::Guest(error.into()))
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
