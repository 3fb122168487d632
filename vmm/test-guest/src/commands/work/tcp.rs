//! Numbered messages over one TCP connection through the loopback: one end sends, the other checks and answers, the
//! first checks the answer.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

use hearth_test_guest::pattern;
use hearth_test_guest::work::Kind;

use super::{Going, rest};
use crate::commands::{failed, network};

/// Size of a message in bytes.
const MESSAGE: usize = 600;
/// Seeds: messages and answers are parts of different streams.
const CALLS: u64 = 1001;
const ANSWERS: u64 = 1002;

/// Connects and starts the threads at both ends.
pub(super) fn start(going: &mut Going) -> Result<(), String> {
    network::loopback_up()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("listening"))?;
    let address = listener.local_addr().map_err(failed("finding the port"))?;
    let mut caller = TcpStream::connect(address).map_err(failed("connecting"))?;
    let (mut answerer, _) = listener.accept().map_err(failed("accepting"))?;
    going.spawn(Kind::Tcp, move |board| {
        for number in 0.. {
            if board.is_stopping() {
                break;
            }
            send(&mut caller, CALLS, number)?;
            receive(&mut caller, ANSWERS, number)?;
            board.done(Kind::Tcp);
            rest();
        }
        caller.shutdown(Shutdown::Write).map_err(failed("ending the stream"))
    })?;
    going.spawn(Kind::Tcp, move |board| {
        for number in 0.. {
            match receive(&mut answerer, CALLS, number) {
                Err(_) if board.is_stopping() => break,
                received => received?,
            }
            send(&mut answerer, ANSWERS, number)?;
        }
        Ok(())
    })
}

fn content(stream: u64, number: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    pattern::fill(stream, number * MESSAGE as u64, &mut message);
    message
}

fn send(to: &mut TcpStream, stream: u64, number: u64) -> Result<(), String> {
    let sent = to.write_all(&content(stream, number));
    sent.map_err(|error| format!("sending message {number} of {stream}: {error}"))
}

fn receive(from: &mut TcpStream, stream: u64, number: u64) -> Result<(), String> {
    let mut message = [0; MESSAGE];
    let received = from.read_exact(&mut message).and_then(|()| {
        let right = message == content(stream, number);
        if right { Ok(()) } else { Err(io::Error::other("its bytes are wrong")) }
    });
    received.map_err(|error| format!("receiving message {number} of {stream}: {error}"))
}
