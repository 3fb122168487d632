//! The DNS stub: the guest's only resolver, answered by the host over vsock.
//!
//! ```text
//!   app ── UDP or TCP ──► stub ── DnsQuery ──► host
//!        ◄── message ──        ◄── DnsAnswer ──
//! ```
//!
//! Messages pass as they are; the stub looks only at what it needs to answer by itself: SERVFAIL where the host gives no answer,
//! and a truncated answer where it does not fit a datagram ([`message`]).

mod hub;
mod message;
mod stub;

use std::net::Ipv4Addr;

pub use hub::Hub;
pub use stub::{serve_tcp, serve_udp};

/// Where it listens.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);
/// On which port.
pub const PORT: u16 = 53;
