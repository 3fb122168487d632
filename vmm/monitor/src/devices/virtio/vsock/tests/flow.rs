//! Tests of data, credit and shutdown of open streams.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes as _, GuestAddress};

use super::super::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::super::{Limits, Vsock};
use super::driver::{Guest, GuestStream, bare, data, impatient, packet, shutdown};
use crate::devices::virtio::VirtioDevice as _;
use crate::devices::virtio::testing::{Buffer, Rig};

/// Opens a stream between `guest` and the returned socket, for which the guest has a buffer of `buf_alloc` bytes.
fn open(guest: &mut Guest, buf_alloc: u32) -> (GuestStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    guest.rig.device.connect(1, theirs).unwrap();
    let key = guest.expect_request(1);
    let mut stream = GuestStream::new(key, buf_alloc);
    guest.send(stream.header(Op::Response), &[]);
    ours.set_nonblocking(true).unwrap();
    // The request contained the guest's credit; any packet repeats it.
    guest.send(stream.header(Op::CreditRequest), &[]);
    let (header, _) = guest.expect(key, Op::CreditUpdate);
    stream.receive(&header, &[]);
    (stream, ours)
}

/// Bytes whose values depend on their position.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from((index * 7 + index / 251) % 256).unwrap()).collect()
}

/// Reads all available bytes; returns `true` at the end of the stream.
fn drain(socket: &mut UnixStream, into: &mut Vec<u8>) -> bool {
    match socket.read_to_end(into) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for() {
    let mut guest = Guest::new(bare());
    let (mut stream, mut host) = open(&mut guest, 100);
    let sent = pattern(1000);
    host.write_all(&sent).unwrap();
    let mut got = Vec::new();
    for round in 1..=10 {
        let (header, payload) = guest.expect(stream.key, Op::Data);
        stream.receive(&header, &payload);
        got.extend(stream.read(100));
        assert_eq!(got.len(), 100 * round);
        if round < 10 {
            guest.expect(stream.key, Op::CreditRequest);
            assert_eq!(guest.counter("credit_stalls"), round as u64);
            // An answer without credit does not cause another credit request.
            let fwd_cnt = stream.fwd_cnt - 100;
            guest.send(Header { fwd_cnt, ..stream.header(Op::CreditUpdate) }, &[]);
            guest.pump();
            assert!(guest.inbox.is_empty());
            guest.send(stream.header(Op::CreditUpdate), &[]);
        }
    }
    assert_eq!(got, sent);
}

#[test]
fn guest_data_that_the_host_does_not_take_waits_within_the_credit() {
    let mut guest = Guest::new(bare());
    let (mut stream, mut host) = open(&mut guest, 1 << 20);
    let sent = pattern(3 << 20);
    let (mut offset, mut got) = (0, Vec::new());
    // The host's socket and the buffer fill up.
    loop {
        let length = stream.credit().min(20_000).min(sent.len() - offset);
        if length == 0 {
            break;
        }
        let payload = &sent[offset..offset + length];
        guest.send(stream.data(payload), payload);
        offset += length;
        while let Some((header, payload)) = guest.inbox.pop_front() {
            stream.receive(&header, &payload);
        }
    }
    assert!(offset < sent.len(), "the credit runs out");
    let buffer = Limits::default().buffer as usize;
    assert!(offset > buffer, "what the socket takes is not held against the guest");
    // The host reads: credit is granted again without a request.
    while got.len() < sent.len() {
        drain(&mut host, &mut got);
        guest.pump();
        while let Some((header, payload)) = guest.inbox.pop_front() {
            assert_eq!(header.op, Op::CreditUpdate as u16);
            stream.receive(&header, &payload);
        }
        let length = stream.credit().min(60_000).min(sent.len() - offset);
        let payload = &sent[offset..offset + length];
        if length > 0 {
            guest.send(stream.data(payload), payload);
            offset += length;
        }
    }
    assert!(got == sent);
}

#[test]
fn a_credit_request_is_answered() {
    let mut guest = Guest::new(bare());
    let (stream, _host) = open(&mut guest, 1);
    guest.send(stream.header(Op::CreditRequest), &[]);
    let (header, _) = guest.expect(stream.key, Op::CreditUpdate);
    assert_eq!((header.buf_alloc, header.fwd_cnt), (Limits::default().buffer, 0));
}

#[test]
fn large_reads_fill_many_receive_buffers() {
    let mut guest = Guest::new(bare());
    let (mut stream, mut host) = open(&mut guest, 1 << 20);
    let sent = pattern(100_000);
    host.write_all(&sent).unwrap();
    guest.until(|guest| guest.counter("rx_bytes") == 100_000);
    assert!(guest.counter("rx_packets") < 2 + 2 + 100_000 / 4052 + 8, "buffers are filled to the brim");
    while let Some((header, payload)) = guest.inbox.pop_front() {
        stream.receive(&header, &payload);
    }
    assert!(stream.read(usize::MAX) == sent);
}

#[test]
fn the_guest_ends_its_direction_and_still_receives() {
    let mut guest = Guest::new(bare());
    let (stream, mut host) = open(&mut guest, 1000);
    guest.send(data(stream.key, b"bye"), b"bye");
    guest.send(shutdown(stream.key, SHUTDOWN_SEND), &[]);
    let mut got = Vec::new();
    assert!(drain(&mut host, &mut got), "the end of the data arrives");
    assert_eq!(got, b"bye");
    host.write_all(b"still here").unwrap();
    assert_eq!(guest.expect(stream.key, Op::Data).1, b"still here");
    // Now the host shuts down, too: the guest is notified that both directions are closed.
    host.shutdown(Shutdown::Write).unwrap();
    let (header, _) = guest.expect(stream.key, Op::Shutdown);
    let done = if header.flags == SHUTDOWN_BOTH { header } else { guest.expect(stream.key, Op::Shutdown).0 };
    assert_eq!(done.flags, SHUTDOWN_BOTH);
    guest.send(packet(stream.key, Op::Reset), &[]);
    assert_eq!(guest.counter("connections_active"), 0);
}

#[test]
fn the_end_of_guest_data_comes_behind_what_waits() {
    let mut guest = Guest::new(bare());
    let (mut stream, mut host) = open(&mut guest, 1000);
    let sent = pattern(350_000);
    for payload in sent.chunks(50_000) {
        guest.send(stream.data(payload), payload);
    }
    guest.send(shutdown(stream.key, SHUTDOWN_SEND), &[]);
    let mut got = Vec::new();
    while !drain(&mut host, &mut got) {
        guest.pump();
    }
    assert!(got == sent);
}

#[test]
fn the_guest_stops_receiving_and_still_sends() {
    let mut guest = Guest::new(bare());
    let (stream, mut host) = open(&mut guest, 1000);
    guest.send(shutdown(stream.key, SHUTDOWN_RECEIVE), &[]);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send(data(stream.key, b"one way"), b"one way");
    let mut got = [0; 7];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"one way");
    drop(host);
    let (header, _) = guest.expect(stream.key, Op::Shutdown);
    assert_eq!(header.flags, SHUTDOWN_BOTH);
}

