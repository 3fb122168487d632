//! The guest's side of the tests: a driver that sends packets and collects those that the device sends.

use std::collections::VecDeque;

use hearth_vmm_api::config::VsockConfig;
use vm_memory::{Bytes as _, GuestAddress};

use super::super::connection::Key;
use super::super::packet::{HEADER_LEN, HOST_CID, Header, Op, SHUTDOWN_SEND, TYPE_STREAM};
use super::super::{Limits, Vsock};
use crate::devices::virtio::testing::{Buffer, Rig};
use crate::devices::virtio::{COMMON_FEATURES, DeviceError, VirtioDevice as _};

/// The guest's context identifier.
pub(super) const CID: u32 = 42;
/// Number of entries of each queue.
pub(super) const RING: u16 = 64;
/// Number of receive buffers that fit into their queue: each takes two descriptors.
pub(super) const RX_BUFFERS: u16 = RING / 2;
/// Size of a receive buffer in bytes, as in Linux.
const RX_BUFFER: u32 = 4096;
/// Number of bytes of a receive buffer in its first descriptor: the header straddles both descriptors.
const RX_FIRST: u32 = 20;
/// Guest address of the packets that the guest sends.
const TX_AREA: u64 = Rig::<Vsock>::FREE + RX_BUFFERS as u64 * RX_BUFFER as u64;
/// Space in bytes for one packet that the guest sends.
const TX_SPACE: u64 = 0x2_0000;
/// Number of packets that have a space of their own.
const TX_SPACES: u64 = 32;
/// Time in milliseconds without any event after which a test has failed.
const STUCK_MS: i32 = 30_000;

/// A guest with one vsock device.
pub(super) struct Guest {
    pub(super) rig: Rig<Vsock>,
    /// The packets that the device has sent, oldest first.
    pub(super) inbox: VecDeque<(Header, Vec<u8>)>,
    /// Whether receive buffers are returned to the device as soon as they have been collected.
    pub(super) repost: bool,
    posted: VecDeque<(u16, u64)>,
    next_rx: u64,
    next_tx: u64,
}

/// Limits with timeouts that are short enough for a test.
pub(super) fn impatient() -> Limits {
    let soon = std::time::Duration::from_millis(20);
    Limits {
        handshake_timeout: soon,
        connect_timeout: soon,
        broker_timeout: soon,
        linger: soon,
        ..Limits::default()
    }
}

/// A configuration without listener and broker.
pub(super) fn bare() -> VsockConfig {
    VsockConfig { guest_cid: CID, listener: None, broker: None }
}

impl Guest {
    /// Makes a guest that has posted all its receive buffers.
    pub(super) fn new(config: VsockConfig) -> Self {
        Self::with_limits(config, Limits::default())
    }

    pub(super) fn with_limits(config: VsockConfig, limits: Limits) -> Self {
        let mut guest = Self::without_buffers(config, limits);
        guest.post(RX_BUFFERS);
        guest
    }

    /// Makes a guest that has posted no receive buffers yet.
    pub(super) fn without_buffers(config: VsockConfig, limits: Limits) -> Self {
        let device = Vsock::with_limits(config, limits).unwrap();
        let rig = Rig::new(device, 8 << 20, RING, COMMON_FEATURES);
        Self { rig, inbox: VecDeque::new(), repost: true, posted: VecDeque::new(), next_rx: 0, next_tx: 0 }
    }

    /// Posts `count` receive buffers.
    pub(super) fn post(&mut self, count: u16) {
        self.add_buffers(count);
        self.rig.device.queue_notified(0).unwrap();
    }

    fn add_buffers(&mut self, count: u16) {
        for _ in 0..count {
            let slot = self.next_rx % u64::from(RX_BUFFERS);
            let address = Rig::<Vsock>::FREE + slot * u64::from(RX_BUFFER);
            let rest = Buffer::Write(address + u64::from(RX_FIRST), RX_BUFFER - RX_FIRST);
            let head = self.rig.queues[0].add(&[Buffer::Write(address, RX_FIRST), rest]);
            self.posted.push_back((head, address));
            self.next_rx += 1;
        }
    }

