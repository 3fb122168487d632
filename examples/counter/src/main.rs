//! The counter as a program.
//!
//! `counter ask PATH` asks the one that runs, from beside it: for a shell in a container that has nothing else.
//!
//! It listens on `PORT` (8080), after `START_SECONDS` (0).

use std::env;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

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
    println!("counter: starting");
    thread::sleep(Duration::from_secs(number("START_SECONDS", 0)));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        println!("counter: listening on port {port}");
        hearth_example_counter::serve(listener).await
    })
}

/// Prints what the one that runs answers.
fn ask(port: u16, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, text) = answer.split_once("\r\n\r\n").unwrap_or_default();
    print!("{text}");
    Ok(())
}
