//! Tests of random packets to so few ports that they collide, while the host acts at random, too.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use hearth_vmm_api::config::VsockConfig;
use proptest::prelude::*;

use super::super::Limits;
use super::super::broker::{Broker, Request};
use super::super::connection::Key;
use super::super::packet::{Header, Op};
use super::driver::{Guest, RX_BUFFERS, bare, packet};
use crate::event_loop::{EventLoop, Interest};

/// Largest number of streams; small, so that they run out.
const STREAMS: u16 = 6;
/// Largest number of requests that the broker has not answered.
const ASKED: u16 = 2;
/// Largest number of requests that the broker has not answered or that wait for it.
const PENDING: u16 = 4;

#[derive(Debug, Clone)]
enum Step {
    /// The guest sends a packet with this many bytes behind its header.
    Packet(Header, usize),
    /// The guest sends a packet for the stream to which the device's last packet belongs.
    Reply(Header, usize),
    /// The host opens a stream.
    Connect(u32),
    /// The broker answers its oldest request, if it has one.
    Answer(bool),
    /// The host does something to one of its sockets.
    Host(usize, Action),
    /// The guest posts receive buffers.
    Post(u16),
    /// The device thread runs.
    Pump,
    /// The host drops all streams.
    TransportReset,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Write(usize),
    Read,
    Shutdown(std::net::Shutdown),
    Close,
}

