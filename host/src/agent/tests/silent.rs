//! An agent that stops responding, at every point of every exchange, in simulated time: the caller always gets an error in the end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proto::request::Operation;
use tokio::time::{Instant, timeout};

use super::*;
use crate::agent::double::{Fault, served, unreachable};
use hearth_agent_protocol::frame::LIMIT;

/// The point of an exchange at which the agent has its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// On the greeting.
    Greeting,
    /// On the request.
    Request,
}

/// A text for requests: longer than a socket buffer holds, so that it matters whether the agent reads.
fn long() -> String {
    "x".repeat(LIMIT - 4096)
}

/// Makes a request over a new connection. A new kind of request does not compile until it is added here.
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
        // WaitApp has no deadline and lasts as long as the microVM, so it is not tested here.
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

/// Opens a connection. A new kind of connection does not compile until it is added here.
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

/// An agent with a fault at a point of each of its connections.
fn faulty(fault: Fault, point: Point) -> Agent {
    served(move |mut line| async move {
        if point == Point::Request {
            line.accept().await.unwrap();
        }
        line.strike(fault).await;
    })
}

/// Longer than any exchange takes, in simulated time.
const AGES: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn every_opening_comes_to_an_end() {
    for fault in Fault::ALL {
        for kind in kinds() {
            let agent = faulty(fault, Point::Greeting);
            let opened = timeout(AGES, open(&agent, kind.clone())).await;
            let opened = opened.unwrap_or_else(|_| panic!("{fault:?}: {kind:?} hangs"));
            // The wrong answer may be taken for a greeting; in that case, later messages fail.
            assert!(opened.is_err() || matches!(fault, Fault::Other), "{fault:?}: {kind:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_request_comes_to_an_end() {
    for point in [Point::Greeting, Point::Request] {
        for fault in Fault::ALL {
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

/// A result of each kind. A new kind does not compile until it is added here.
fn answers() -> Vec<Response> {
    let all = vec![
        Response::Failure(proto::Failure::default()),
        Response::Done(proto::Done {}),
        Response::Status(proto::Status::default()),
        Response::Exited(proto::Exited::default()),
        Response::Hook(proto::HookOutcome {
            result: Some(proto::hook_outcome::Result::Status(200)),
            ..proto::HookOutcome::default()
        }),
        Response::Quiesced(proto::Quiesced::default()),
        Response::SealKey(proto::SealKey::default()),
    ];
    for answer in &all {
        match answer {
            Response::Failure(_) | Response::Done(_) | Response::Status(_) | Response::Exited(_) => {}
            Response::Hook(_) | Response::Quiesced(_) | Response::SealKey(_) => {}
        }
    }
    all
}

/// Whether this result is of the kind that the request has.
fn belongs(answer: &Response, request: &Operation) -> bool {
    match request {
        Operation::GetStatus(_) | Operation::Freeze(_) => matches!(answer, Response::Status(_)),
        Operation::CallHook(_) => matches!(answer, Response::Hook(_)),
        Operation::WaitApp(_) => matches!(answer, Response::Exited(_)),
        Operation::Quiesce(_) => matches!(answer, Response::Quiesced(_)),
        // The client then seals credentials with the key, and the result of that second request is of another kind.
        Operation::MakeSealKey(_) => false,
        Operation::Configure(_)
        | Operation::StartApp(_)
        | Operation::Identify(_)
        | Operation::SetCredentials(_)
        | Operation::Thaw(_)
        | Operation::PowerOff(_) => matches!(answer, Response::Done(_)),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_kind_is_none() {
    for request in requests() {
        for answer in answers() {
            let said = answer.clone();
            let agent = served(move |mut line| {
                let said = said.clone();
                async move {
                    line.accept().await.unwrap();
                    while line.receive_request().await.is_ok() && line.answer(said.clone()).await.is_ok() {}
                }
            });
            let answered = timeout(AGES, ask(&agent, request.clone())).await;
            let answered = answered.unwrap_or_else(|_| panic!("{answer:?} to {request:?} hangs"));
            assert_eq!(
                answered.is_ok(),
                belongs(&answer, &request),
                "{answer:?} to {request:?}: {answered:?}"
            );
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
    for fault in Fault::ALL {
        let ready = timeout(AGES, faulty(fault, Point::Greeting).wait_ready(limit)).await;
        let ready = ready.unwrap_or_else(|_| panic!("{fault:?}: it is waited for without end"));
        assert!(ready.is_err() || matches!(fault, Fault::Other), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_is_not_taken_for_the_next_one() {
    let (agent, mut guest) = played();
    let script = async {
        let (mut line, _) = accept(&mut guest).await;
        line.receive_request().await.unwrap();
        sleep(AGES).await;
        for code in [1, 2] {
            let _ = line.answer(Response::Exited(proto::Exited { code, signal: 0 })).await; // it may be closed
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

#[tokio::test]
async fn a_monitor_that_is_silent_holds_up_one_thread() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (held, dials) = (Mutex::new(held), Arc::new(AtomicUsize::new(0)));
    let dialed = Arc::clone(&dials);
    let agent = unreachable(move || {
        dialed.fetch_add(1, Ordering::SeqCst);
        let _ = held.lock().unwrap().recv();
        ClientError::Confused("stuck".into())
    });
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let agent = agent.clone();
        asking.spawn(async move { agent.control().await.map(drop) });
    }
    while dials.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    drop(release);
    while let Some(asked) = asking.join_next().await {
        assert!(asked.unwrap().is_err());
    }
}
