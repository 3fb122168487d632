//! Tests of guests that break the rules.

use std::io::Read as _;
use std::os::unix::net::UnixStream;

use super::super::connection::Key;
use super::super::packet::{HEADER_LEN, Header, Op, SHUTDOWN_SEND};
use super::super::{Limits, Vsock};
use super::driver::{Guest, bare, data, packet, shutdown};
use crate::devices::virtio::VirtioDevice as _;
use crate::devices::virtio::testing::{Buffer, Rig};

/// The ports of a stream that does not exist.
const NOBODY: Key = Key { host: 1, guest: 2 };

fn open(guest: &mut Guest) -> (Key, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    guest.rig.device.connect(1, theirs).unwrap();
    let key = guest.expect_request(1);
    guest.send(packet(key, Op::Response), &[]);
    (key, ours)
}

#[test]
fn packets_of_no_stream_are_reset_except_resets() {
    let mut guest = Guest::new(bare());
    for op in [Op::Response, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest] {
        guest.send(packet(NOBODY, op), &[]);
        guest.expect(NOBODY, Op::Reset);
    }
    for op in [0, 8, u16::MAX] {
        guest.send(Header { op, ..packet(NOBODY, Op::Data) }, &[]);
        guest.expect(NOBODY, Op::Reset);
    }
    guest.send(packet(NOBODY, Op::Reset), &[]);
    guest.pump();
    assert!(guest.inbox.is_empty());
}

#[test]
fn packets_to_another_host_or_of_another_type_are_reset_as_they_came() {
    let mut guest = Guest::new(bare());
    let request = packet(NOBODY, Op::Request);
    for wrong in [
        Header { dst_cid: 3, ..request },
        Header { dst_cid: 0, ..request },
        Header { kind: 2, ..request },
        Header { kind: 0, ..request },
    ] {
        guest.send(wrong, &[]);
        let (reset, _) = guest.packet();
        assert_eq!(reset, wrong.reset_reply());
    }
}

#[test]
fn packets_in_somebody_elses_name_or_without_a_header_are_dropped() {
    let mut guest = Guest::new(bare());
    guest.send(Header { src_cid: 43, ..packet(NOBODY, Op::Request) }, &[]);
    guest.send(Header { src_cid: 1 << 32 | 42, ..packet(NOBODY, Op::Request) }, &[]);
    guest.try_send_raw(&packet(NOBODY, Op::Request).to_bytes()[..HEADER_LEN - 1], &[]).unwrap();
    guest.pump();
    assert!(guest.inbox.is_empty());
    assert_eq!((guest.counter("tx_dropped"), guest.counter("tx_packets")), (3, 0));
}

#[test]
fn an_open_stream_is_reset_for_what_it_may_not_say() {
    for wrong in [0, 8, u16::MAX, Op::Request as u16, Op::Response as u16] {
        let mut guest = Guest::new(bare());
        let (key, mut host) = open(&mut guest);
        guest.send(Header { op: wrong, ..packet(key, Op::Data) }, &[]);
        guest.expect(key, Op::Reset);
        assert_eq!(host.read(&mut [0]).unwrap(), 0, "the socket is closed");
        assert_eq!(guest.counter("connections_active"), 0);
    }
}

#[test]
fn a_stream_that_is_not_open_yet_is_reset_for_anything_but_an_answer() {
    for wrong in [Op::Request, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest] {
        let mut guest = Guest::new(bare());
        let (_ours, theirs) = UnixStream::pair().unwrap();
        guest.rig.device.connect(1, theirs).unwrap();
        let key = guest.expect_request(1);
        guest.send(packet(key, wrong), &[]);
        guest.expect(key, Op::Reset);
    }
}

#[test]
fn a_length_beyond_the_buffers_resets_the_stream() {
    let mut guest = Guest::new(bare());
    let (key, mut host) = open(&mut guest);
    guest.send(Header { len: 6, ..packet(key, Op::Data) }, b"short");
    guest.expect(key, Op::Reset);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    guest.send(Header { len: u32::MAX, ..packet(NOBODY, Op::Request) }, b"short");
    guest.expect(NOBODY, Op::Reset);
}

#[test]
fn bytes_behind_the_payload_are_ignored() {
    let mut guest = Guest::new(bare());
    let (key, mut host) = open(&mut guest);
    guest.send(Header { len: 2, ..packet(key, Op::Data) }, b"okay");
    guest.send(data(key, b"!"), b"!");
    let mut got = [0; 3];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ok!");
}

