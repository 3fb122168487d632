//! Tests of hooks against a scripted server on a real socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use super::*;

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// What the server does with one connection.
#[derive(Clone, Copy)]
enum Script {
    /// Reads the request and writes this.
    Answer(&'static str),
    /// Reads the request and closes.
    Close,
    /// Closes with unread bytes, which resets the connection.
    Reset,
    /// Reads the request, and waits until the client closes the connection.
    Hang,
    /// Writes this, and waits until the client closes the connection.
    AnswerAndHang(&'static str),
}

/// A server that follows a script, one connection per entry, and then closes its port. Returns the port and the requests that the
/// server received.
fn serve(scripts: &'static [Script]) -> (u32, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for script in scripts {
            let (mut stream, _) = listener.accept().unwrap();
            if matches!(script, Script::Reset) {
                // As far as this script needs it, the request has arrived when its first byte can be read.
                stream.peek(&mut [0]).unwrap();
                continue;
            }
            sender.send(read_request(&stream)).unwrap();
            match script {
                Script::Answer(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                Script::Close | Script::Reset => {}
                Script::Hang => drop(stream.read(&mut [0])),
                Script::AnswerAndHang(answer) => {
                    stream.write_all(answer.as_bytes()).unwrap();
                    let _ = stream.read(&mut [0]);
                }
            }
        }
    });
    (port.into(), requests)
}

fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let start = request.len();
        reader.read_line(&mut request).unwrap();
        let line = request[start..].trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request + &String::from_utf8(body).unwrap()
}

async fn run(hook: Hook, port: u32, timeout_ms: u32) -> (Outcome, u32) {
    let request = CallHook { hook: hook.into(), port, timeout_ms, ..CallHook::default() };
    let outcome = call(request, &LOOPBACK).await.unwrap();
    (outcome.result.unwrap(), outcome.attempts)
}

/// A port on which nothing listens.
fn closed_port() -> u32 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().into()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
const HOOK_TIMEOUT_MS: u32 = 60_000;
/// Time limit of calls that are expected to time out.
const SHORT: u32 = 300;

use Outcome::{Status, Transport};

const REFUSED: Outcome = Outcome::Refused(Done {});
const TIMED_OUT: Outcome = Outcome::TimedOut(Done {});

