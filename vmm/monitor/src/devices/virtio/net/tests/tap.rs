//! Tests of the network card on a real tap.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use hearth_vmm_api::config::NetConfig;
use hearth_vmm_client::tap::open_tap;
use vm_memory::{Bytes, GuestAddress};

use super::super::super::testing::{Buffer, Rig};
use super::super::super::{VIRTIO_F_VERSION_1, VirtioDevice as _};
use super::super::backend::{GUEST_CSUM, GUEST_TSO4, GUEST_TSO6};
use super::super::device::{MRG_RXBUF, RX, TX};
use super::super::*;

const FREE: u64 = Rig::<Net>::FREE;
const NAME: &str = "hearth-test1";
/// An EtherType for experiments, which distinguishes the tests' frames from those that the kernel sends by itself.
const ETHER_TYPE: u16 = 0x88b5;

/// Brings the interface up and opens a raw socket on it; `None` where that is not allowed.
fn other_end() -> Option<OwnedFd> {
    let protocol = ETHER_TYPE.to_be();
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol.into()) };
    if fd < 0 {
        return None;
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros are a valid request and a valid address.
    let (mut request, mut address): (libc::ifreq, libc::sockaddr_ll) = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: both commands read and write the request, which lives across the calls; the index is what the
    // second one wrote.
    let index = unsafe {
        if libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut request) < 0
            || libc::ioctl(fd, libc::SIOCGIFINDEX, &raw mut request) < 0
        {
            return None;
        }
        request.ifr_ifru.ifru_ifindex
    };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol;
    address.sll_ifindex = index;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives across the call and has the length that is passed.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    Some(socket)
}

fn frame(seed: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![seed; length];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, seed]);
    frame[12..14].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    frame
}

#[test]
fn frames_pass_through_a_real_tap_in_both_directions() {
    let Ok(tap) = open_tap(NAME) else {
        return hearth_testing::skip("this process may not make taps");
    };
    let Some(socket) = other_end() else {
        return hearth_testing::skip("this process may not open packet sockets");
    };
    let mac = [2, 0, 0, 0, 0, 1];
    let config = NetConfig { tap, mac, mtu: None, receive_limiter: None, transmit_limiter: None };
    let features = VIRTIO_F_VERSION_1 | MRG_RXBUF | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
    let mut rig = Rig::new(Net::new(config).unwrap(), 8 << 20, QUEUE_SIZE, features);
    for index in 0..200 {
        rig.queues[RX].add(&[Buffer::Write(FREE + index * 0x1000, 600)]);
    }
    rig.device.queue_notified(RX).unwrap();

    let sent = frame(0x11, 1400);
    // SAFETY: the frame lives across the call.
    let result = unsafe { libc::send(socket.as_raw_fd(), sent.as_ptr().cast(), sent.len(), 0) };
    assert_eq!(result, 1400, "{}", std::io::Error::last_os_error());
    // Packets of the kernel's own may arrive first.
    let mut got = Vec::new();
    while got.get(12..14) != Some(&ETHER_TYPE.to_be_bytes()[..]) {
        let Some((head, written)) = rig.queues[RX].used() else {
            rig.pump(-1);
            continue;
        };
        let at = FREE + u64::from(head) * 0x1000;
        let buffers: u16 = rig.memory.read_obj(GuestAddress(at + 10)).unwrap();
        got = vec![0; written as usize];
        rig.memory.read_slice(&mut got, GuestAddress(at)).unwrap();
        for _ in 1..buffers {
            let (head, written) = rig.queues[RX].used().expect("all parts come together");
            let mut part = vec![0; written as usize];
            rig.memory.read_slice(&mut part, GuestAddress(FREE + u64::from(head) * 0x1000)).unwrap();
            got.extend(part);
        }
        got.drain(..HEADER_LEN);
    }
    assert_eq!(got, sent);

    let packet = [vec![0; HEADER_LEN], frame(0x22, 900)].concat();
    let at = FREE + (4 << 20);
    rig.memory.write_slice(&packet, GuestAddress(at)).unwrap();
    rig.queues[TX].add(&[Buffer::Read(at, packet.len() as u32)]);
    rig.device.queue_notified(TX).unwrap();
    let counters = rig.device.counters();
    assert!(counters.contains(&("tx_packets", 1)), "{counters:?}");
    let mut frame = vec![0; 2000];
    // SAFETY: the frame has room for as many bytes as are requested. The tap has delivered it already.
    let result = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
    assert_eq!(result, 900, "{}", std::io::Error::last_os_error());
    assert_eq!(frame[..900], packet[HEADER_LEN..]);
}
