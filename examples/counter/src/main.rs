//! The counter as a program.
//!
//! `counter ask PATH` sends a request to the running counter beside it: for a shell in a container without any other client.
//! `counter copy` copies stdin to stdout, and prints to stderr how much it was.
//!
//! It listens on `PORT` (8080), after `START_SECONDS` (0). Every `TICK_MILLISECONDS` (0: never) it prints the time, in nanoseconds since
//! 1970, and a random number: the first lines of a microVM show that the app runs only after the microVM has got its own identity.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::env;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;

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
    if words == ["copy"] {
        let bytes = io::copy(&mut io::stdin(), &mut io::stdout())?;
        eprintln!("copied {bytes} bytes");
        return Ok(());
    }
    println!("counter: starting");
    thread::sleep(Duration::from_secs(number("START_SECONDS", 0)));
    if let every @ 1.. = number("TICK_MILLISECONDS", 0) {
        let mut chance = File::open("/dev/urandom")?;
        thread::spawn(move || tick(&mut chance, Duration::from_millis(every)));
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        println!("counter: listening on port {port}");
        hearth_example_counter::serve(listener).await
    })
}

/// Prints the time and a random number at an interval.
fn tick(chance: &mut File, every: Duration) -> io::Result<Infallible> {
    loop {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut random = [0; 8];
        chance.read_exact(&mut random)?;
        println!("tick {time} {:016x}", u64::from_ne_bytes(random));
        thread::sleep(every);
    }
}

/// Prints the running counter's answer to a request.
fn ask(port: u16, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, text) = answer.split_once("\r\n\r\n").unwrap_or_default();
    print!("{text}");
    Ok(())
}
