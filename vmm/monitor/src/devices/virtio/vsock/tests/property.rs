//! Tests that, for any sizes of chunks and windows, bytes arrive in order and none is lost, within the limits.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::super::Limits;
use super::super::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_SEND};
use super::driver::{Guest, GuestStream, RX_BUFFERS, bare};

/// One action of one of the sides.
#[derive(Debug, Clone)]
enum Step {
    /// The host writes this many bytes to a stream, as far as the socket takes them (stream, bytes).
    HostWrite(usize, usize),
    /// The host reads at most this many bytes (stream, bytes).
    HostRead(usize, usize),
    /// The guest sends this many bytes, as far as its credit allows (stream, bytes).
    GuestSend(usize, usize),
    /// The guest's application reads at most this many bytes (stream, bytes), and its kernel reports that or not.
    GuestRead(usize, usize, bool),
    /// The guest's buffer grows to this size, unless it is larger already (stream, bytes).
    GuestWindow(usize, u32),
    /// The guest posts receive buffers.
    Post(u16),
    /// The device thread runs.
    Pump,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![1..10usize, 1..5000usize, 1..70_000usize];
    let stream = 0..STREAMS;
    prop_oneof![
        3 => (stream.clone(), size.clone()).prop_map(|(stream, size)| Step::HostWrite(stream, size)),
        2 => (stream.clone(), size.clone()).prop_map(|(stream, size)| Step::HostRead(stream, size)),
        3 => (stream.clone(), size.clone()).prop_map(|(stream, size)| Step::GuestSend(stream, size)),
        2 => (stream.clone(), size, any::<bool>()).prop_map(|(stream, size, tell)| Step::GuestRead(stream, size, tell)),
        1 => (stream, prop_oneof![0..50u32, 0..300_000u32]).prop_map(|(stream, size)| Step::GuestWindow(stream, size)),
        2 => (1..RX_BUFFERS).prop_map(Step::Post),
        3 => Just(Step::Pump),
    ]
}

const STREAMS: usize = 3;

/// The byte at `position` of a stream.
fn byte(stream: usize, position: usize) -> u8 {
    u8::try_from((position * 31 + position / 256 + stream * 97) % 256).unwrap()
}

fn bytes(stream: usize, position: usize, count: usize) -> Vec<u8> {
    (position..position + count).map(|position| byte(stream, position)).collect()
}

/// Progress of one direction of a stream.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    sent: usize,
    got: usize,
}

struct World {
    guest: Guest,
    streams: Vec<GuestStream>,
    hosts: Vec<UnixStream>,
    to_guest: [Progress; STREAMS],
    to_host: [Progress; STREAMS],
}

impl World {
    fn new(buffer: u32) -> Self {
        let mut guest = Guest::with_limits(bare(), Limits { buffer, ..Limits::default() });
        let (mut streams, mut hosts) = (Vec::new(), Vec::new());
        for _ in 0..STREAMS {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            guest.rig.device.connect(1, theirs).unwrap();
            let mut stream = GuestStream::new(guest.expect_request(1), 1000);
            guest.send(stream.header(Op::Response), &[]);
            guest.send(stream.header(Op::CreditRequest), &[]);
            let (header, payload) = guest.expect(stream.key, Op::CreditUpdate);
            stream.receive(&header, &payload);
            streams.push(stream);
            hosts.push(ours);
        }
        guest.repost = false;
        Self { guest, streams, hosts, to_guest: Default::default(), to_host: Default::default() }
    }

    /// Posts up to `count` receive buffers: no more than fit into the queue.
    fn post(&mut self, count: u16) {
        self.guest.collect();
        let free = usize::from(RX_BUFFERS) - self.guest.buffers_left();
        self.guest.post(count.min(u16::try_from(free).unwrap()));
        self.receive();
    }

    fn receive(&mut self) {
        self.guest.collect();
        while let Some((header, payload)) = self.guest.inbox.pop_front() {
            let stream = self.streams.iter_mut().find(|stream| stream.key.host == header.src_port).unwrap();
            stream.receive(&header, &payload);
            assert!(!stream.reset, "a stream that keeps the rules is not reset");
        }
    }

    fn host_read(&mut self, index: usize, count: usize) -> bool {
        let mut data = vec![0; count];
        let progress = &mut self.to_host[index];
        match self.hosts[index].read(&mut data) {
            Ok(count) => {
                assert_eq!(data[..count], bytes(index, progress.got, count));
                progress.got += count;
                count > 0
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }

    fn guest_read(&mut self, index: usize, count: usize) {
        let (stream, progress) = (&mut self.streams[index], &mut self.to_guest[index]);
        let data = stream.read(count);
        assert_eq!(data, bytes(index, progress.got, data.len()));
        progress.got += data.len();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::HostWrite(index, count) => {
                let progress = &mut self.to_guest[index];
                match self.hosts[index].write(&bytes(index, progress.sent, count)) {
                    Ok(count) => progress.sent += count,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            Step::HostRead(index, count) => {
                self.host_read(index, count);
            }
            Step::GuestSend(index, count) => {
                let (stream, progress) = (&mut self.streams[index], &mut self.to_host[index]);
                let payload = bytes(index, progress.sent, count.min(stream.credit()));
                progress.sent += payload.len();
                let header = stream.data(&payload);
                self.guest.send(header, &payload);
            }
            Step::GuestRead(index, count, tell) => {
                self.guest_read(index, count);
                if tell {
                    self.guest.send(self.streams[index].header(Op::CreditUpdate), &[]);
                }
            }
            Step::GuestWindow(index, size) => {
                // The data that the host may send before it learns of the new size must still fit.
                let stream = &mut self.streams[index];
                stream.buf_alloc = stream.buf_alloc.max(size);
                self.guest.send(stream.header(Op::CreditUpdate), &[]);
            }
            Step::Post(count) => self.post(count),
            Step::Pump => self.guest.pump(),
        }
        self.receive();
    }

    /// Checks that everything that was sent arrives once both sides read, and that the shutdowns follow.
    fn finish(mut self) {
        for index in 0..STREAMS {
            let end = Header { flags: SHUTDOWN_SEND, ..self.streams[index].header(Op::Shutdown) };
            self.guest.send(end, &[]);
            self.hosts[index].shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut idle = 0;
        while idle < 3 {
            let before =
                (self.to_guest.map(|progress| progress.got), self.to_host.map(|progress| progress.got));
            for index in 0..STREAMS {
                while self.host_read(index, 1 << 20) {}
                self.guest_read(index, usize::MAX);
                if self.streams[index].host_done != SHUTDOWN_BOTH {
                    self.streams[index].buf_alloc = self.streams[index].buf_alloc.max(100);
                    let header = self.streams[index].header(Op::CreditUpdate);
                    self.guest.send(header, &[]);
                }
            }
            self.post(RX_BUFFERS);
            self.guest.pump();
            self.receive();
            let after =
                (self.to_guest.map(|progress| progress.got), self.to_host.map(|progress| progress.got));
            idle = if before == after { idle + 1 } else { 0 };
        }
        for index in 0..STREAMS {
            assert_eq!(self.to_guest[index].got, self.to_guest[index].sent, "to the guest");
            assert_eq!(self.to_host[index].got, self.to_host[index].sent, "to the host");
            assert_eq!(self.streams[index].host_done, SHUTDOWN_BOTH);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if hearth_testing::full() { 2048 } else { 64 }))]

    #[test]
    fn bytes_arrive_in_order_and_none_is_lost(
        buffer in prop_oneof![Just(4096u32), Just(64 << 10), 4096..300_000u32],
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(buffer);
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
