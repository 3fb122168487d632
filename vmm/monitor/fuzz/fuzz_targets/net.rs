//! Fuzzes the network card with a hostile driver. Its peer has sent packets of all sizes beforehand, and reads nothing.
#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use hearth_vmm::devices::virtio::net::Net;
use hearth_vmm::devices::virtio::testing::fuzz_device;
use hearth_vmm_api::config::NetConfig;
use libfuzzer_sys::fuzz_target;

/// Lengths of the packets that the peer sends: less than a header, a header, a small packet, a frame, a segment.
const PACKETS: [usize; 6] = [3, 12, 72, 1526, 9000, 65_562];

fuzz_target!(|data: &[u8]| {
    let Ok((card, peer)) = UnixDatagram::pair() else { return };
    if peer.set_nonblocking(true).is_err() {
        return;
    }
    for length in PACKETS {
        // If the socket's buffer is full, fewer of them are sent.
        let _ = peer.send(&vec![0xa5; length]);
    }
    let device = Net::on_socket(NetConfig {
        tap: File::from(OwnedFd::from(card)),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: Some(1500),
        receive_limiter: None,
        transmit_limiter: None,
    });
    let Ok(device) = device else { return };
    fuzz_device(device, data);
});
