//! The DNS stub: the guest's only resolver, answered by the host over vsock.

use std::net::Ipv4Addr;

/// Where it listens.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);
