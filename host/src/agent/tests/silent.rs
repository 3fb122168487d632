//! An agent that goes silent, at every point of every exchange, in simulated time: whoever asked gets an error in the end.

use std::future::pending;

use proto::request::Operation;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::*;
use crate::agent::frame::MAX;

/// What the agent does from some point on.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It reads, and says nothing.
    Silent,
    /// It does not even read.
    Deaf,
    /// It says half of a message.
    Half,
    /// It says a byte of a long message every second.
    Trickle,
    /// It says things that are no messages.
    Garbage,
    /// It answers something that was not asked.
    Other,
    /// It hangs up.
    Closes,
}

const FAULTS: [Fault; 7] =
    [Fault::Silent, Fault::Deaf, Fault::Half, Fault::Trickle, Fault::Garbage, Fault::Other, Fault::Closes];

impl Fault {
    /// What the agent does with a connection from now on.
    async fn strike(self, mut guest: UnixStream) {
        let (prefix, length) = (u32::try_from(MAX).unwrap().to_le_bytes(), MAX);
        match self {
            Self::Silent => drop(tokio::io::copy(&mut guest, &mut tokio::io::sink()).await),
            Self::Deaf => pending().await,
            Self::Half => {
                guest.write_all(&prefix).await.unwrap();
                guest.write_all(&[10; 100]).await.unwrap();
                let _ = tokio::io::copy(&mut guest, &mut tokio::io::sink()).await;
            }
            Self::Trickle => {
                let (mut reader, mut writer) = guest.into_split();
                let read = async { drop(tokio::io::copy(&mut reader, &mut tokio::io::sink()).await) };
                let write = async {
                    let _ = writer.write_all(&prefix).await;
                    for _ in 0..length {
                        sleep(Duration::from_secs(1)).await;
                        if writer.write_all(&[10]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::join!(read, write);
            }
            Self::Garbage => {
                let _ = guest.write_all(&[255; 4096]).await;
            }
            Self::Other => {
                let exited = Answer::Exited(proto::Exited { code: 1, signal: 0 });
                let _ = send(&mut guest, &proto::Response { result: Some(exited) }).await;
                let failure = Some(proto::Failure::default());
                let _ = send(&mut guest, &proto::Opened { failure }).await;
                let _ = guest.shutdown().await;
                let _ = guest.read_to_end(&mut Vec::new()).await;
            }
            Self::Closes => drop(guest),
        }
    }
}

/// Where the agent goes silent.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// When it is greeted.
    Greeting,
    /// When it is asked.
    Request,
}

/// Gives out connections to an agent with a fault, as many as are wanted.
struct Faulty {
    fault: Fault,
    point: Point,
    runtime: tokio::runtime::Handle,
}

impl Dial for Faulty {
    fn dial(&self) -> Result<StdStream, ClientError> {
        let (ours, theirs) = StdStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (fault, point) = (self.fault, self.point);
        self.runtime.spawn(async move {
            let mut guest = UnixStream::from_std(theirs).unwrap();
            if matches!(point, Point::Request) {
                accept(&mut guest).await;
            }
            fault.strike(guest).await;
        });
        Ok(ours)
    }
}

/// Requests that are waited for; each is longer than what a socket holds, so that it matters whether the agent reads.
fn long() -> String {
    "x".repeat(MAX - 4096)
}

/// Makes a request, on a connection of its own. A new kind of request does not compile until it is here.
async fn ask(agent: &Agent, operation: Operation) -> Result<(), AgentError> {
    match operation {
        Operation::CallHook(_) => {
            let timeout = Duration::from_secs(60);
            let call = HookCall { hook: proto::Hook::Terminate, port: 80, timeout, body: Some(long()) };
            agent.call_hook(&call).await.map(drop)
        }
        Operation::GetStatus(_) => agent.control().await?.status().await.map(drop),
        Operation::Configure(configure) => agent.control().await?.configure(configure).await,
        Operation::StartApp(start) => {
            agent.control().await?.start_app(start.process.unwrap_or_default()).await
        }
        // It may take any time, and ends with the microVM: not to be asked here.
        Operation::WaitApp(_) => Err(AgentError::Confused),
        Operation::Identify(identify) => agent.control().await?.identify(identify).await,
        Operation::SetCredentials(set) => agent.control().await?.set_credentials(set.credentials).await,
        Operation::MakeSealKey(_) => {
            let credentials = proto::Credentials::default();
            agent.control().await?.set_sealed_credentials(&credentials).await
        }
        Operation::Freeze(freeze) => agent.control().await?.freeze(freeze.forget).await.map(drop),
        Operation::Thaw(_) => agent.control().await?.thaw().await,
        Operation::Quiesce(_) => agent.control().await?.quiesce(true).await.map(drop),
        Operation::PowerOff(_) => agent.control().await?.power_off().await,
    }
}

fn requests() -> Vec<Operation> {
    vec![
        Operation::GetStatus(proto::GetStatus {}),
        Operation::Configure(proto::Configure { hostname: long(), ..proto::Configure::default() }),
        Operation::StartApp(proto::StartApp::default()),
        Operation::CallHook(proto::CallHook::default()),
        Operation::Identify(proto::Identify { hostname: long(), ..proto::Identify::default() }),
        Operation::SetCredentials(proto::SetCredentials::default()),
        Operation::MakeSealKey(proto::MakeSealKey {}),
        Operation::Freeze(proto::Freeze { forget: true }),
        Operation::Thaw(proto::Thaw {}),
        Operation::Quiesce(proto::Quiesce::default()),
        Operation::PowerOff(proto::PowerOff {}),
    ]
}

/// Opens a connection. A new kind of connection does not compile until it is here.
async fn open(agent: &Agent, kind: Kind) -> Result<(), AgentError> {
    match kind {
        Kind::Control(_) => agent.control().await.map(drop),
        Kind::Stream(_) => agent.stream(80, Duration::from_secs(5)).await.map(drop),
        Kind::Exec(exec) => agent.exec(exec).await.map(drop),
        Kind::Logs(logs) => agent.logs(logs.after).await.map(drop),
        Kind::Dns(_) => agent.serve_names(|query| async { query }).await,
    }
}

fn kinds() -> Vec<Kind> {
    let environment = vec![long()];
    let process = proto::Process { environment, ..proto::Process::default() };
    let exec = proto::OpenExec {
        what: Some(proto::open_exec::What::Process(process)),
        ..proto::OpenExec::default()
    };
    vec![
        Kind::Control(proto::OpenControl {}),
        Kind::Stream(proto::OpenStream::default()),
        Kind::Exec(exec),
        Kind::Logs(proto::OpenLogs { after: 0 }),
        Kind::Dns(proto::OpenDns {}),
    ]
}

fn faulty(fault: Fault, point: Point) -> Agent {
    Agent::new(Faulty { fault, point, runtime: tokio::runtime::Handle::current() })
}

/// Longer than any exchange takes, in simulated time.
const AGES: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn every_opening_comes_to_an_end() {
    for fault in FAULTS {
        for kind in kinds() {
            let agent = faulty(fault, Point::Greeting);
            let opened = timeout(AGES, open(&agent, kind.clone())).await;
            let opened = opened.unwrap_or_else(|_| panic!("{fault:?}: {kind:?} hangs"));
            // What else it says may be taken for a greeting; what follows it is not what was asked for then.
            assert!(opened.is_err() || matches!(fault, Fault::Other), "{fault:?}: {kind:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_request_comes_to_an_end() {
    for point in [Point::Greeting, Point::Request] {
        for fault in FAULTS {
            for request in requests() {
                let agent = faulty(fault, point);
                let answered = timeout(AGES, ask(&agent, request.clone())).await;
                let answered =
                    answered.unwrap_or_else(|_| panic!("{fault:?} at {point:?}: {request:?} hangs"));
                assert!(answered.is_err(), "{fault:?} at {point:?}: {request:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_has_one_time_for_all_that_its_call_takes() {
    let call = HookCall { hook: proto::Hook::Run, port: 80, timeout: Duration::from_secs(1), body: None };
    for point in [Point::Greeting, Point::Request] {
        for fault in [Fault::Silent, Fault::Deaf, Fault::Half, Fault::Trickle] {
            let began = Instant::now();
            let called = faulty(fault, point).call_hook(&call).await;
            assert!(matches!(called, Err(AgentError::TimedOut { .. })), "{fault:?} at {point:?}: {called:?}");
            assert_eq!(began.elapsed().as_secs(), call.limit().as_secs(), "{fault:?} at {point:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_boots_has_its_time_and_no_longer() {
    let limit = Duration::from_secs(120);
    for fault in FAULTS {
        let ready = timeout(AGES, faulty(fault, Point::Greeting).wait_ready(limit)).await;
        let ready = ready.unwrap_or_else(|_| panic!("{fault:?}: it is waited for without end"));
        assert!(ready.is_err() || matches!(fault, Fault::Other), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_is_not_taken_for_the_next_one() {
    let (agent, mut guest) = agent();
    let script = async {
        accept(&mut guest).await;
        let _: proto::Request = receive(&mut guest).await.unwrap();
        sleep(AGES).await;
        for code in [1, 2] {
            let exited = Answer::Exited(proto::Exited { code, signal: 0 });
            let _ = send(&mut guest, &proto::Response { result: Some(exited) }).await;
        }
    };
    let asked = async {
        let mut control = agent.control().await.unwrap();
        let late = control.status().await;
        assert!(matches!(late, Err(AgentError::TimedOut { .. })), "{late:?}");
        sleep(AGES * 2).await;
        let next = control.wait_app().await;
        assert!(matches!(next, Err(AgentError::Connection { .. })), "{next:?}");
    };
    tokio::join!(script, asked);
}

/// A way to a guest whose monitor keeps the answer back.
struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>, Arc<std::sync::atomic::AtomicUsize>);

impl Dial for Stuck {
    fn dial(&self) -> Result<StdStream, ClientError> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let _ = self.0.lock().unwrap().recv();
        Err(ClientError::Confused("stuck".into()))
    }
}

#[tokio::test]
async fn a_monitor_that_is_silent_holds_up_one_thread() {
    let (release, held) = std::sync::mpsc::channel();
    let dials = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let agent = Agent::new(Stuck(Mutex::new(held), Arc::clone(&dials)));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let agent = agent.clone();
        asking.spawn(async move { agent.control().await.map(drop) });
    }
    while dials.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(dials.load(std::sync::atomic::Ordering::SeqCst), 1);
    drop(release);
    while let Some(asked) = asking.join_next().await {
        assert!(asked.unwrap().is_err());
    }
}