#[test]
fn the_host_ends_its_direction_and_still_receives() {
    let mut guest = Guest::new(bare());
    let (stream, mut host) = open(&mut guest, 1000);
    host.write_all(b"bye").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(stream.key, Op::Data).1, b"bye");
    assert_eq!(guest.expect(stream.key, Op::Shutdown).0.flags, SHUTDOWN_SEND);
    guest.send(data(stream.key, b"answer"), b"answer");
    let mut got = [0; 6];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");
    drop(host);
    assert_eq!(guest.expect(stream.key, Op::Shutdown).0.flags, SHUTDOWN_BOTH);
}

#[test]
fn a_host_that_closes_is_told_with_all_it_sent_before_and_the_guest_has_time_to_reset() {
    let mut guest = Guest::with_limits(bare(), impatient());
    let (stream, mut host) = open(&mut guest, 1000);
    host.write_all(b"last words").unwrap();
    drop(host);
    let (mut heard, mut done) = (Vec::new(), 0);
    while done != SHUTDOWN_BOTH {
        let (header, payload) = guest.packet();
        heard.extend(payload);
        done |= header.flags;
        assert!(done & SHUTDOWN_SEND == 0 || heard == b"last words");
    }
    // Data that was on its way is ignored, but is no error.
    guest.send(data(stream.key, b"crossing"), b"crossing");
    assert_eq!(guest.counter("connections_active"), 1);
    // The guest sends nothing, so the stream is closed when the linger time has passed.
    guest.expect(stream.key, Op::Reset);
    assert_eq!(guest.counter("connections_active"), 0);
}

