//! Tests of how streams are opened and refused.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use hearth_vmm_api::config::VsockConfig;

use super::super::broker::{Broker, port_path};
use super::super::connection::Key;
use super::super::packet::Op;
use super::super::{Limits, MIN_GUEST_CID, Vsock, VsockError};
use super::driver::{CID, Guest, GuestStream, bare, data, impatient, packet};
use crate::devices::virtio::VirtioDevice as _;

/// A stream that the guest wants to open to port 1024.
const OUT: Key = Key { host: 1024, guest: 7777 };

fn with_broker() -> (Broker, VsockConfig) {
    let (broker, theirs) = Broker::pair().unwrap();
    (broker, VsockConfig { broker: Some(theirs), ..bare() })
}

/// Makes a listener at a path, which exists as long as the folder.
fn listening() -> (tempfile::TempDir, std::path::PathBuf, VsockConfig) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vsock");
    let listener = UnixListener::bind(&path).unwrap();
    (folder, path, VsockConfig { listener: Some(listener), ..bare() })
}

fn assert_closed(mut client: UnixStream) {
    let mut rest = Vec::new();
    // A reset also counts as the end: the device may have closed the socket with unread data.
    let _ = client.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

/// Lets the device handle events until it has closed `client` without sending anything.
fn until_closed(guest: &mut Guest, mut client: UnixStream) {
    client.set_nonblocking(true).unwrap();
    guest.until(|_| match client.read(&mut [0]) {
        Ok(count) => {
            assert_eq!(count, 0);
            true
        }
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    });
}

#[test]
fn the_configuration_space_has_the_guest_cid() {
    let device = Vsock::new(bare()).unwrap();
    let mut config = [0xff; 8];
    device.read_config(0, &mut config);
    assert_eq!(u64::from_le_bytes(config), u64::from(CID));
}

#[test]
fn reserved_cids_and_absurd_limits_are_refused() {
    for guest_cid in [0, 1, MIN_GUEST_CID - 1, u32::MAX] {
        let error = Vsock::new(VsockConfig { guest_cid, ..bare() }).unwrap_err();
        assert!(matches!(error, VsockError::ReservedCid(cid) if cid == guest_cid), "{error}");
    }
    for limits in [
        Limits { streams: 0, ..Limits::default() },
        Limits { streams: u16::MAX, ..Limits::default() },
        Limits { buffer: 0, ..Limits::default() },
        Limits { buffer: u32::MAX, ..Limits::default() },
    ] {
        assert!(Vsock::with_limits(bare(), limits).is_err(), "{limits:?}");
    }
}

#[test]
fn the_guest_connects_through_the_broker() {
    let (broker, config) = with_broker();
    let mut guest = Guest::new(config);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    guest.send(packet(OUT, Op::Request), &[]);
    let request = broker.next().unwrap().unwrap();
    assert_eq!(request.port(), 1024);
    request.accept(&theirs).unwrap();
    drop(theirs);
    guest.expect(OUT, Op::Response);
    guest.send(data(OUT, b"hello"), b"hello");
    let mut got = [0; 5];
    ours.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    ours.write_all(b"welcome").unwrap();
    assert_eq!(guest.expect(OUT, Op::Data).1, b"welcome");
    assert_eq!((guest.counter("connections_opened"), guest.counter("connections_active")), (1, 1));
    assert_eq!((guest.counter("rx_bytes"), guest.counter("tx_bytes")), (7, 5));
}

#[test]
fn a_refusal_or_a_dropped_request_resets_the_guest() {
    let (broker, config) = with_broker();
    let mut guest = Guest::new(config);
    guest.send(packet(OUT, Op::Request), &[]);
    broker.next().unwrap().unwrap().refuse().unwrap();
    guest.expect(OUT, Op::Reset);
    guest.send(packet(OUT, Op::Request), &[]);
    drop(broker.next().unwrap().unwrap());
    guest.expect(OUT, Op::Reset);
    assert_eq!((guest.counter("connections_active"), guest.counter("resets_sent")), (0, 2));
}

#[test]
fn without_a_broker_every_request_is_reset() {
    let mut guest = Guest::new(bare());
    guest.send(packet(OUT, Op::Request), &[]);
    guest.expect(OUT, Op::Reset);
}

#[test]
fn a_broker_that_goes_away_resets_what_it_has_not_answered() {
    let (broker, config) = with_broker();
    let mut guest = Guest::new(config);
    guest.send(packet(OUT, Op::Request), &[]);
    drop(broker);
    guest.expect(OUT, Op::Reset);
    guest.send(packet(OUT, Op::Request), &[]);
    guest.expect(OUT, Op::Reset);
}

#[test]
fn a_broker_that_talks_nonsense_is_dropped() {
    let (ours, theirs) = super::super::socket::seqpacket_pair().unwrap();
    let mut guest = Guest::new(VsockConfig { broker: Some(theirs), ..bare() });
    guest.send(packet(OUT, Op::Request), &[]);
    super::super::socket::send_message(&ours, b"what?", None, 0).unwrap();
    guest.expect(OUT, Op::Reset);
    let gone = super::super::socket::receive_message(&ours, &mut [0; 20], 0).unwrap();
    assert_eq!(gone.0, 12, "the request is still there to be read");
    let gone = super::super::socket::receive_message(&ours, &mut [0; 20], 0);
    assert!(gone.is_err() || gone.is_ok_and(|(length, _)| length == 0));
}

#[test]
fn a_new_broker_takes_over_and_the_old_ones_answers_come_too_late() {
    let (old, config) = with_broker();
    let mut guest = Guest::new(config);
    guest.send(packet(OUT, Op::Request), &[]);
    let late = old.next().unwrap().unwrap();
    let (new, theirs) = Broker::pair().unwrap();
    guest.rig.device.set_broker(Some(theirs)).unwrap();
    guest.expect(OUT, Op::Reset);
    guest.send(packet(OUT, Op::Request), &[]);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    assert!(late.accept(&theirs).is_err());
    new.next().unwrap().unwrap().accept(&theirs).unwrap();
    guest.expect(OUT, Op::Response);
}

#[test]
fn an_answer_for_a_connection_that_the_guest_gave_up_is_dropped() {
    let (broker, config) = with_broker();
    let mut guest = Guest::new(config);
    guest.send(packet(OUT, Op::Request), &[]);
    let late = broker.next().unwrap().unwrap();
    guest.send(packet(OUT, Op::Reset), &[]);
    // Another stream has the same slot, so only the rest of the number distinguishes the answers.
    guest.send(packet(OUT, Op::Request), &[]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    late.accept(&theirs).unwrap();
    drop(theirs);
    guest.pump();
    assert_closed(ours);
    assert!(guest.inbox.is_empty());
    broker.next().unwrap().unwrap().refuse().unwrap();
    guest.expect(OUT, Op::Reset);
}

#[test]
fn a_broker_that_does_not_answer_in_time_is_not_waited_for() {
    let (broker, config) = with_broker();
    let mut guest = Guest::with_limits(config, impatient());
    guest.send(packet(OUT, Op::Request), &[]);
    guest.expect(OUT, Op::Reset);
    drop(broker);
}

#[test]
fn a_path_prefix_is_served_until_the_device_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("v.sock");
    let listener = UnixListener::bind(port_path(&prefix, 1024)).unwrap();
    assert!(folder.path().join("v.sock_1024").exists());
    let (broker, config) = with_broker();
    let server = std::thread::spawn(move || broker.serve_path_prefix(&prefix));
    let mut guest = Guest::new(config);
    guest.send(packet(OUT, Op::Request), &[]);
    guest.expect(OUT, Op::Response);
    let (mut ours, _) = listener.accept().unwrap();
    ours.write_all(b"hi").unwrap();
    assert_eq!(guest.expect(OUT, Op::Data).1, b"hi");
    let nobody = Key { host: 1025, ..OUT };
    guest.send(packet(nobody, Op::Request), &[]);
    guest.expect(nobody, Op::Reset);
    drop(guest);
    server.join().unwrap().unwrap();
}

#[test]
fn a_client_names_its_port_in_pieces_and_the_rest_belongs_to_the_stream() {
    let (_folder, path, config) = listening();
    let mut guest = Guest::new(config);
    let mut client = UnixStream::connect(path).unwrap();
    guest.until(|guest| guest.counter("connections_active") == 1);
    for piece in [&b"CON"[..], b"NECT 5", b"2"] {
        client.write_all(piece).unwrap();
        guest.pump();
        assert!(guest.inbox.is_empty());
    }
    client.write_all(b"\nhel").unwrap();
    let key = guest.expect_request(52);
    client.write_all(b"lo").unwrap();
    guest.pump();
    assert!(guest.inbox.is_empty(), "no data before the guest has accepted");
    guest.send(packet(key, Op::Response), &[]);
    let mut stream = GuestStream::new(key, 1 << 20);
    while stream.unread.len() < 5 {
        let (header, payload) = guest.expect(key, Op::Data);
        stream.receive(&header, &payload);
    }
    assert_eq!(stream.read(10), b"hello");
    let mut line = vec![0; 14];
    client.read_exact(&mut line).unwrap();
    assert_eq!(line, format!("OK {}\n", key.host).as_bytes());
    guest.send(data(key, b"x"), b"x");
    client.read_exact(&mut line[..1]).unwrap();
    assert_eq!(line[0], b'x');
}

#[test]
fn a_client_that_makes_no_sense_is_closed_and_the_guest_hears_nothing() {
    let (_folder, path, config) = listening();
    let mut guest = Guest::new(config);
    for line in [&b"GET / HTTP/1.1\r\n"[..], b"CONNECT 99999999999\n", &[b'1'; 100]] {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(line).unwrap();
        until_closed(&mut guest, client);
    }
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"CONNECT").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    until_closed(&mut guest, client);
    assert!(guest.inbox.is_empty());
}

