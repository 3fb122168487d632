//! Tap interfaces with addresses.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use hearth_vmm_api::config::NetConfig;
use hearth_vmm_client::tap::open_tap;
use libc::{__c_anonymous_ifr_ifru as Value, c_char, c_short};

use super::Guest;

/// Number of this process's next tap.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// A tap that is up. It is removed when the last copy of its descriptor is closed.
pub(crate) struct Tap {
    file: File,
    /// Number of the interface.
    number: u8,
    /// Number of the network in which the interface has an address.
    network: u8,
}

impl Tap {
    /// Creates a tap in a network of its own.
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::in_network(number, number)
    }

    /// Creates another tap with the addresses of one that is no longer used.
    pub(crate) fn instead_of(other: Self) -> Self {
        let network = other.network;
        drop(other);
        Self::in_network(NEXT.fetch_add(1, Ordering::Relaxed), network)
    }

    fn in_network(number: u8, network: u8) -> Self {
        let tap = Self { file: open_tap(&name(number)).unwrap(), number, network };
        // A restored guest remembers the MAC address that the host's end had. If the address were another one now, the
        // guest would use the old one until its neighbour table is updated, which takes a minute.
        tap.request(libc::SIOCSIFHWADDR, hardware_address([0x02, 0, 0, 0, 1, network]));
        tap.request(libc::SIOCSIFADDR, address(tap.host()));
        tap.request(libc::SIOCSIFNETMASK, address(Ipv4Addr::new(255, 255, 255, 0)));
        tap.request(libc::SIOCSIFFLAGS, Value { ifru_flags: c_short::try_from(libc::IFF_UP).unwrap() });
        tap
    }

    /// Returns the host's address on the tap.
    pub(crate) fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.network, 1)
    }

    /// Returns the address for the guest.
    pub(crate) fn guest(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.network, 2)
    }

    /// Returns a descriptor of the tap for a machine.
    pub(crate) fn file(&self) -> File {
        self.file.try_clone().unwrap()
    }

    /// Returns the configuration of a network card on the tap, without rate limits.
    pub(crate) fn card(&self) -> NetConfig {
        NetConfig {
            tap: self.file(),
            mac: [0x02, 0, 0, 0, 0, self.number],
            mtu: None,
            receive_limiter: None,
            transmit_limiter: None,
        }
    }

    fn request(&self, request: libc::Ioctl, value: Value) {
        let name = name(self.number);
        let mut data = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: value };
        for (to, from) in data.ifr_name.iter_mut().zip(name.bytes()) {
            *to = c_char::from_ne_bytes([from]);
        }
        // These requests work on any socket.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        // SAFETY: the pointer is to a request that lives until the call returns.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut data) };
        assert!(result >= 0, "{name}: request {request:#x}: {}", io::Error::last_os_error());
    }
}

impl Guest {
    /// Makes the guest send `bytes` bytes over TCP to the host's end of `tap`, and receive them all back.
    pub(crate) fn echo_through(&self, tap: &Tap, bytes: u64) {
        let listener = TcpListener::bind((tap.host(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            io::copy(&mut &stream, &mut &stream).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(self.run(&format!("tcp-connect {} {port} {bytes} 42", tap.host())), bytes.to_string());
    }
}

fn name(number: u8) -> String {
    format!("hearth-e2e{number}")
}

fn address(address: Ipv4Addr) -> Value {
    let [a, b, c, d] = address.octets();
    let data = [0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0].map(|byte: u8| c_char::from_ne_bytes([byte]));
    let family = libc::sa_family_t::try_from(libc::AF_INET).unwrap();
    Value { ifru_addr: libc::sockaddr { sa_family: family, sa_data: data } }
}

fn hardware_address(mac: [u8; 6]) -> Value {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac) {
        *to = c_char::from_ne_bytes([from]);
    }
    Value { ifru_hwaddr: libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data } }
}
