//! A host whose microVMs run apps that are servers of this process: their ports are listeners on the loopback device. What
//! suspends a microVM cuts its connections off, as the real one does.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hearth_host::agent::exec::{Events, Stdin};
use hearth_host::agent::frame::{receive, send};
use hearth_host::agent::{Agent, Dial};
use hearth_proto::guest::v1 as agent;
use hearth_vmm::client::ClientError;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::platform::{
    Artifact, ConnectError, Connection, Exit, Found, Guest, Hook, HookOutcome, Platform, PlatformError, Spec,
    SuspendError,
};

/// What happens to all microVMs of a host.
#[derive(Debug, Default)]
pub(super) struct World {
    /// Where the app's ports are.
    pub(super) ports: HashMap<u16, SocketAddr>,
    /// What was done, in order.
    pub(super) done: Vec<String>,
    /// Connections that were opened to each port.
    pub(super) connections: HashMap<u16, usize>,
    pub(super) failing_resumes: u32,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Double {
    world: Arc<Mutex<World>>,
    /// Resumes wait for this, if it is false.
    pub(super) resumes: Arc<watch::Sender<bool>>,
    /// Told when a hook is called.
    pub(super) hooked: Arc<Notify>,
}

impl Double {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, what: impl Into<String>) {
        self.world().done.push(what.into());
    }

    fn guest(&self) -> Arc<dyn Guest> {
        Arc::new(Vm { double: self.clone(), relays: Mutex::default(), cancelled: Notify::new() })
    }
}

#[async_trait]
impl Platform for Double {
    async fn launch(&self, _: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        self.done("launch");
        Ok(self.guest())
    }

    async fn resume(&self, _: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        self.done("resume");
        let _ = self.resumes.subscribe().wait_for(|go| *go).await;
        let mut world = self.world();
        if world.failing_resumes > 0 {
            world.failing_resumes -= 1;
            return Err(PlatformError::Failed("its memory cannot be read".into()));
        }
        drop(world);
        Ok(self.guest())
    }

    async fn find(&self, _: &Spec, _: u64) -> Result<Found, PlatformError> {
        Ok(Found::Nothing)
    }

    async fn discard(&self, _: &str) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn remove_artifact(&self, _: &Artifact) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn sweep(&self, _: &HashSet<String>, _: &HashSet<Artifact>) -> Result<(), PlatformError> {
        Ok(())
    }
}

#[derive(Debug)]
struct Vm {
    double: Double,
    /// What passes bytes on, which ends with the microVM's process.
    relays: Mutex<JoinSet<()>>,
    cancelled: Notify,
}

/// A connection to this port panics.
pub(super) const PANICS: u16 = 9666;

#[async_trait]
impl Guest for Vm {
    async fn call_hook(&self, hook: Hook) -> HookOutcome {
        self.double.done(format!("/{}", hook.to_string().to_lowercase()));
        self.double.hooked.notify_waiters();
        HookOutcome::Status(200)
    }

    async fn suspend(&self, _: u64) -> Result<(), SuspendError> {
        self.double.done("save");
        self.relays.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        Ok(())
    }

    async fn cancel_suspend(&self) {
        self.cancelled.notify_one();
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Connection>, ConnectError> {
        assert_ne!(port, PANICS, "on purpose");
        let address = self.double.world().ports.get(&port).copied();
        let refused = || ConnectError::App(format!("nobody listens on port {port} of the app"));
        let app = TcpStream::connect(address.ok_or_else(refused)?).await.map_err(|_| refused())?;
        *self.double.world().connections.entry(port).or_default() += 1;
        let (ours, theirs) = UnixStream::pair().map_err(|error| ConnectError::Guest(error.to_string()))?;
        self.relays.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            // As the agent does: an app that takes no more may have answered.
            let ((mut up, mut down), (mut from, mut to)) = (theirs.into_split(), app.into_split());
            let upward = async {
                let _ = tokio::io::copy(&mut up, &mut to).await;
                let _ = to.shutdown().await;
            };
            let downward = async {
                let _ = tokio::io::copy(&mut from, &mut down).await;
                let _ = down.shutdown().await;
            };
            tokio::join!(upward, downward);
        });
        Ok(Box::new(ours))
    }

    async fn shell(&self, command: &[String]) -> Result<(Stdin, Events), ConnectError> {
        let command = command.to_vec();
        let process = agent::Process { arguments: command, ..agent::Process::default() };
        let exec = agent::OpenExec {
            what: Some(agent::open_exec::What::Process(process)),
            ..agent::OpenExec::default()
        };
        let terminal = Agent::new(Terminal).exec(exec).await;
        terminal.map_err(|error| ConnectError::Guest(error.to_string()))
    }

    async fn exited(&self) -> Exit {
        std::future::pending().await
    }
}

/// An agent with a program that shows what is typed, in capitals, tells its size, and ends with what follows `exit`.
struct Terminal;

impl Dial for Terminal {
    fn dial(&self) -> Result<StdStream, ClientError> {
        let failed = |source| ClientError::Host { what: "making a terminal", source };
        let (ours, theirs) = StdStream::pair().map_err(failed)?;
        theirs.set_nonblocking(true).map_err(failed)?;
        let handle = tokio::runtime::Handle::current();
        handle.spawn(async move {
            let _ = terminal(theirs).await;
        });
        Ok(ours)
    }
}

async fn terminal(stream: StdStream) -> io::Result<()> {
    use agent::exec_input::Event as Input;
    use agent::exec_output::Event as Output;
    let mut stream = UnixStream::from_std(stream)?;
    let broken = |error| io::Error::other(format!("{error:?}"));
    let open: agent::Open = receive(&mut stream).await.map_err(broken)?;
    send(&mut stream, &agent::Opened { failure: None }).await.map_err(broken)?;
    let Some(agent::open::Kind::Exec(exec)) = open.kind else { return Ok(()) };
    let show = |text: String| agent::ExecOutput { event: Some(Output::Stdout(text.into_bytes())) };
    if let Some(agent::open_exec::What::Process(process)) = exec.what
        && !process.arguments.is_empty()
    {
        send(&mut stream, &show(process.arguments.join("|"))).await.map_err(broken)?;
        let exited = agent::Exited { code: 3, ..agent::Exited::default() };
        let output = agent::ExecOutput { event: Some(Output::Exited(exited)) };
        return send(&mut stream, &output).await.map_err(broken);
    }
    loop {
        let input: agent::ExecInput = receive(&mut stream).await.map_err(broken)?;
        match input.event {
            Some(Input::Stdin(bytes)) => {
                let text = String::from_utf8_lossy(&bytes).to_uppercase();
                if let Some(code) = text.trim().strip_prefix("EXIT ") {
                    let exited =
                        agent::Exited { code: code.parse().unwrap_or(255), ..agent::Exited::default() };
                    let output = agent::ExecOutput { event: Some(Output::Exited(exited)) };
                    return send(&mut stream, &output).await.map_err(broken);
                }
                send(&mut stream, &show(text)).await.map_err(broken)?;
            }
            Some(Input::Resize(size)) => {
                send(&mut stream, &show(format!("{}x{}", size.columns, size.rows))).await.map_err(broken)?;
            }
            _ => {}
        }
    }
}

/// Long enough for anything that is to happen, short enough to fail in time.
pub(super) const LONG: Duration = Duration::from_secs(20);