#[test]
fn more_data_than_the_credit_allows_resets_the_stream() {
    let buffer = 8 << 10;
    let mut guest = Guest::with_limits(bare(), Limits { buffer, ..Limits::default() });
    let (key, _host) = open(&mut guest);
    let payload = vec![7; buffer as usize + 1];
    guest.send(data(key, &payload), &payload);
    guest.expect(key, Op::Reset);
    // The same piece by piece, when the host takes no more data.
    let (key, _host) = open(&mut guest);
    let mut sent = 0;
    while guest.inbox.is_empty() || guest.inbox.iter().all(|(header, _)| header.op == Op::CreditUpdate as u16)
    {
        guest.inbox.clear();
        guest.send(data(key, &payload[..4096]), &payload[..4096]);
        sent += 4096;
        assert!(sent < 4 << 20, "the bound holds");
    }
    assert_eq!(guest.inbox.pop_back().unwrap().0.op, Op::Reset as u16);
    assert_eq!(guest.counter("connections_active"), 0);
}

#[test]
fn data_after_its_end_resets_the_stream() {
    let mut guest = Guest::new(bare());
    let (key, _host) = open(&mut guest);
    guest.send(shutdown(key, SHUTDOWN_SEND), &[]);
    guest.send(data(key, b"oops"), b"oops");
    guest.expect(key, Op::Reset);
}

#[test]
fn credit_counters_that_make_no_sense_only_stall_their_stream() {
    let mut guest = Guest::new(bare());
    let (key, mut host) = open(&mut guest);
    guest.send(Header { fwd_cnt: u32::MAX, buf_alloc: 1, ..packet(key, Op::CreditUpdate) }, &[]);
    std::io::Write::write_all(&mut host, b"data").unwrap();
    guest.until(|guest| guest.counter("credit_stalls") == 1);
    guest.expect(key, Op::CreditRequest);
    guest.send(packet(key, Op::CreditUpdate), &[]);
    assert_eq!(guest.expect(key, Op::Data).1, b"data");
}

#[test]
fn a_guest_that_sends_without_receiving_stops_only_itself() {
    let mut guest = Guest::without_buffers(bare(), Limits::default());
    let mut taken = 0;
    for _ in 0..400 {
        guest.try_send_raw(&packet(NOBODY, Op::Data).to_bytes(), &[]).unwrap();
        if guest.rig.queues[1].used().is_none() {
            break;
        }
        taken += 1;
    }
    assert_eq!(taken, 256, "as many answers as are kept");
    guest.rig.device.queue_notified(1).unwrap();
    assert_eq!(guest.rig.queues[1].used(), None, "no packet is taken that could not be answered");
    guest.post(super::driver::RX_BUFFERS);
    guest.until(|guest| guest.inbox.len() == 257);
    assert!(guest.rig.queues[1].used().is_some());
    assert!(guest.inbox.iter().all(|(header, _)| header.op == Op::Reset as u16));
}

#[test]
fn receive_and_event_buffers_that_are_too_small_stop_the_device() {
    const AT: u64 = Rig::<Vsock>::FREE;
    let mut guest = Guest::without_buffers(bare(), Limits::default());
    guest.rig.queues[0].add(&[Buffer::Write(AT, 44)]);
    let error = guest.try_send_raw(&packet(NOBODY, Op::Data).to_bytes(), &[]).unwrap_err();
    assert!(error.to_string().contains("receive buffer"), "{error}");
    let mut guest = Guest::new(bare());
    guest.rig.queues[2].add(&[Buffer::Write(AT, 3)]);
    guest.rig.device.transport_reset().unwrap();
    let error = guest.rig.device.queue_notified(2).unwrap_err();
    assert!(error.to_string().contains("event buffer"), "{error}");
}

#[test]
fn events_for_slots_without_a_stream_are_ignored() {
    let mut guest = Guest::new(bare());
    for token in [3, 15, 16, 17, 0x7fff] {
        guest.rig.device.event(token, u32::MAX).unwrap();
    }
    let (key, _host) = open(&mut guest);
    // A late event of the stream that had the slot before does not affect this stream.
    guest.rig.device.event(16, u32::MAX).unwrap();
    guest.pump();
    assert!(guest.inbox.is_empty());
    guest.send(packet(key, Op::CreditRequest), &[]);
    guest.expect(key, Op::CreditUpdate);
}
