//! An app that takes what it can get. It serves HTTP on port 8080:
//!
//! | Path | What happens |
//! |---|---|
//! | `/attack/NAME` | the [attack](attacks) begins, and goes on until the microVM ends |
//! | `/done/NAME` | how often the attack has done its work so far, as a number |
//! | `/endless` | a response without an end |
//! | any other | `200` |
//!
//! It runs in microVMs of the soak test (`hostd/tests/e2e/soak/`), whose network leads nowhere.

#![forbid(unsafe_code)]

mod attacks;

use std::io::{self, BufRead as _, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use attacks::Attack;

const PORT: u16 = 8080;
/// Bytes of each piece of an endless response.
const PIECE: usize = 64 << 10;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || serve(&stream));
    }
    Ok(())
}

/// Answers one request. What fails is the client's loss.
fn serve(mut stream: &TcpStream) -> Option<()> {
    let mut head = BufReader::new(stream).lines();
    let first = head.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    while !head.next()?.ok()?.is_empty() {}
    let text = match path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
        ["attack", name] => {
            Attack::named(name)?.begin();
            "begun".to_owned()
        }
        ["done", name] => Attack::named(name)?.done().to_string(),
        ["endless"] => return endless(stream),
        _ => "here".to_owned(),
    };
    let length = text.len();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}").ok()
}

fn endless(mut stream: impl Write) -> Option<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").ok()?;
    loop {
        stream.write_all(&[b'x'; PIECE]).ok()?;
    }
}
