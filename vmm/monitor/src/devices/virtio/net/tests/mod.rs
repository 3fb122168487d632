//! Tests of the network card from the driver's side.
//!
//! * [`tap`] – the same on a real tap

mod tap;

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use hearth_vmm_api::config::NetConfig;
use hearth_vmm_api::config::rate_limiter::{BucketConfig, DeviceLimits, RateLimiterConfig};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{Buffer, Rig};
use super::super::{DeviceError, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1, VirtioDevice};
use super::device::{MRG_RXBUF, RX, TX};
use super::*;

const FREE: u64 = Rig::<Net>::FREE;
const MEMORY: u64 = 8 << 20;
/// Guest address of the packets that the guest sends.
const SEND: u64 = FREE + (4 << 20);

/// A network card in a [`Rig`], and the other end of its cable.
struct Cable {
    rig: Rig<Net>,
    peer: OwnedFd,
}

fn socket_pair(kind: libc::c_int) -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors.
    let result = unsafe {
        libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    };
    assert_eq!(result, 0);
    // SAFETY: fresh descriptors that nothing else owns.
    unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) }
}

fn config(backend: OwnedFd) -> NetConfig {
    NetConfig {
        tap: backend.into(),
        mac: [2, 0, 0, 0, 0, 7],
        mtu: Some(1400),
        receive_limiter: None,
        transmit_limiter: None,
    }
}

impl Cable {
    fn new(features: u64) -> Self {
        Self::with(features, |_| {})
    }

    fn with(features: u64, change: impl FnOnce(&mut NetConfig)) -> Self {
        let (end, peer) = socket_pair(libc::SOCK_SEQPACKET);
        let mut config = config(end);
        change(&mut config);
        let mut rig =
            Rig::new(Net::on_socket(config).unwrap(), MEMORY, QUEUE_SIZE, VIRTIO_F_VERSION_1 | features);
        rig.pump(0);
        Self { rig, peer }
    }

