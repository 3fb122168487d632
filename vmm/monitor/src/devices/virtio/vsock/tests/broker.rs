//! Tests of requests to a broker that has fallen behind.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;

use hearth_vmm_api::config::VsockConfig;

use super::super::Limits;
use super::super::broker::Broker;
use super::super::connection::Key;
use super::super::packet::Op;
use super::driver::{Guest, bare, impatient, packet};
use crate::event_loop::{EventLoop, Interest};

/// The stream that the guest opens from its port `guest`.
fn out(guest: u32) -> Key {
    Key { host: 1024, guest }
}

fn guest_with_broker(limits: Limits) -> (Broker, Guest) {
    let (broker, theirs) = Broker::pair().unwrap();
    (broker, Guest::with_limits(VsockConfig { broker: Some(theirs), ..bare() }, limits))
}

fn ask(guest: &mut Guest, ports: std::ops::RangeInclusive<u32>) {
    for port in ports {
        guest.send(packet(out(port), Op::Request), &[]);
    }
    guest.pump();
}

/// Whether the broker has a request to read.
fn has_request(broker: &Broker) -> bool {
    let mut arrivals = EventLoop::new().unwrap();
    arrivals.poller(0).add(&broker.as_fd(), 0, Interest::READ).unwrap();
    arrivals.wait(0, |_| ()).unwrap() > 0
}

/// Accepts the oldest request; the stream lives as long as the returned socket.
fn accept_next(broker: &Broker) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    broker.next().unwrap().unwrap().accept(&theirs).unwrap();
    ours
}

#[test]
fn two_hundred_requests_at_once_are_all_answered_by_a_broker_that_comes_late() {
    let (broker, mut guest) = guest_with_broker(Limits::default());
    ask(&mut guest, 1..=200);
    let mut open = Vec::new();
    for port in 1..=200 {
        assert!(guest.inbox.is_empty(), "nothing is refused");
        open.push(accept_next(&broker));
        guest.expect(out(port), Op::Response);
    }
    assert_eq!((guest.counter("connections_active"), guest.counter("resets_sent")), (200, 0));
}

#[test]
fn a_broker_gets_no_more_requests_than_it_may_have_and_the_rest_in_order() {
    let limits = Limits { broker_requests: 2, ..Limits::default() };
    let (broker, mut guest) = guest_with_broker(limits);
    ask(&mut guest, 1..=4);
    let first = [broker.next().unwrap().unwrap(), broker.next().unwrap().unwrap()];
    assert!(!has_request(&broker), "the third waits");
    for (port, request) in (1..).zip(first) {
        request.refuse().unwrap();
        guest.expect(out(port), Op::Reset);
    }
    for port in 3..=4 {
        broker.next().unwrap().unwrap().refuse().unwrap();
        guest.expect(out(port), Op::Reset);
    }
    ask(&mut guest, 5..=5);
    assert!(has_request(&broker), "there is room again");
}

#[test]
fn more_requests_than_may_wait_are_refused() {
    let limits = Limits { broker_requests: 2, waiting_requests: 3, ..Limits::default() };
    let (broker, mut guest) = guest_with_broker(limits);
    ask(&mut guest, 1..=6);
    guest.expect(out(6), Op::Reset);
    let mut open = Vec::new();
    for port in 1..=5 {
        open.push(accept_next(&broker));
        guest.expect(out(port), Op::Response);
    }
}

#[test]
fn a_full_socket_holds_requests_back_until_the_broker_reads() {
    let (ours, theirs) = super::super::socket::seqpacket_pair().unwrap();
    let smallest: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&smallest)).unwrap();
    // SAFETY: the pointer and the length are those of a number that lives until the call returns.
    let result = unsafe {
        let value = (&raw const smallest).cast();
        libc::setsockopt(theirs.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, value, length)
    };
    assert_eq!(result, 0);
    let mut guest = Guest::new(VsockConfig { broker: Some(theirs), ..bare() });
    ask(&mut guest, 1..=40);
    assert!(guest.inbox.is_empty(), "nothing is refused");
    // This broker reads and does not answer yet, so only room in its socket lets the next requests through.
    let mut requests = Vec::new();
    while requests.len() < 40 {
        let mut data = [0; 12];
        match super::super::socket::receive_message(&ours, &mut data, libc::MSG_DONTWAIT) {
            Ok((length, _)) => {
                assert_eq!(length, data.len());
                requests.push(data);
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                assert!(guest.rig.pump(30_000) > 0, "stuck after {} requests", requests.len());
            }
        }
    }
    assert_eq!(guest.rig.pump(0), 0, "room is no event when nothing waits for it");
    for (port, mut answer) in (1..).zip(requests) {
        answer[8..].copy_from_slice(&1u32.to_le_bytes());
        super::super::socket::send_message(&ours, &answer, None, 0).unwrap();
        guest.expect(out(port), Op::Reset);
    }
}

#[test]
fn a_request_that_waits_can_be_given_up() {
    let limits = Limits { broker_requests: 1, waiting_requests: 2, ..Limits::default() };
    let (broker, mut guest) = guest_with_broker(limits);
    ask(&mut guest, 1..=3);
    guest.send(packet(out(2), Op::Reset), &[]);
    ask(&mut guest, 4..=4); // in place of the request above
    let mut open = Vec::new();
    for port in [1, 3, 4] {
        open.push(accept_next(&broker));
        guest.expect(out(port), Op::Response);
    }
    assert!(!has_request(&broker));
}

#[test]
fn requests_do_not_wait_for_ever() {
    let limits = Limits { broker_requests: 1, ..impatient() };
    let (broker, mut guest) = guest_with_broker(limits);
    ask(&mut guest, 1..=3);
    guest.until(|guest| guest.inbox.len() == 3);
    assert!(guest.inbox.iter().all(|(header, _)| header.op == Op::Reset as u16));
    assert_eq!(guest.counter("connections_active"), 0);
    drop(broker);
}

#[test]
fn requests_that_wait_are_reset_when_the_broker_goes() {
    let limits = Limits { broker_requests: 1, ..Limits::default() };
    let (broker, mut guest) = guest_with_broker(limits);
    ask(&mut guest, 1..=3);
    drop(broker);
    for port in 1..=3 {
        guest.expect(out(port), Op::Reset);
    }
    let (new, theirs) = Broker::pair().unwrap();
    guest.rig.device.set_broker(Some(theirs)).unwrap();
    ask(&mut guest, 4..=4);
    let _open = accept_next(&new);
    guest.expect(out(4), Op::Response);
}
