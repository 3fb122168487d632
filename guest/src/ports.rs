//! The app's TCP ports: their numbers, and connections to them.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

use crate::refusal::Refusal;

/// A TCP port of the app.
///
/// # Errors
/// The number is not between 1 and 65,535.
pub(crate) fn port(number: u32) -> Result<u16, Refusal> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| Refusal::invalid(format!("{number} is no TCP port; ports are 1 to 65535")))
}

/// Connects to the first address on which something listens.
///
/// # Errors
/// The first error that is not a refusal, or else a refusal.
pub(crate) async fn connect(hosts: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut failed: Option<io::Error> = None;
    for host in hosts {
        match TcpStream::connect(SocketAddr::new(*host, port)).await {
            Ok(stream) => return Ok(stream),
            // A guest without IPv6 or without a network card has no such address, which counts as a refusal.
            Err(error) if is_refusal(&error) => {}
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}