    /// Number of receive buffers that the device has.
    pub(super) fn buffers_left(&self) -> usize {
        self.posted.len()
    }

    /// Moves the packets that the device has sent into the inbox.
    pub(super) fn collect(&mut self) {
        loop {
            let mut count = 0;
            while let Some((head, written)) = self.rig.queues[0].used() {
                let (expected, address) = self.posted.pop_front().unwrap();
                assert_eq!(head, expected, "buffers are used in order");
                let mut packet = vec![0; written as usize];
                self.rig.memory.read_slice(&mut packet, GuestAddress(address)).unwrap();
                let (header, payload) = packet.split_first_chunk::<HEADER_LEN>().unwrap();
                let header = Header::from_bytes(header);
                assert_eq!(header.len as usize, payload.len());
                self.inbox.push_back((header, payload.to_vec()));
                count += 1;
            }
            if count == 0 || !self.repost {
                return;
            }
            self.post(count);
        }
    }

    /// Lets the device handle its events until `done` returns `true`; `done` is called after each batch.
    pub(super) fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        self.collect();
        while !done(self) {
            assert_ne!(self.rig.pump(STUCK_MS), 0, "stuck: {:?}", self.rig.device.counters());
            self.collect();
        }
    }

    /// Handles all events that are ready now.
    pub(super) fn pump(&mut self) {
        while self.rig.pump(0) > 0 {}
        self.collect();
    }

    /// Takes the next packet, after handling events if necessary.
    pub(super) fn packet(&mut self) -> (Header, Vec<u8>) {
        self.until(|guest| !guest.inbox.is_empty());
        self.inbox.pop_front().unwrap()
    }

    /// Takes the next packet, which must be `op` for `key`.
    pub(super) fn expect(&mut self, key: Key, op: Op) -> (Header, Vec<u8>) {
        let (header, payload) = self.packet();
        assert_eq!(Op::from_wire(header.op), Some(op), "{header:?}");
        assert_eq!((header.src_cid, header.dst_cid, header.kind), (HOST_CID, u64::from(CID), TYPE_STREAM));
        assert_eq!(Key { host: header.src_port, guest: header.dst_port }, key);
        (header, payload)
    }

    /// Takes the next packet, which must be the request for a stream that the host opens to `port`.
    pub(super) fn expect_request(&mut self, port: u32) -> Key {
        let (header, _) = self.packet();
        let key = Key { host: header.src_port, guest: header.dst_port };
        assert_eq!((Op::from_wire(header.op), key.guest), (Some(Op::Request), port));
        assert!(super::super::EPHEMERAL_PORTS.contains(&key.host));
        key
    }

    /// Sends a packet, valid or not, in three descriptors; returns the device's result.
    pub(super) fn try_send_raw(&mut self, header: &[u8], payload: &[u8]) -> Result<(), DeviceError> {
        let address = TX_AREA + self.next_tx % TX_SPACES * TX_SPACE;
        self.next_tx += 1;
        self.rig.memory.write_slice(header, GuestAddress(address)).unwrap();
        self.rig.memory.write_slice(payload, GuestAddress(address + header.len() as u64)).unwrap();
        let whole = u32::try_from(header.len() + payload.len()).unwrap();
        let first = whole.min(30);
        let buffers = [Buffer::Read(address, first), Buffer::Read(address + u64::from(first), whole - first)];
        self.rig.queues[1].add(if first == whole { &buffers[..1] } else { &buffers });
        self.rig.device.queue_notified(1)
    }

    /// Sends a packet and checks that the device took it.
    pub(super) fn send(&mut self, header: Header, payload: &[u8]) {
        self.try_send_raw(&header.to_bytes(), payload).unwrap();
        assert!(self.rig.queues[1].used().is_some(), "the packet is taken");
        self.collect();
    }

    pub(super) fn counter(&self, name: &str) -> u64 {
        self.rig.device.counters().into_iter().find(|(known, _)| *known == name).unwrap().1
    }
}