    /// Sends a packet from the peer. After the header it has `length` bytes, which count up from `seed`.
    fn peer_sends(&self, seed: u8, length: usize) -> Vec<u8> {
        let packet = packet(seed, length);
        // SAFETY: the packet lives across the call.
        let sent = unsafe { libc::send(self.peer.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(usize::try_from(sent).unwrap(), packet.len(), "{}", std::io::Error::last_os_error());
        packet
    }

    fn peer_receives(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 1 << 17];
        // SAFETY: the packet has room for as many bytes as are requested.
        let got = unsafe { libc::recv(self.peer.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
        packet.truncate(usize::try_from(got).ok()?);
        Some(packet)
    }

    fn guest_sends(&mut self, packet: &[u8]) -> u16 {
        self.rig.memory.write_slice(packet, GuestAddress(SEND)).unwrap();
        self.rig.queues[TX].add(&[Buffer::Read(SEND, packet.len() as u32)])
    }

    fn guest_has(&self, address: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.rig.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }

    fn notify(&mut self, queue: usize) {
        self.rig.device.queue_notified(queue).unwrap();
    }

    fn counter(&self, name: &str) -> u64 {
        self.rig.device.counters().iter().find(|(other, _)| *other == name).unwrap().1
    }
}

fn packet(seed: u8, length: usize) -> Vec<u8> {
    let payload = (0..length).map(|index| seed.wrapping_add(index as u8));
    std::iter::repeat_n(0, HEADER_LEN).chain(payload).collect()
}

/// `packet` as the guest receives it, in `count` buffers.
fn received(mut packet: Vec<u8>, count: u16) -> Vec<u8> {
    packet[10..12].copy_from_slice(&count.to_le_bytes());
    packet
}

fn one_packet_per(refill_ms: u64) -> RateLimiterConfig {
    RateLimiterConfig { bytes: None, ops: Some(BucketConfig { size: 1, one_time_burst: 0, refill_ms }) }
}

#[test]
fn packets_for_the_guest_take_one_chain_each_without_mergeable_buffers() {
    let mut cable = Cable::new(0);
    // The header lies in a buffer of its own, as old drivers place it.
    let first = cable.rig.queues[RX].add(&[Buffer::Write(FREE, 12), Buffer::Write(FREE + 0x1000, 2000)]);
    let second = cable.rig.queues[RX].add(&[Buffer::Write(FREE + 0x2000, 2000)]);
    cable.notify(RX);
    let packets = [cable.peer_sends(1, 100), cable.peer_sends(2, 1500)];
    cable.rig.pump(-1);
    assert_eq!(cable.rig.queues[RX].used(), Some((first, 112)));
    assert_eq!(cable.rig.queues[RX].used(), Some((second, 1512)));
    let [one, two] = packets.map(|packet| received(packet, 1));
    assert_eq!([cable.guest_has(FREE, 12), cable.guest_has(FREE + 0x1000, 100)].concat(), one);
    assert_eq!(cable.guest_has(FREE + 0x2000, 1512), two);
    assert_eq!((cable.counter("rx_packets"), cable.counter("rx_bytes")), (2, 1600));
    assert_eq!(cable.rig.interrupt.status(), 1);
}

#[test]
fn large_packets_spread_over_mergeable_buffers_and_say_over_how_many() {
    let mut cable = Cable::new(MRG_RXBUF | VIRTIO_F_EVENT_IDX);
    let heads: Vec<u16> = (0..60)
        .map(|index| cable.rig.queues[RX].add(&[Buffer::Write(FREE + index * 0x1000, 1500)]))
        .collect();
    cable.notify(RX);
    let large = received(cable.peer_sends(3, 4000), 3);
    let small = received(cable.peer_sends(9, 60), 1);
    cable.rig.pump(-1);
    let used: Vec<_> = std::iter::from_fn(|| cable.rig.queues[RX].used()).collect();
    assert_eq!(used, [(heads[0], 1500), (heads[1], 1500), (heads[2], 1012), (heads[3], 72)]);
    let parts = [(0, 1500), (1, 1500), (2, 1012)]
        .map(|(index, length)| cable.guest_has(FREE + index * 0x1000, length));
    assert_eq!(parts.concat(), large);
    assert_eq!(cable.guest_has(FREE + 0x3000, 72), small);
    assert_eq!(cable.rig.interrupt.status(), 1);
    // A pause puts the buffers taken in advance back; they still serve the next packet.
    cable.rig.device.quiesce().unwrap();
    cable.peer_sends(1, 1400);
    cable.rig.pump(-1);
    assert_eq!(cable.rig.queues[RX].used(), Some((heads[4], 1412)));
}

#[test]
fn the_largest_packet_fits() {
    let mut cable = Cable::new(MRG_RXBUF);
    for index in 0..17 {
        cable.rig.queues[RX].add(&[Buffer::Write(FREE + index * 0x1000, 4096)]);
    }
    cable.notify(RX);
    let packet = received(cable.peer_sends(5, MAX_PACKET_LEN - HEADER_LEN), 17);
    cable.rig.pump(-1);
    assert_eq!(cable.guest_has(FREE, MAX_PACKET_LEN), packet);
}

#[test]
fn packets_larger_than_the_guests_buffers_are_dropped_whole() {
    for features in [0, MRG_RXBUF] {
        let mut cable = Cable::new(features);
        let head = cable.rig.queues[RX].add(&[Buffer::Write(FREE, 1000)]);
        cable.notify(RX);
        cable.peer_sends(1, 989);
        let fits = received(cable.peer_sends(2, 988), 1);
        cable.rig.pump(-1);
        assert_eq!((cable.rig.queues[RX].used(), cable.rig.queues[RX].used()), (Some((head, 1000)), None));
        assert_eq!(cable.guest_has(FREE, 1000), fits);
        assert_eq!(cable.counter("rx_drops"), 1);
        assert_eq!(cable.guest_has(FREE + 1000, 100), [0; 100]);
    }
}

#[test]
fn a_guest_without_buffers_costs_no_wake_ups() {
    for features in [0, MRG_RXBUF | VIRTIO_F_EVENT_IDX] {
        let mut cable = Cable::new(features);
        cable.peer_sends(1, 50);
        assert_eq!(cable.rig.pump(0), 0, "nobody looks at the cable");
        let head = cable.rig.queues[RX].add(&[Buffer::Write(FREE, 1526)]);
        cable.notify(RX);
        assert_eq!(cable.rig.queues[RX].used(), Some((head, 62)));
        cable.peer_sends(1, 50);
        cable.rig.pump(0);
        assert_eq!(cable.rig.pump(0), 0, "the only buffer is used up");
    }
}

#[test]
fn receive_buffers_shorter_than_the_header_stop_the_device() {
    let mut cable = Cable::new(MRG_RXBUF);
    cable.rig.queues[RX].add(&[Buffer::Write(FREE, 11)]);
    assert!(matches!(cable.rig.device.queue_notified(RX), Err(DeviceError::Protocol(_))));
}

#[test]
fn packets_shorter_than_the_header_are_errors_of_the_peer() {
    let mut cable = Cable::new(0);
    cable.rig.queues[RX].add(&[Buffer::Write(FREE, 1526)]);
    cable.notify(RX);
    // SAFETY: five bytes live across the call.
    unsafe { libc::send(cable.peer.as_raw_fd(), [1u8; 5].as_ptr().cast(), 5, 0) };
    cable.rig.pump(-1);
    assert_eq!((cable.rig.queues[RX].used(), cable.counter("rx_errors")), (None, 1));
}

#[test]
fn what_the_guest_sends_reaches_the_peer_header_and_all() {
    let mut cable = Cable::new(0);
    let sent = packet(7, 1000);
    cable.rig.memory.write_slice(&sent, GuestAddress(SEND)).unwrap();
    let parts = [Buffer::Read(SEND, 12), Buffer::Read(SEND + 12, 500), Buffer::Read(SEND + 512, 500)];
    let head = cable.rig.queues[TX].add(&parts);
    cable.notify(TX);
    assert_eq!(cable.peer_receives().unwrap(), sent);
    assert_eq!(cable.rig.queues[TX].used(), Some((head, 0)));
    assert_eq!((cable.counter("tx_packets"), cable.counter("tx_bytes")), (1, 1000));
}

#[test]
fn packets_of_impossible_lengths_are_dropped_and_given_back() {
    let mut cable = Cable::new(0);
    let heads = [
        cable.rig.queues[TX].add(&[Buffer::Read(SEND, 25)]),
        cable.rig.queues[TX].add(&[Buffer::Read(SEND, MAX_PACKET_LEN as u32 + 1)]),
        cable.rig.queues[TX].add(&[Buffer::Write(SEND, 100)]),
        cable.rig.queues[TX].add(&[Buffer::Read(SEND, 26)]),
    ];
    cable.notify(TX);
    assert_eq!(cable.peer_receives().unwrap().len(), 26);
    assert_eq!(cable.peer_receives(), None);
    assert_eq!(heads.map(|head| cable.rig.queues[TX].used() == Some((head, 0))), [true; 4]);
    assert_eq!(cable.counter("tx_drops"), 3);
}

#[test]
fn a_full_backend_holds_packets_back_until_it_has_room() {
    let mut cable = Cable::new(0);
    let sent = packet(1, 60_000);
    let mut total = 0u64;
    // The packets are more than a socket's send buffer holds.
    for _ in 0..64 {
        cable.guest_sends(&sent);
        total += 1;
    }
    cable.notify(TX);
    let passed = cable.counter("tx_packets");
    assert!(passed > 0 && passed < total, "{passed}");
    assert_eq!(cable.rig.pump(0), 0, "no busy loop while there is no room");
    let mut got = 0;
    while got < total {
        while let Some(packet) = cable.peer_receives() {
            assert_eq!(packet, sent);
            got += 1;
        }
        if got < total {
            cable.rig.pump(-1);
        }
    }
    assert_eq!((cable.counter("tx_packets"), cable.counter("tx_drops")), (total, 0));
    assert_eq!(cable.rig.pump(0), 0);
}

/// A refill interval in milliseconds that is longer than any test runs.
const NEVER: u64 = 3_600_000;

#[test]
fn the_transmit_limit_holds_packets_back() {
    let mut cable = Cable::with(0, |config| config.transmit_limiter = Some(one_packet_per(NEVER)));
    let heads = [1, 2, 3].map(|seed| cable.guest_sends(&packet(seed, 100)));
    cable.notify(TX);
    assert!(cable.peer_receives().is_some());
    cable.notify(TX);
    assert_eq!(
        (cable.peer_receives(), cable.counter("tx_throttled")),
        (None, 1),
        "asking again does not help"
    );
    assert_eq!((cable.rig.queues[TX].used(), cable.rig.queues[TX].used()), (Some((heads[0], 0)), None));
}

#[test]
fn the_receive_limit_stops_reading() {
    let mut cable = Cable::with(0, |config| config.receive_limiter = Some(one_packet_per(NEVER)));
    for index in 0..4 {
        cable.rig.queues[RX].add(&[Buffer::Write(FREE + index * 0x1000, 1526)]);
    }
    cable.notify(RX);
    (0..4).for_each(|seed| drop(cable.peer_sends(seed, 100)));
    cable.rig.pump(-1);
    // One packet was paid from the bucket; one passed on credit, because its length was not known before.
    assert_eq!((cable.counter("rx_packets"), cable.counter("rx_throttled")), (2, 1));
    assert_eq!(cable.rig.pump(0), 0, "no busy loop meanwhile");
}

#[test]
fn limited_packets_go_on_with_their_timers() {
    let mut cable = Cable::with(0, |config| {
        config.transmit_limiter = Some(one_packet_per(1));
        config.receive_limiter = Some(one_packet_per(1));
    });
    for index in 0..8 {
        cable.rig.queues[RX].add(&[Buffer::Write(FREE + index * 0x1000, 1526)]);
        cable.guest_sends(&packet(7, 100));
        cable.peer_sends(9, 200);
    }
    cable.notify(RX);
    cable.notify(TX);
    while cable.counter("tx_packets") < 8 || cable.counter("rx_packets") < 8 {
        cable.rig.pump(-1);
    }
    assert_eq!((0..9).filter_map(|_| cable.peer_receives()).count(), 8);
    assert_eq!((cable.counter("rx_bytes"), cable.counter("tx_bytes")), (1600, 800));
}

#[test]
fn a_reset_does_not_lift_the_limits() {
    let mut cable = Cable::with(0, |config| config.transmit_limiter = Some(one_packet_per(NEVER)));
    cable.guest_sends(&packet(1, 100));
    cable.notify(TX);
    assert!(cable.peer_receives().is_some());
    cable.rig.device.reset();
    let Cable { rig, peer } = cable;
    let mut cable = Cable { rig: Rig::new(rig.device, MEMORY, QUEUE_SIZE, VIRTIO_F_VERSION_1), peer };
    cable.guest_sends(&packet(3, 100));
    cable.notify(TX);
    assert_eq!(cable.peer_receives(), None);
}

#[test]
fn limits_are_changed_while_packets_wait_for_them() {
    let mut cable = Cable::with(0, |config| {
        config.transmit_limiter = Some(one_packet_per(NEVER));
        config.receive_limiter = Some(one_packet_per(NEVER));
    });
    for index in 0..4 {
        cable.rig.queues[RX].add(&[Buffer::Write(FREE + index * 0x1000, 1526)]);
        cable.guest_sends(&packet(7, 100));
        cable.peer_sends(9, 100);
    }
    cable.notify(TX);
    cable.notify(RX);
    while cable.counter("rx_throttled") == 0 || cable.counter("tx_throttled") == 0 {
        cable.rig.pump(-1);
    }
    let limits = Some(one_packet_per(NEVER));
    let limits = DeviceLimits { receive: limits, transmit: limits, ..DeviceLimits::default() };
    cable.rig.device.set_limits(limits).unwrap();
    assert_eq!(cable.rig.pump(0), 0, "the buckets are still empty");
    cable.rig.device.set_limits(DeviceLimits::default()).unwrap();
    while cable.counter("tx_packets") < 4 || cable.counter("rx_packets") < 4 {
        cable.rig.pump(-1);
    }
}

#[test]
fn a_closed_backend_is_a_pulled_cable_not_a_busy_loop() {
    let mut cable = Cable::new(0);
    cable.rig.queues[RX].add(&[Buffer::Write(FREE, 1526)]);
    cable.notify(RX);
    let (_, other) = socket_pair(libc::SOCK_SEQPACKET);
    cable.peer = other;
    cable.rig.pump(-1);
    cable.rig.pump(0);
    assert_eq!(cable.rig.pump(0), 0, "a descriptor at its end is not watched");
    let head = cable.guest_sends(&packet(1, 100));
    cable.notify(TX);
    assert_eq!(cable.rig.queues[TX].used(), Some((head, 0)));
    assert_eq!(cable.counter("tx_errors"), 1);
}

#[test]
fn configuration_space_has_address_and_mtu() {
    let (end, _peer) = socket_pair(libc::SOCK_DGRAM);
    let net = Net::on_socket(config(end)).unwrap();
    let mut space = [0xff; 13];
    net.read_config(0, &mut space[..12]);
    assert_eq!(space, [2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0x78, 0x05, 0xff]);
    assert_ne!(net.offered_features() & 1 << 3, 0);
}

#[test]
fn addresses_and_mtus_that_make_no_sense_are_refused_by_name() {
    let refused = |change: fn(&mut NetConfig)| {
        let mut config = config(socket_pair(libc::SOCK_DGRAM).0);
        change(&mut config);
        Net::new(config).unwrap_err().to_string()
    };
    assert!(refused(|config| config.mac = [1, 2, 3, 4, 5, 6]).contains("01, 02"));
    assert!(refused(|config| config.mac = [0; 6]).contains("zero"));
    assert!(refused(|config| config.mtu = Some(67)).contains("67"));
    assert!(refused(|_| {}).contains("IFF_VNET_HDR"), "a socket is no tap");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if hearth_testing::full() { 1024 } else { 64 }))]

