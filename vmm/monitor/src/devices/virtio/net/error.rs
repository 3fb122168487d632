//! Why a network card could not be set up.

use std::io;

use crate::rate_limiter::RateLimiterError;

/// The smallest MTU that carries IPv4.
pub(super) const MIN_MTU: u16 = 68;

/// Why a network card could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The MAC address is a multicast address or zero.
    #[error(
        "MAC address {0:02x?} is a multicast address or zero; give a unicast one, such as 02:00:00:00:00:01"
    )]
    Mac([u8; 6]),
    /// The MTU is too small for IPv4.
    #[error("MTU {0} is too small; give at least {MIN_MTU}")]
    Mtu(u16),
    /// A rate limit is out of range.
    #[error("network {0}")]
    Limit(#[from] RateLimiterError),
    /// The descriptor is not a tap with a virtio header.
    #[error("cannot set up the tap: {0}; is it one, attached with IFF_VNET_HDR?")]
    Tap(#[source] io::Error),
    /// The host has no descriptors left.
    #[error("cannot make the network card's timers: {0}; raise the limit on open files")]
    Descriptors(#[source] io::Error),
}
