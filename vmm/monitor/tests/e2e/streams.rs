//! Tests of vsock: streams between host and guest.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::thread;

use hearth_test_guest::client;
use hearth_test_guest::pattern;

use crate::support::{Machine, Metal, TEST_TIMEOUT};

const MIB: u64 = 1 << 20;
/// Number of streams at the same time.
const MANY: usize = 200;
/// Number of bytes on each of many streams.
const LITTLE: usize = 40_000;

fn stream_of(seed: u64, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    pattern::fill(seed, 0, &mut content);
    content
}

/// Sends the stream `seed`, shuts down the sending side, and checks what comes back.
fn round_trip(stream: UnixStream, seed: u64, bytes: usize) {
    let out = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        (&out).write_all(&stream_of(seed, bytes)).unwrap();
        out.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    BufReader::new(stream).read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert_eq!((back.len(), pattern::mismatch(seed, 0, &back)), (bytes, None), "stream {seed}");
}

#[test]
fn megabytes_arrive_as_they_were_sent() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let bytes = 16 * MIB;

    guest.run(&format!("vsock-source 5000 {bytes} 71"));
    let mut received = Vec::new();
    BufReader::new(guest.connect(5000)).read_to_end(&mut received).unwrap();
    assert_eq!((received.len() as u64, pattern::mismatch(71, 0, &received)), (bytes, None));

    guest.run("vsock-sink 5001 72");
    let stream = guest.connect(5001);
    (&stream).write_all(&stream_of(72, usize::try_from(bytes).unwrap())).unwrap();
    // The guest still answers when the host has shut down its sending side.
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert_eq!(answer, format!("ok {bytes}\n"));

    guest.run("vsock-echo 5002");
    round_trip(guest.connect(5002), 73, usize::try_from(4 * MIB).unwrap());
    guest.power_off();
}

#[test]
fn two_hundred_streams_from_the_host_are_open_at_once() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    let guest = machine.boot();
    guest.run("vsock-echo 5000");
    let all_open = Arc::new(Barrier::new(MANY));
    let run = |seed: u64, socket: PathBuf, all_open: Arc<Barrier>| {
        let stream = client::connect(&socket, 5000, TEST_TIMEOUT);
        all_open.wait();
        round_trip(stream.unwrap(), seed, LITTLE);
    };
    let start = |seed| {
        let (socket, all_open) = (guest.vsock(), Arc::clone(&all_open));
        thread::spawn(move || run(seed, socket, all_open))
    };
    let threads: Vec<_> = (0..MANY as u64).map(start).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    guest.power_off();
}

#[test]
fn two_hundred_streams_from_the_guest_are_open_at_once() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    let guest = machine.boot();
    guest.ports.echo(6000);
    guest.run(&format!("vsock-connect-many 6000 {MANY} {LITTLE}"));
    guest.power_off();
}

#[test]
fn a_side_that_has_ended_can_still_receive() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    // The host's side is shut down first, before a byte has been sent: the guest sends all its data.
    guest.run(&format!("vsock-source 5000 {MIB} 81"));
    let stream = guest.connect(5000);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    BufReader::new(stream).read_to_end(&mut received).unwrap();
    assert_eq!((received.len() as u64, pattern::mismatch(81, 0, &received)), (MIB, None));
    // The guest's side is shut down first: the host sends all its data.
    guest.ports.serve(6000, |stream| {
        let mut all = Vec::new();
        BufReader::new(&stream).read_to_end(&mut all).unwrap();
        (&stream).write_all(&all).unwrap();
    });
    guest.run("vsock-connect-many 6000 1 500000");
    guest.power_off();
}

#[test]
fn a_port_without_a_listener_refuses() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let refused = client::connect(&guest.vsock(), 9999, TEST_TIMEOUT).unwrap_err();
    assert!(
        matches!(refused.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset),
        "{refused}"
    );
    guest.attempt("vsock-connect-many 9999 1 1").unwrap_err();
    // A stream that was passed to the monitor by a controller is closed.
    let mut handed_over = guest.client().vsock_connect(9999).unwrap();
    handed_over.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let end = handed_over.read(&mut [0]);
    assert!(matches!(&end, Ok(0)) || end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    guest.run("ping");
    guest.power_off();
}