    /// Packets of any lengths are received into buffers of any lengths: each arrives whole and in order, or, where
    /// the guest had too little room, not at all.
    #[test]
    fn packets_arrive_whole_and_in_order_or_not_at_all(
        buffers in proptest::collection::vec(12..6000u32, 1..120),
        packets in proptest::collection::vec(14..9000usize, 1..12),
        mergeable in any::<bool>(),
        pauses in any::<bool>(),
    ) {
        let mut cable = Cable::new(if mergeable { MRG_RXBUF } else { 0 });
        for (index, &length) in buffers.iter().enumerate() {
            cable.rig.queues[RX].add(&[Buffer::Write(FREE + index as u64 * 8192, length)]);
        }
        cable.notify(RX);
        let mut sent = Vec::new();
        for (seed, &length) in (0u8..).zip(&packets) {
            sent.push(cable.peer_sends(seed.wrapping_mul(31), length));
            cable.rig.pump(0);
            if pauses {
                cable.rig.device.quiesce().unwrap();
            }
        }
        cable.rig.pump(0);
        // The model expects the packets in order, each in the next free buffers.
        let mut free = buffers.iter().enumerate();
        let mut drops = 0;
        for packet in sent {
            let mut ahead = free.clone();
            let mut room = 0;
            let mut taken = Vec::new();
            for (index, &length) in if mergeable { ahead.by_ref().take(1000) } else { ahead.by_ref().take(1) } {
                taken.push((index, length as usize));
                room += length as usize;
                if room >= packet.len() {
                    break;
                }
            }
            if taken.is_empty() {
                break; // the guest has no buffers left: the packet stays in the socket
            }
            if room < packet.len() {
                drops += 1;
                continue;
            }
            free = ahead;
            let expected = received(packet, taken.len() as u16);
            let mut at = 0;
            for (index, length) in taken {
                let part = length.min(expected.len() - at);
                let (head, written) = cable.rig.queues[RX].used().unwrap();
                prop_assert_eq!((usize::from(head), written as usize), (index, part));
                let got = cable.guest_has(FREE + index as u64 * 8192, part);
                prop_assert_eq!(&got, &expected[at..at + part]);
                at += part;
            }
        }
        prop_assert_eq!(cable.rig.queues[RX].used(), None);
        prop_assert_eq!(cable.counter("rx_drops"), drops);
    }
}