fn header() -> impl Strategy<Value = Header> {
    let op = prop_oneof![8 => 1..8u16, 1 => any::<u16>()];
    let len = prop_oneof![2 => Just(0u32), 4 => 0..9000u32, 1 => any::<u32>()];
    let credit = prop_oneof![3 => Just((1u32 << 20, 0u32)), 1 => any::<(u32, u32)>()];
    let flags = prop_oneof![0..4u32, any::<u32>()];
    let ports = (0..3u32, 0..3u32);
    let odd = prop_oneof![20 => Just(0u8), 1 => 1..4u8];
    (op, len, credit, flags, ports, odd).prop_map(
        |(op, len, (buf_alloc, fwd_cnt), flags, (host, guest), odd)| {
            let packet = packet(Key { host, guest }, Op::Data);
            let (src_cid, dst_cid, kind) = match odd {
                1 => (packet.src_cid + 1, packet.dst_cid, packet.kind),
                2 => (packet.src_cid, packet.dst_cid + 1, packet.kind),
                3 => (packet.src_cid, packet.dst_cid, packet.kind + 1),
                _ => (packet.src_cid, packet.dst_cid, packet.kind),
            };
            Header { src_cid, dst_cid, kind, op, len, flags, buf_alloc, fwd_cnt, ..packet }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let packet = || {
        let missing = prop_oneof![6 => Just(0usize), 1 => 1..50usize];
        (header(), missing).prop_map(|(header, missing)| {
            let whole = usize::try_from(header.len.min(60_000)).unwrap();
            (header, whole.saturating_sub(missing))
        })
    };
    let action = prop_oneof![
        3 => (1..60_000usize).prop_map(Action::Write),
        2 => Just(Action::Read),
        1 => Just(Action::Shutdown(std::net::Shutdown::Write)),
        1 => Just(Action::Shutdown(std::net::Shutdown::Read)),
        1 => Just(Action::Close),
    ];
    prop_oneof![
        6 => packet().prop_map(|(header, length)| Step::Packet(header, length)),
        6 => packet().prop_map(|(header, length)| Step::Reply(header, length)),
        2 => (0..3u32).prop_map(Step::Connect),
        3 => any::<bool>().prop_map(Step::Answer),
        4 => (any::<usize>(), action).prop_map(|(index, action)| Step::Host(index, action)),
        3 => (1..RX_BUFFERS).prop_map(Step::Post),
        4 => Just(Step::Pump),
        1 => Just(Step::TransportReset),
    ]
}

struct World {
    guest: Guest,
    broker: Broker,
    requests: std::collections::VecDeque<Request>,
    arrivals: EventLoop,
    hosts: Vec<UnixStream>,
    last: Key,
}

impl World {
    fn new() -> Self {
        let (broker, theirs) = Broker::pair().unwrap();
        let limits = Limits {
            streams: STREAMS,
            broker_requests: ASKED,
            waiting_requests: PENDING - ASKED,
            buffer: 20_000,
            ..Limits::default()
        };
        let mut guest = Guest::without_buffers(VsockConfig { broker: Some(theirs), ..bare() }, limits);
        guest.repost = false;
        let arrivals = EventLoop::new().unwrap();
        arrivals.poller(0).add(&broker.as_fd(), 0, Interest::READ).unwrap();
        let requests = std::collections::VecDeque::new();
        Self { guest, broker, requests, arrivals, hosts: Vec::new(), last: Key::default() }
    }

    fn send(&mut self, header: Header, length: usize) {
        // A guest that sends more than the device takes waits for the device.
        if self.guest.buffers_left() == 0 {
            self.post(RX_BUFFERS);
        }
        self.guest.try_send_raw(&header.to_bytes(), &vec![9; length]).unwrap();
        while self.guest.rig.queues[1].used().is_none() {
            self.post(RX_BUFFERS);
            self.guest.pump();
        }
    }

    fn post(&mut self, count: u16) {
        self.guest.collect();
        let free = usize::from(RX_BUFFERS) - self.guest.buffers_left();
        self.guest.post(count.min(u16::try_from(free).unwrap()));
    }

    fn connect(&mut self, port: u32) -> bool {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connected = self.guest.rig.device.connect(port, theirs).is_ok();
        if connected {
            ours.set_nonblocking(true).unwrap();
            self.hosts.push(ours);
        }
        connected
    }

    fn step(&mut self, step: Step) {
        use std::io::{Read as _, Write as _};
        match step {
            Step::Packet(header, length) => self.send(header, length),
            Step::Reply(header, length) => {
                let header = Header { src_port: self.last.guest, dst_port: self.last.host, ..header };
                self.send(header, length);
            }
            Step::Connect(port) => {
                self.connect(port);
            }
            Step::Answer(accept) => {
                while self.arrivals.wait(0, |_| ()).unwrap() > 0 {
                    self.requests.push_back(self.broker.next().unwrap().unwrap());
                }
                let Some(request) = self.requests.pop_front() else { return };
                if accept {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    ours.set_nonblocking(true).unwrap();
                    request.accept(&theirs).unwrap();
                    self.hosts.push(ours);
                } else {
                    request.refuse().unwrap();
                }
            }
            Step::Host(index, action) => {
                if self.hosts.is_empty() {
                    return;
                }
                let index = index % self.hosts.len();
                // It is not known here whether the device has closed the other end.
                match action {
                    Action::Write(count) => drop(self.hosts[index].write(&vec![5; count])),
                    Action::Read => drop(self.hosts[index].read(&mut [0; 10_000])),
                    Action::Shutdown(how) => drop(self.hosts[index].shutdown(how)),
                    Action::Close => drop(self.hosts.swap_remove(index)),
                }
            }
            Step::Post(count) => self.post(count),
            Step::Pump => self.guest.pump(),
            Step::TransportReset => self.guest.rig.device.transport_reset().unwrap(),
        }
        self.guest.collect();
        if let Some((header, _)) = self.guest.inbox.back() {
            self.last = Key { host: header.src_port, guest: header.dst_port };
        }
        self.guest.inbox.clear();
        assert!(self.guest.counter("connections_active") <= u64::from(STREAMS));
    }

    /// Checks that nothing is left behind: once all streams are dropped, all slots can be used again.
    fn finish(mut self) {
        self.guest.rig.device.transport_reset().unwrap();
        assert_eq!(self.guest.counter("connections_active"), 0);
        for port in 0..u32::from(STREAMS) {
            assert!(self.connect(port), "slot {port} is free");
        }
        self.guest.rig.device.transport_reset().unwrap();
        self.requests.clear();
        self.guest.repost = true;
        self.post(RX_BUFFERS);
        self.guest.pump();
        self.guest.inbox.clear();
        let key = |guest| Key { host: 1, guest };
        while self.arrivals.wait(0, |_| ()).unwrap() > 0 {
            drop(self.broker.next().unwrap()); // requests of streams that are gone
        }
        for guest_port in 1..=u32::from(PENDING) {
            self.guest.send(packet(key(guest_port), Op::Request), &[]);
        }
        self.guest.pump();
        assert!(self.guest.inbox.is_empty(), "as many requests as at first are taken");
        self.guest.send(packet(key(9), Op::Request), &[]);
        self.guest.expect(key(9), Op::Reset);
        for guest_port in 1..=u32::from(PENDING) {
            self.broker.next().unwrap().unwrap().refuse().unwrap();
            self.guest.expect(key(guest_port), Op::Reset);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if hearth_testing::full() { 4096 } else { 128 }))]

    #[test]
    fn no_sequence_of_packets_breaks_the_device_or_loses_a_slot(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
