//! Tests of the client against a double of the agent at the other end of a real socket.

mod silent;

use proto::exec_output::Event as Output;
use proto::response::Result as Response;

use super::control::HookCall;
use super::double::{Line, Lines, played};
use super::exec::Event;
use super::*;

/// The guest's side of the next connection.
async fn next(guest: &mut Lines) -> Line {
    guest.next().await.unwrap().unwrap()
}

/// The guest's side of the next connection, which is opened, and the client's greeting.
async fn accept(guest: &mut Lines) -> (Line, proto::Open) {
    let mut line = next(guest).await;
    let open = line.accept().await.unwrap();
    (line, open)
}

#[tokio::test]
async fn a_refusal_keeps_its_words() {
    let (agent, mut guest) = played();
    let script = async {
        let failure =
            proto::Failure { code: proto::FailureCode::Invalid.into(), message: "no such kind".into() };
        let open = next(&mut guest).await.refuse(failure).await.unwrap();
        assert_eq!((open.version, open.oldest_version), (version::OWN.newest(), version::OWN.oldest()));
    };
    let (result, ()) = tokio::join!(agent.control(), script);
    assert!(
        matches!(result, Err(AgentError::Refused { code: proto::FailureCode::Invalid, message }) if message == "no such kind")
    );
}

#[tokio::test]
async fn outcomes_of_hooks_are_told_apart() {
    use proto::hook_outcome::Result as Outcome;
    let (agent, mut guest) = played();
    let outcomes = [
        (Some(Outcome::Status(204)), Some(HookOutcome::Status(204))),
        (Some(Outcome::Refused(proto::Done {})), Some(HookOutcome::Refused)),
        (Some(Outcome::TimedOut(proto::Done {})), Some(HookOutcome::TimedOut)),
        (Some(Outcome::Transport("reset".into())), Some(HookOutcome::Failed("reset".into()))),
        (None, None),
    ];
    let script = async {
        let (mut line, _) = accept(&mut guest).await;
        for (result, _) in outcomes.clone() {
            line.receive_request().await.unwrap();
            let outcome = proto::HookOutcome { result, attempts: 1, elapsed_us: 1 };
            line.answer(Response::Hook(outcome)).await.unwrap();
        }
    };
    let calls = async {
        let mut control = agent.control().await.unwrap();
        let call =
            HookCall { hook: proto::Hook::Run, port: 80, timeout: Duration::from_secs(60), body: None };
        for (_, expected) in &outcomes {
            assert_eq!(control.call_hook(&call).await.ok(), *expected);
        }
    };
    tokio::join!(script, calls);
}

#[tokio::test]
async fn what_goes_into_the_guest_arrives_whole() {
    let (agent, mut guest) = played();
    let archive: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let script = async {
        let (mut line, _) = accept(&mut guest).await;
        let mut got = Vec::new();
        loop {
            let input: proto::ExecInput = line.receive().await.unwrap();
            match input.event.unwrap() {
                proto::exec_input::Event::Stdin(bytes) => got.extend(bytes),
                proto::exec_input::Event::StdinClosed(_) => break,
                other => panic!("unexpected {other:?}"),
            }
        }
        line.output(Output::Exited(proto::Exited { code: 0, signal: 0 })).await.unwrap();
        got
    };
    let (result, got) = tokio::join!(agent.unpack("/srv", archive.as_slice()), script);
    result.unwrap();
    assert!(got == archive);
}

#[tokio::test]
async fn a_guest_that_gives_up_half_way_says_why() {
    let (agent, mut guest) = played();
    let script = async {
        let (mut line, _) = accept(&mut guest).await;
        let _: proto::ExecInput = line.receive().await.unwrap();
        for event in [
            Output::Stderr(b"No space left on device\n".to_vec()),
            Output::Exited(proto::Exited { code: 1, signal: 0 }),
        ] {
            line.output(event).await.unwrap();
        }
    };
    let (result, ()) = tokio::join!(agent.unpack("/srv", tokio::io::repeat(7)), script);
    assert!(result.unwrap_err().to_string().contains("No space left on device"));
}

#[tokio::test]
async fn a_process_is_followed_to_its_end() {
    let (agent, mut guest) = played();
    let script = async {
        let (mut line, open) = accept(&mut guest).await;
        let Some(Kind::Exec(exec)) = open.kind else { panic!("not an exec") };
        assert!(exec.privileged && exec.terminal.is_none());
        for event in [Output::Stdout(b"out".to_vec()), Output::Exited(proto::Exited { code: 137, signal: 9 })]
        {
            line.output(event).await.unwrap();
        }
    };
    let follow = async {
        let what = Some(proto::open_exec::What::Process(proto::Process::default()));
        let exec = proto::OpenExec { what, privileged: true, ..proto::OpenExec::default() };
        let (_stdin, mut events) = agent.exec(exec).await.unwrap();
        assert_eq!(events.next().await.unwrap(), Event::Stdout(b"out".to_vec()));
        let exit = control::Exit { code: 137, signal: Some(9) };
        assert_eq!(events.next().await.unwrap(), Event::Exited(exit));
        assert!(events.next().await.is_err(), "the connection has ended");
    };
    tokio::join!(script, follow);
}

#[tokio::test]
async fn queries_are_answered_in_any_order() {
    let (agent, mut guest) = played();
    let script = async {
        let (mut line, _) = accept(&mut guest).await;
        for id in 1..=2 {
            let message = vec![u8::try_from(id).unwrap()];
            line.send(&proto::DnsQuery { id, message }).await.unwrap();
        }
        let mut answers = Vec::new();
        for _ in 0..2 {
            let answer: proto::DnsAnswer = line.receive().await.unwrap();
            answers.push((answer.id, answer.message));
        }
        answers
    };
    let second_done = Arc::new(tokio::sync::Notify::new());
    let answer = move |message: Vec<u8>| {
        let second_done = Arc::clone(&second_done);
        async move {
            match message.as_slice() {
                [1] => second_done.notified().await,
                _ => second_done.notify_one(),
            }
            [message, vec![0]].concat()
        }
    };
    let (ended, answers) = tokio::join!(agent.serve_names(answer), script);
    assert!(ended.is_err());
    assert_eq!(answers, [(2, vec![2, 0]), (1, vec![1, 0])]);
}

#[tokio::test]
async fn hostile_frames_are_refused() {
    use tokio::io::AsyncWriteExt as _;
    for bytes in [&[255, 255, 255, 255][..], &[3, 0, 0, 0, 255, 255, 255], &[9, 0]] {
        let (mut guest, mut host) = UnixStream::pair().unwrap();
        guest.write_all(bytes).await.unwrap();
        drop(guest);
        let received: Result<proto::Response, FrameError> = receive(&mut host).await;
        assert!(!matches!(received.unwrap_err(), FrameError::Closed));
    }
}

#[tokio::test]
async fn a_guests_text_is_kept_to_a_bound() {
    let (agent, mut guest) = played();
    let script = async {
        let message = "ä".repeat(60_000);
        let failure = proto::Failure { code: proto::FailureCode::Invalid.into(), message };
        next(&mut guest).await.refuse(failure).await.unwrap();
    };
    let (result, ()) = tokio::join!(agent.control(), script);
    assert_eq!(result.unwrap_err().to_string(), "ä".repeat(TEXT / 2));
}
