//! Commands for addresses and TCP.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;

use hearth_test_guest::pattern;

use super::{Words, failed, send_line};

const CHUNK: usize = 64 * 1024;

/// `INTERFACE ADDRESS PREFIX`: assigns an IPv4 address to the interface and brings it and the loopback up.
pub(super) fn up(words: &mut Words<'_>) -> Result<String, String> {
    let interface = words.text("INTERFACE")?;
    let (address, prefix): (Ipv4Addr, u32) = (words.value("ADDRESS")?, words.value("PREFIX")?);
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
    loopback_up()?;
    configure(interface, address, mask).map_err(failed("bringing up the interface"))?;
    Ok(String::new())
}

/// Brings the loopback up, with its usual address.
pub(super) fn loopback_up() -> Result<(), String> {
    configure("lo", Ipv4Addr::LOCALHOST, 0xff00_0000).map_err(failed("bringing up the loopback"))
}

fn configure(interface: &str, address: Ipv4Addr, mask: u32) -> io::Result<()> {
    // These requests work on any socket.
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let request = |number: libc::Ioctl, value: libc::__c_anonymous_ifr_ifru| {
        let mut name = [0; libc::IFNAMSIZ];
        name.iter_mut()
            .zip(interface.bytes().take(libc::IFNAMSIZ - 1))
            .for_each(|(to, from)| *to = libc::c_char::from_ne_bytes([from]));
        let request = libc::ifreq { ifr_name: name, ifr_ifru: value };
        // SAFETY: the pointer is to a request that lives until the call returns.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), number, &raw const request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    request(libc::SIOCSIFADDR, socket_address(address))?;
    request(libc::SIOCSIFNETMASK, socket_address(Ipv4Addr::from(mask)))?;
    let ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    request(libc::SIOCSIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_flags })
}

fn socket_address(address: Ipv4Addr) -> libc::__c_anonymous_ifr_ifru {
    let [a, b, c, d] = address.octets();
    let data = [0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0].map(|byte: u8| libc::c_char::from_ne_bytes([byte]));
    let family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    libc::__c_anonymous_ifr_ifru { ifru_addr: libc::sockaddr { sa_family: family, sa_data: data } }
}

/// `PORT`: prints `listening`, then echoes everything to the first client that connects → `BYTES`.
pub(super) fn echo(words: &mut Words<'_>, progress: &mut File) -> Result<String, String> {
    let port: u16 = words.value("PORT")?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(failed("listening"))?;
    send_line(progress, "listening")?;
    let (mut stream, _) = listener.accept().map_err(failed("accepting"))?;
    let mut back = stream.try_clone().map_err(failed("duplicating the stream"))?;
    let bytes = io::copy(&mut stream, &mut back).map_err(failed("sending back"))?;
    back.shutdown(Shutdown::Write).map_err(failed("ending the stream"))?;
    Ok(bytes.to_string())
}

/// `ADDRESS PORT BYTES SEED`: sends part of the stream SEED and checks that it is echoed → `BYTES`.
pub(super) fn connect(words: &mut Words<'_>) -> Result<String, String> {
    let (address, port): (Ipv4Addr, u16) = (words.value("ADDRESS")?, words.value("PORT")?);
    let (bytes, seed): (u64, u64) = (words.value("BYTES")?, words.value("SEED")?);
    let mut stream = TcpStream::connect((address, port)).map_err(failed("connecting"))?;
    let mut out = stream.try_clone().map_err(failed("duplicating the stream"))?;
    let sender = thread::spawn(move || -> io::Result<()> {
        send(&mut out, seed, bytes)?;
        out.shutdown(Shutdown::Write)
    });
    let received = receive(&mut stream, Some(seed))?;
    sender.join().map_err(|_| "the sender panicked")?.map_err(failed("sending"))?;
    if received != bytes {
        return Err(format!("{received} of {bytes} bytes came back"));
    }
    Ok(received.to_string())
}

/// Sends the first `bytes` bytes of the stream `seed`.
pub(super) fn send(to: &mut impl Write, seed: u64, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
        let Some(chunk) = buffer.get_mut(..length) else { break };
        pattern::fill(seed, at, chunk);
        to.write_all(chunk)?;
        at += length as u64;
    }
    Ok(())
}

/// Receives until the stream ends, and checks that the data is the stream `seed`, if one is given. Returns the length.
pub(super) fn receive(from: &mut impl Read, seed: Option<u64>) -> Result<u64, String> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let length = from.read(&mut buffer).map_err(failed("receiving"))?;
        if length == 0 {
            return Ok(at);
        }
        let chunk = buffer.get(..length).unwrap_or_default();
        if let Some(wrong) = seed.and_then(|seed| pattern::mismatch(seed, at, chunk)) {
            return Err(format!("byte {wrong} is wrong"));
        }
        at += length as u64;
    }
}
