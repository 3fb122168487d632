//! A tap interface with an address.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use hearth_vmm::config::NetConfig;
use hearth_vmm::tap::open_tap;
use libc::{__c_anonymous_ifr_ifru as Value, c_char, c_short};

use super::Guest;

/// Numbers of this process's taps.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// A tap that is up. It goes away with the last copy of its descriptor.
pub(crate) struct Tap {
    file: File,
    /// Of the interface.
    number: u8,
    /// Of the network that it has an address in.
    network: u8,
}

impl Tap {
    /// Makes a tap in a network of its own.
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::in_network(number, number)
    }

    /// Makes another tap with the addresses of one that nobody uses any more.
    pub(crate) fn instead_of(other: Self) -> Self {
        let network = other.network;
        drop(other);
        Self::in_network(NEXT.fetch_add(1, Ordering::Relaxed), network)
    }

    fn in_network(number: u8, network: u8) -> Self {
        let tap = Self { file: open_tap(&name(number)).unwrap(), number, network };
        // A guest that is restored knows the hardware address that the host's end had. Were it another one now, the
        // guest would go on with the old one until its neighbour table has found out, which takes a minute.
        tap.request(libc::SIOCSIFHWADDR, hardware_address([0x02, 0, 0, 0, 1, network]));
        tap.request(libc::SIOCSIFADDR, address(tap.host()));
        tap.request(libc::SIOCSIFNETMASK, address(Ipv4Addr::new(255, 255, 255, 0)));
        tap.request(libc::SIOCSIFFLAGS, Value { ifru_flags: c_short::try_from(libc::IFF_UP).unwrap() });
        tap
    }

    /// The host's address on it.
    pub(crate) fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.network, 1)
    }

    /// The address for the guest.
    pub(crate) fn guest(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.network, 2)
    }

    /// The interface, as a machine takes it.
    pub(crate) fn file(&self) -> File {
        self.file.try_clone().unwrap()
    }

    /// A network card on it, without limits.
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
        // Any socket serves for these requests.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        // SAFETY: the pointer is to a request that lives until the call returns.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut data) };
        assert!(result >= 0, "{name}: request {request:#x}: {}", io::Error::last_os_error());
    }
}

impl Guest {
    /// Has the guest send so many bytes over TCP to the host's end of `tap`, and get them all back.
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