#[test]
fn a_client_that_says_nothing_is_closed_in_time() {
    let (_folder, path, config) = listening();
    let mut guest = Guest::with_limits(config, impatient());
    let client = UnixStream::connect(path).unwrap();
    until_closed(&mut guest, client);
    assert!(guest.inbox.is_empty());
}

#[test]
fn a_client_is_closed_when_the_guest_refuses() {
    let (_folder, path, config) = listening();
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(b"CONNECT 9\n").unwrap();
    let mut guest = Guest::new(config);
    let key = guest.expect_request(9);
    guest.send(packet(key, Op::Reset), &[]);
    assert_closed(client);
    assert_eq!(guest.counter("connections_opened"), 0);
}

#[test]
fn a_guest_that_does_not_accept_in_time_is_reset() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut guest = Guest::with_limits(bare(), impatient());
    guest.rig.device.connect(9, theirs).unwrap();
    let key = guest.expect_request(9);
    guest.expect(key, Op::Reset);
    assert_closed(ours);
    guest.send(packet(key, Op::Response), &[]);
    guest.expect(key, Op::Reset);
}

#[test]
fn a_guest_that_never_saw_the_request_sees_no_reset_either() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut guest = Guest::without_buffers(bare(), impatient());
    guest.rig.device.connect(9, theirs).unwrap();
    guest.until(|guest| guest.counter("connections_active") == 1);
    until_closed(&mut guest, ours);
    // The slot stays taken until its turn to send comes, and then it has nothing to send.
    guest.post(4);
    guest.pump();
    assert!(guest.inbox.is_empty());
    assert_eq!(guest.counter("connections_active"), 0);
}