#[tokio::test]
async fn the_request_is_the_contracts() {
    let (port, requests) = serve(&[Script::Answer(OK), Script::Answer(OK)]);
    let body = br#"{"microvmId":"microvm-1","runHookPayload":"x"}"#;
    let request = CallHook {
        hook: Hook::Run.into(),
        port,
        timeout_ms: HOOK_TIMEOUT_MS,
        body: body.to_vec(),
        content_type: "application/json".to_string(),
    };
    assert_eq!(call(request, &LOOPBACK).await.unwrap().result, Some(Status(200)));
    let seen = requests.recv().unwrap();
    let mut lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines.remove(0), "POST /aws/lambda-microvms/runtime/v1/run HTTP/1.1");
    assert_eq!(lines.pop().unwrap().as_bytes(), body);
    lines.sort_unstable();
    let host = format!("Host: localhost:{port}");
    assert_eq!(
        lines,
        ["", "Connection: close", "Content-Length: 46", "Content-Type: application/json", &host]
    );

    assert_eq!(run(Hook::Suspend, port, HOOK_TIMEOUT_MS).await, (Status(200), 1));
    let seen = requests.recv().unwrap();
    assert!(seen.starts_with("POST /aws/lambda-microvms/runtime/v1/suspend HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("Content-Length: 0\r\n") && !seen.contains("Content-Type"), "{seen}");
}

#[tokio::test]
async fn ready_and_validate_are_called_again_after_503() {
    for hook in [Hook::Ready, Hook::Validate] {
        let (port, requests) = serve(&[Script::Answer(BUSY), Script::Answer(BUSY), Script::Answer(OK)]);
        assert_eq!(run(hook, port, HOOK_TIMEOUT_MS).await, (Status(200), 3));
        assert_eq!(requests.iter().count(), 3, "a connection each");
    }
}

#[tokio::test]
async fn other_statuses_are_the_outcome() {
    for (hook, answer, status) in [
        (Hook::Ready, "HTTP/1.1 404 No\r\n\r\n", 404),
        (Hook::Validate, "HTTP/1.1 500 No\r\n\r\n", 500),
        (Hook::Ready, "HTTP/1.1 302 Go\r\nLocation: /\r\n\r\n", 302),
        (Hook::Run, BUSY, 503),
        (Hook::Resume, BUSY, 503),
        (Hook::Run, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Done\r\n\r\n", 204),
        (Hook::Run, "HTTP/1.0 200 OK\r\n\r\nuntil the end", 200),
    ] {
        let scripts = Box::leak(Box::new([Script::Answer(answer)]));
        let (port, _requests) = serve(scripts);
        assert_eq!(run(hook, port, HOOK_TIMEOUT_MS).await, (Status(status), 1), "{answer}");
    }
}

#[tokio::test]
async fn a_hanging_handler_times_out_and_a_slow_body_does_not() {
    for hook in [Hook::Ready, Hook::Run, Hook::Resume] {
        let (port, _requests) = serve(&[Script::Hang]);
        assert_eq!(run(hook, port, SHORT).await, (TIMED_OUT, 1), "{hook:?}");
    }
    let (port, _requests) =
        serve(&[Script::AnswerAndHang("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nslow")]);
    assert_eq!(run(Hook::Run, port, HOOK_TIMEOUT_MS).await, (Status(200), 1));
    let (port, _requests) = serve(&[Script::AnswerAndHang("HTTP/1.1 20")]);
    assert_eq!(run(Hook::Run, port, SHORT).await, (TIMED_OUT, 1), "half a head is no answer");
}

#[tokio::test]
async fn refusals_are_told_apart() {
    assert_eq!(run(Hook::Run, closed_port(), HOOK_TIMEOUT_MS).await, (REFUSED, 1));
    assert_eq!(run(Hook::Resume, closed_port(), HOOK_TIMEOUT_MS).await, (REFUSED, 2));
    let (outcome, attempts) = run(Hook::Ready, closed_port(), SHORT).await;
    assert_eq!(outcome, TIMED_OUT);
    assert_eq!(attempts, 2, "at once, and after 250 ms");
}

#[tokio::test]
async fn ready_waits_for_the_port() {
    let port = closed_port();
    let listen = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&stream);
            stream.write_all(OK.as_bytes()).unwrap();
        });
    };
    let (outcome, ()) = tokio::join!(run(Hook::Ready, port, HOOK_TIMEOUT_MS), listen);
    assert_eq!(outcome.0, Status(200));
}

#[tokio::test]
async fn a_connection_without_an_answer_is_told_and_only_resume_tries_again() {
    for script in [Script::Close, Script::Reset] {
        let (port, _requests) = serve(Box::leak(Box::new([script])));
        let (outcome, attempts) = run(Hook::Run, port, HOOK_TIMEOUT_MS).await;
        assert!(matches!(outcome, Transport(_)), "{outcome:?}");
        assert_eq!(attempts, 1);
        let (port, _requests) = serve(Box::leak(Box::new([script, Script::Answer(OK)])));
        assert_eq!(run(Hook::Resume, port, HOOK_TIMEOUT_MS).await, (Status(200), 2));
    }
    let (port, _requests) = serve(&[Script::Answer("HTTP/1.1 20"), Script::Answer(OK)]);
    let (outcome, attempts) = run(Hook::Resume, port, HOOK_TIMEOUT_MS).await;
    assert!(matches!(outcome, Transport(_)), "{outcome:?}");
    assert_eq!(attempts, 1, "an answer had begun");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    for request in [
        CallHook { port: 80, ..CallHook::default() },
        CallHook { hook: Hook::Run.into(), port: 0, ..CallHook::default() },
        CallHook { hook: Hook::Run.into(), port: 65_536, ..CallHook::default() },
        CallHook {
            hook: Hook::Run.into(),
            port: 80,
            content_type: "a\r\nb".to_string(),
            ..CallHook::default()
        },
    ] {
        assert!(call(request.clone(), &LOOPBACK).await.is_err(), "{request:?}");
    }
}
