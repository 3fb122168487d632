//! The DNS stub: the guest's only resolver, answered by the host over vsock.
//!
//! ```text
//!   app ── UDP or TCP ──► stub ── DnsQuery ──► host
//!        ◄── message ──        ◄── DnsAnswer ──
//! ```
//!
//! Messages pass unchanged. The stub reads only the parts that it needs for its own answers: SERVFAIL where the host gives no
//! answer, and a truncated answer where the whole one does not fit a datagram ([`message`]).

mod hub;
mod message;
mod stub;

use std::net::Ipv4Addr;

pub use hub::Hub;
pub use stub::{serve_tcp, serve_udp};

/// Address on which the stub listens.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);
/// Port on which the stub listens.
pub const PORT: u16 = 53;