/// A packet of the stream `key` from the guest, with unlimited credit.
pub(super) fn packet(key: Key, op: Op) -> Header {
    Header {
        src_cid: u64::from(CID),
        dst_cid: HOST_CID,
        src_port: key.guest,
        dst_port: key.host,
        kind: TYPE_STREAM,
        op: op as u16,
        buf_alloc: 1 << 30,
        ..Header::default()
    }
}

/// Like [`packet`], for data.
pub(super) fn data(key: Key, payload: &[u8]) -> Header {
    Header { len: u32::try_from(payload.len()).unwrap(), ..packet(key, Op::Data) }
}

/// Like [`packet`], for a shutdown of the directions `flags`.
pub(super) fn shutdown(key: Key, flags: u32) -> Header {
    Header { flags, ..packet(key, Op::Shutdown) }
}

/// The guest's end of a stream as its kernel keeps it, with a receive buffer of its own.
#[derive(Debug)]
pub(super) struct GuestStream {
    pub(super) key: Key,
    /// Size of the receive buffer in bytes.
    pub(super) buf_alloc: u32,
    /// Bytes that were received and not read by the application.
    pub(super) unread: VecDeque<u8>,
    /// Number of bytes that the application has read, modulo 2³².
    pub(super) fwd_cnt: u32,
    sent: u32,
    host_buf_alloc: u32,
    host_fwd_cnt: u32,
    pub(super) host_done: u32,
    pub(super) reset: bool,
}

impl GuestStream {
    pub(super) fn new(key: Key, buf_alloc: u32) -> Self {
        Self {
            key,
            buf_alloc,
            unread: VecDeque::new(),
            fwd_cnt: 0,
            sent: 0,
            host_buf_alloc: 0,
            host_fwd_cnt: 0,
            host_done: 0,
            reset: false,
        }
    }

    /// Header of a packet with the current credit.
    pub(super) fn header(&self, op: Op) -> Header {
        Header { buf_alloc: self.buf_alloc, fwd_cnt: self.fwd_cnt, ..packet(self.key, op) }
    }

    /// Number of bytes that the host allows the guest to send.
    pub(super) fn credit(&self) -> usize {
        (self.host_buf_alloc - self.sent.wrapping_sub(self.host_fwd_cnt)) as usize
    }

    /// Handles a packet from the device.
    pub(super) fn receive(&mut self, header: &Header, payload: &[u8]) {
        self.host_buf_alloc = header.buf_alloc;
        self.host_fwd_cnt = header.fwd_cnt;
        match Op::from_wire(header.op).unwrap() {
            Op::Data => {
                assert_eq!(self.host_done & SHUTDOWN_SEND, 0, "no data after its end");
                self.unread.extend(payload);
                assert!(self.unread.len() <= self.buf_alloc as usize, "the receive buffer overflows");
            }
            Op::Shutdown => self.host_done |= header.flags,
            Op::Reset => self.reset = true,
            Op::Request | Op::Response | Op::CreditUpdate | Op::CreditRequest => {}
        }
    }

    /// Makes the application read up to `count` bytes.
    pub(super) fn read(&mut self, count: usize) -> Vec<u8> {
        let count = count.min(self.unread.len());
        self.fwd_cnt = self.fwd_cnt.wrapping_add(u32::try_from(count).unwrap());
        self.unread.drain(..count).collect()
    }

    /// Header of the packet that carries `payload`, which the credit must allow.
    pub(super) fn data(&mut self, payload: &[u8]) -> Header {
        let len = u32::try_from(payload.len()).unwrap();
        self.sent = self.sent.wrapping_add(len);
        Header { len, ..self.header(Op::Data) }
    }
}