#[test]
fn a_socket_handed_in_is_connected_without_any_lines() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut guest = Guest::new(bare());
    guest.rig.device.connect(5000, theirs).unwrap();
    ours.write_all(b"early").unwrap();
    let key = guest.expect_request(5000);
    guest.send(packet(key, Op::Response), &[]);
    assert_eq!(guest.expect(key, Op::Data).1, b"early");
    guest.send(data(key, b"late"), b"late");
    let mut got = [0; 4];
    ours.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"late");
}

#[test]
fn sockets_cannot_be_handed_in_while_no_driver_runs_or_no_slot_is_free() {
    let pair = || UnixStream::pair().unwrap();
    let mut device = Vsock::new(bare()).unwrap();
    assert!(matches!(device.connect(1, pair().1), Err(VsockError::Inactive)));
    let mut guest = Guest::with_limits(bare(), Limits { streams: 1, ..Limits::default() });
    let (_ours, theirs) = pair();
    guest.rig.device.connect(1, theirs).unwrap();
    assert!(matches!(guest.rig.device.connect(1, pair().1), Err(VsockError::Full(1))));
}

#[test]
fn clients_wait_in_the_backlog_while_all_slots_are_taken() {
    let (_folder, path, config) = listening();
    let limits = Limits { streams: 2, ..Limits::default() };
    let mut clients: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for client in &mut clients {
        client.write_all(b"CONNECT 1\n").unwrap();
    }
    let mut guest = Guest::with_limits(config, limits);
    let (first, _second) = (guest.expect_request(1), guest.expect_request(1));
    guest.pump();
    assert!(guest.inbox.is_empty());
    assert_eq!(guest.rig.pump(0), 0, "a full device does not look at its listener");
    // The guest cannot open a stream either.
    guest.send(packet(OUT, Op::Request), &[]);
    guest.expect(OUT, Op::Reset);
    guest.send(packet(first, Op::Reset), &[]);
    let third = guest.expect_request(1);
    assert_ne!(third, first);
    assert_eq!(guest.counter("connections_active"), 2);
}

#[test]
fn a_listener_can_come_later_and_be_replaced() {
    let (_folder, path, config) = listening();
    let mut guest = Guest::new(bare());
    let mut early = UnixStream::connect(&path).unwrap();
    early.write_all(b"CONNECT 1\n").unwrap();
    guest.rig.device.set_listener(config.listener).unwrap();
    let key = guest.expect_request(1);
    guest.rig.device.set_listener(None).unwrap();
    assert!(UnixStream::connect(&path).is_err());
    guest.send(packet(key, Op::Response), &[]);
    let mut line = [0; 3];
    early.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"OK ");
}

#[test]
fn a_reset_by_the_driver_closes_every_stream_and_leaves_the_endpoints() {
    let (folder, path, mut config) = listening();
    let (broker, theirs): (_, OwnedFd) = Broker::pair().unwrap();
    config.broker = Some(theirs);
    let mut guest = Guest::new(config);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"CONNECT 1\n").unwrap();
    guest.expect_request(1);
    guest.send(packet(OUT, Op::Request), &[]);
    guest.rig.device.reset();
    assert_closed(client);
    let late = broker.next().unwrap().unwrap();
    late.refuse().unwrap();
    let waiting = UnixStream::connect(&path).unwrap();
    assert_eq!(guest.rig.events.wait(0, |_| ()).unwrap(), 0, "nothing is watched");
    assert_eq!(guest.counter("connections_active"), 0);
    drop((waiting, folder));
}
