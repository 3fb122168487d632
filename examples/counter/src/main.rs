//! A counter over HTTP: what survives a snapshot can be seen with `curl`.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /` | how often it was asked: kept in memory |
//! | `GET /loopback` | a byte goes round over a TCP connection that was opened at the start |
//! | `GET /run` | what `/run` was told |
//! | `GET /environment` | the environment |
//! | `GET /exit/N` | none: the program ends with status N |
//! | `POST /aws/lambda-microvms/runtime/v1/HOOK` | 200, or what the variable `HOOK_<NAME>` says: statuses to be answered in turn (the last one for ever), or `hang` |
//!
//! `counter ask PATH` asks the one that runs, from beside it: for a shell in a container that has nothing else.
//!
//! It listens on `PORT` (8080), after `START_SECONDS` (0), and says each call of a hook with its number: that is kept in memory, too,
//! and goes on in the log of a microVM that was suspended and resumed.

use std::collections::HashMap;
use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const HOOKS: &str = "/aws/lambda-microvms/runtime/v1/";
/// Longest body that is read.
const BODY_MAX: u64 = 1 << 20;

struct State {
    count: AtomicU64,
    loopback: Mutex<TcpStream>,
    rounds: AtomicU64,
    hooks: AtomicU64,
    run: Mutex<String>,
    calls: Mutex<HashMap<String, usize>>,
}

fn main() -> io::Result<()> {
    let number =
        |name: &str, default: u64| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let port = u16::try_from(number("PORT", 8080)).unwrap_or(8080);
    let words: Vec<String> = env::args().skip(1).collect();
    if let [verb, path] = words.as_slice()
        && verb == "ask"
    {
        return ask(port, path);
    }
    println!("counter: starting");
    thread::sleep(Duration::from_secs(number("START_SECONDS", 0)));
    let state = Arc::new(State {
        count: AtomicU64::new(0),
        loopback: Mutex::new(loopback()?),
        rounds: AtomicU64::new(0),
        hooks: AtomicU64::new(0),
        run: Mutex::default(),
        calls: Mutex::default(),
    });
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("counter: listening on port {port}");
    for stream in listener.incoming() {
        let (state, stream) = (Arc::clone(&state), stream?);
        thread::spawn(move || serve(&state, stream));
    }
    Ok(())
}

/// Prints what the one that runs answers.
fn ask(port: u16, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, text) = answer.split_once("\r\n\r\n").unwrap_or_default();
    print!("{text}");
    Ok(())
}

/// A connection to ourselves whose other end sends back what comes.
fn loopback() -> io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (mut theirs, _) = listener.accept()?;
    thread::spawn(move || -> io::Result<()> {
        let mut byte = [0];
        loop {
            theirs.read_exact(&mut byte)?;
            theirs.write_all(&byte)?;
        }
    });
    Ok(ours)
}

/// Answers one request and closes the connection.
fn serve(state: &State, stream: TcpStream) {
    // A client that goes away is no concern of ours.
    let _ = try_serve(state, stream);
}

fn try_serve(state: &State, mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = String::new();
    reader.take(length.min(BODY_MAX)).read_to_string(&mut body)?;
    let (status, text) = answer(state, &method, &path, &body)?;
    let length = text.len();
    write!(stream, "HTTP/1.1 {status} Answer\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
}

fn answer(state: &State, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    if let Some(hook) = path.strip_prefix(HOOKS).filter(|_| method == "POST") {
        let call = state.hooks.fetch_add(1, Ordering::Relaxed) + 1;
        let told = if body.is_empty() { String::new() } else { format!(": {body}") };
        println!("counter: /{hook}, call {call} of a hook in this program's life{told}");
        if hook == "run" {
            *state.run.lock().unwrap_or_else(PoisonError::into_inner) = body.to_owned();
        }
        return Ok((hook_status(state, hook), String::new()));
    }
    if let Some(status) = path.strip_prefix("/exit/") {
        println!("counter: exiting with {status}");
        std::process::exit(status.parse().unwrap_or(1));
    }
    Ok(match path {
        "/" => {
            let count = state.count.fetch_add(1, Ordering::Relaxed) + 1;
            (200, format!("request {count} of this microVM's life\n"))
        }
        "/loopback" => {
            let mut loopback = state.loopback.lock().unwrap_or_else(PoisonError::into_inner);
            loopback.write_all(b"x")?;
            loopback.read_exact(&mut [0])?;
            let rounds = state.rounds.fetch_add(1, Ordering::Relaxed) + 1;
            (200, format!("round {rounds} over the same connection\n"))
        }
        "/run" => (200, state.run.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        "/environment" => (200, env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()),
        _ => (404, "no such page\n".to_owned()),
    })
}

/// What a hook is to answer, this time.
fn hook_status(state: &State, hook: &str) -> u16 {
    let Ok(script) = env::var(format!("HOOK_{}", hook.to_ascii_uppercase())) else { return 200 };
    let mut calls = state.calls.lock().unwrap_or_else(PoisonError::into_inner);
    let call = calls.entry(hook.to_owned()).or_default();
    let answers: Vec<&str> = script.split(',').collect();
    let word = answers.get(*call).or(answers.last()).copied().unwrap_or_default();
    *call += 1;
    drop(calls);
    if word == "hang" {
        loop {
            thread::park();
        }
    }
    word.parse().unwrap_or(200)
}