#[test]
fn a_guest_that_closes_is_reset_at_once_and_its_data_still_goes_out() {
    let mut guest = Guest::new(bare());
    let (mut stream, mut host) = open(&mut guest, 1000);
    let sent = pattern(350_000);
    for payload in sent.chunks(50_000) {
        guest.send(stream.data(payload), payload);
    }
    guest.inbox.clear(); // credit updates
    guest.send(shutdown(stream.key, SHUTDOWN_BOTH), &[]);
    guest.expect(stream.key, Op::Reset);
    assert_eq!(guest.counter("connections_active"), 1, "until the data is out");
    let mut got = Vec::new();
    while !drain(&mut host, &mut got) {
        guest.pump();
    }
    assert!(got == sent);
    assert_eq!(guest.counter("connections_active"), 0);
}

#[test]
fn data_that_the_host_never_takes_is_given_up_in_time() {
    let mut guest = Guest::with_limits(bare(), impatient());
    let (mut stream, _host) = open(&mut guest, 1000);
    for payload in pattern(350_000).chunks(50_000) {
        guest.send(stream.data(payload), payload);
    }
    guest.inbox.clear(); // credit updates
    guest.send(shutdown(stream.key, SHUTDOWN_BOTH), &[]);
    guest.expect(stream.key, Op::Reset);
    guest.until(|guest| guest.counter("connections_active") == 0);
    assert!(guest.inbox.is_empty());
}

#[test]
fn a_reset_by_the_guest_closes_the_socket() {
    let mut guest = Guest::new(bare());
    let (stream, mut host) = open(&mut guest, 1000);
    guest.send(packet(stream.key, Op::Reset), &[]);
    assert!(drain(&mut host, &mut Vec::new()));
    assert_eq!(guest.counter("connections_active"), 0);
    assert!(guest.inbox.is_empty());
}

#[test]
fn without_receive_buffers_data_stays_in_the_socket_and_costs_no_events() {
    let mut guest = Guest::new(bare());
    let (stream, mut host) = open(&mut guest, 1 << 20);
    guest.repost = false;
    let sent = pattern(190_000);
    host.write_all(&sent).unwrap();
    guest.until(|guest| guest.buffers_left() == 0);
    guest.pump();
    drop(host);
    guest.rig.pump(0);
    assert_eq!(guest.rig.pump(0), 0, "nothing is reported again and again");
    guest.repost = true;
    let mut stream = stream;
    guest.post(super::driver::RX_BUFFERS);
    while stream.host_done != SHUTDOWN_BOTH {
        let (header, payload) = guest.packet();
        stream.receive(&header, &payload);
    }
    assert!(stream.read(usize::MAX) == sent);
}

#[test]
fn a_busy_stream_leaves_room_for_a_quiet_one() {
    let mut guest = Guest::new(bare());
    guest.repost = false;
    let (busy, mut busy_host) = open(&mut guest, 1 << 30);
    let (quiet, mut quiet_host) = open(&mut guest, 1 << 30);
    busy_host.write_all(&pattern(190_000)).unwrap();
    guest.until(|guest| guest.buffers_left() == 0);
    quiet_host.write_all(b"me too").unwrap();
    guest.pump();
    guest.inbox.clear();
    guest.post(super::driver::RX_BUFFERS);
    guest.pump();
    let turns: Vec<u32> = guest.inbox.iter().map(|(header, _)| header.src_port).collect();
    let mine = turns.iter().position(|&port| port == quiet.key.host).unwrap();
    assert!(mine <= super::super::rx::BURST, "after one turn of the other at most: {turns:?}");
    assert!(turns.contains(&busy.key.host));
}

#[test]
fn two_hundred_streams_at_once_keep_their_data_apart() {
    const STREAMS: usize = 200;
    const BYTES: usize = 20_000;
    let mut guest = Guest::new(bare());
    let mut ends = Vec::new();
    for _ in 0..STREAMS {
        ends.push(open(&mut guest, 3000));
    }
    assert_eq!(guest.counter("connections_active"), STREAMS as u64);
    let source = pattern(BYTES + STREAMS);
    let mut to_guest = vec![(0, Vec::new()); STREAMS];
    let mut to_host = vec![(0, Vec::new()); STREAMS];
    let by_port: std::collections::HashMap<u32, usize> =
        ends.iter().enumerate().map(|(index, (stream, _))| (stream.key.host, index)).collect();
    while to_guest.iter().chain(&to_host).any(|(_, got)| got.len() < BYTES) {
        for (index, (stream, host)) in ends.iter_mut().enumerate() {
            let (sent, got) = &mut to_guest[index];
            let chunk = &source[index + *sent..index + BYTES.min(*sent + 700 + index)];
            *sent += match host.write(chunk) {
                Ok(count) => count,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    0
                }
            };
            got.extend(stream.read(1000 + index));
            let (sent, got) = &mut to_host[index];
            let length = stream.credit().min(500 + index).min(BYTES - *sent);
            let payload = &source[index + *sent..index + *sent + length];
            let header = if length == 0 { stream.header(Op::CreditUpdate) } else { stream.data(payload) };
            guest.send(header, payload);
            *sent += length;
            drain(host, got);
        }
        guest.pump();
        while let Some((header, payload)) = guest.inbox.pop_front() {
            ends[by_port[&header.src_port]].0.receive(&header, &payload);
        }
    }
    for index in 0..STREAMS {
        assert!(to_guest[index].1 == source[index..index + BYTES], "to the guest, stream {index}");
        assert!(to_host[index].1 == source[index..index + BYTES], "to the host, stream {index}");
    }
    drop(ends);
    let mut over = std::collections::HashSet::new();
    while over.len() < STREAMS {
        let (header, _) = guest.packet();
        if header.flags == SHUTDOWN_BOTH && over.insert(header.src_port) {
            guest.send(Header { op: Op::Reset as u16, ..header.reset_reply() }, &[]);
        }
    }
    assert_eq!(guest.counter("connections_active"), 0);
}

#[test]
fn a_transport_reset_drops_all_streams_and_is_announced_when_there_is_a_buffer() {
    const AT: u64 = Rig::<Vsock>::FREE + (6 << 20);
    let mut guest = Guest::new(bare());
    let (_stream, mut host) = open(&mut guest, 1000);
    guest.rig.device.transport_reset().unwrap();
    assert!(drain(&mut host, &mut Vec::new()));
    guest.pump();
    assert!(guest.inbox.is_empty(), "not a word about the streams");
    assert_eq!(guest.counter("connections_active"), 0);
    assert_eq!(guest.rig.queues[2].used(), None);
    guest.rig.memory.write_obj(u32::MAX, GuestAddress(AT)).unwrap();
    guest.rig.queues[2].add(&[Buffer::Write(AT, 4)]);
    guest.rig.queues[2].add(&[Buffer::Write(AT + 8, 4)]);
    guest.rig.device.queue_notified(2).unwrap();
    assert_eq!(guest.rig.queues[2].used(), Some((0, 4)));
    assert_eq!(guest.rig.memory.read_obj::<u32>(GuestAddress(AT)).unwrap(), 0);
    guest.rig.device.queue_notified(2).unwrap();
    assert_eq!(guest.rig.queues[2].used(), None, "once is enough");
    // Since a buffer is available, the device thread announces the next reset.
    guest.rig.device.transport_reset().unwrap();
    let mut announced = None;
    guest.until(|guest| {
        announced = guest.rig.queues[2].used();
        announced.is_some()
    });
    assert_eq!(announced, Some((1, 4)));
}
