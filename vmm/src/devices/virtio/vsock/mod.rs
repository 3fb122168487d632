//! The socket device (virtio 1.2, 5.10): streams between the guest's `AF_VSOCK` sockets and Unix sockets of
//! the host, entirely in user space.
//!
//! The monitor is jailed and opens no path, so the host's sockets come in as descriptors:
//!
//! * *host to guest*: clients of a listening socket say `CONNECT <port>\n` and are answered
//!   `OK <host port>\n` once the guest has accepted, or closed if it has not; everything after the line is
//!   the stream. A connected socket can also be handed in for a port, without the lines.
//! * *guest to host*: a [`Broker`] outside the jail is asked for a connected socket.
//!
//! ```text
//!   listener ──► Handshake ──CONNECT──► Connecting ──RESPONSE─────┐
//!   connect() ────────────────────────────▲                       ▼      both ends told
//!   guest REQUEST ─► AwaitingTurn ─► AwaitingBroker ──socket───► Open ──────────────────► Closing
//!                         │               │                       │ reset, both ends         │ reset,
//!                         └───────────────┴─────refused─────► Gone ◄─────────────────────────┘ time-out
//! ```
//!
//! [`device`] owns the queues; `muxer` (the guest's side), `host` (the host's side) and `outbound` (the broker)
//! are the parts of the multiplexer over a `table` of `connection`s, which `relay` moves data for: host data is
//! read straight into the guest's receive buffers, guest data is written straight from its transmit buffers,
//! and only what the host's socket does not take at once is copied, into a bounded `buffer`. Credit (5.10.6.3)
//! keeps the guest from sending more than that buffer holds.
//!
//! Sockets of streams are watched edge-triggered: a stream that cannot go on for lack of credit or receive
//! buffers costs neither wake-ups nor system calls.

pub mod broker;
mod buffer;
mod connection;
pub mod device;
mod host;
mod muxer;
mod outbound;
mod packet;
mod relay;
mod rx;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod timer;

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

pub use broker::Broker;
pub use device::Vsock;

/// Event tokens of the device's descriptors.
const TOKEN_LISTENER: u16 = 0;
const TOKEN_BROKER: u16 = 1;
const TOKEN_TIMER: u16 = 2;
const TOKEN_STREAMS: u16 = 16;

/// The largest [`Limits::streams`]: what the event tokens have room for.
pub const MAX_STREAMS: u16 = crate::event_loop::QUEUE_TOKEN - TOKEN_STREAMS;
/// The smallest context identifier that a guest may have (5.10.4).
pub const MIN_GUEST_CID: u32 = 3;
/// Host ports of streams that the host has opened.
pub const EPHEMERAL_PORTS: Range<u32> = 1 << 30..1 << 31;

/// What a device starts with. It works with neither listener nor broker; they can come later.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context identifier, [`MIN_GUEST_CID`] or more, not `u32::MAX`.
    pub guest_cid: u32,
    /// Where clients connect that want to reach the guest.
    pub listener: Option<UnixListener>,
    /// The device's end of [`Broker::pair`].
    pub broker: Option<OwnedFd>,
}

/// The bounds of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams at once, clients that have not said their line yet included; 1 to [`MAX_STREAMS`].
    pub streams: u16,
    /// Requests that the broker may have unanswered; more wait for its answers.
    pub broker_requests: u16,
    /// Requests that may wait for the broker; more are refused. Each takes one of `streams`.
    pub waiting_requests: u16,
    /// Bytes of a stream that the guest may send ahead of the host's socket, 4 KiB to 16 MiB. From the 65th
    /// stream on, new ones get at most 64 KiB.
    pub buffer: u32,
    /// How long a client has for its line.
    pub handshake_timeout: Duration,
    /// How long the guest has to accept.
    pub connect_timeout: Duration,
    /// How long the guest's request may be without the broker's answer, waiting included. (A Linux guest gives
    /// up after 2 s unless its application asks for more patience.)
    pub broker_timeout: Duration,
    /// How long the guest has to acknowledge that a stream is over (Linux: 8 s), and the host to take more
    /// of what the guest had sent before it was.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 1024,
            broker_requests: 128,
            waiting_requests: 384,
            buffer: 256 << 10,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(20),
            broker_timeout: Duration::from_secs(20),
            linger: Duration::from_secs(8),
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), VsockError> {
        if !(1..=MAX_STREAMS).contains(&self.streams) {
            return Err(VsockError::Streams(self.streams));
        }
        if !(4 << 10..=16 << 20).contains(&self.buffer) {
            return Err(VsockError::Buffer(self.buffer));
        }
        Ok(())
    }
}

/// Why a device could not be set up, changed or connected to.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The context identifier is reserved.
    #[error("guest CID {0} is reserved: choose one from {MIN_GUEST_CID} to {max}", max = u32::MAX - 1)]
    ReservedCid(u32),
    /// The number of streams is out of range.
    #[error("a limit of {0} vsock streams is out of range: choose 1 to {MAX_STREAMS}")]
    Streams(u16),
    /// The buffer size is out of range.
    #[error("a vsock buffer of {0} bytes is out of range: choose 4 KiB to 16 MiB")]
    Buffer(u32),
    /// A socket was to be connected to a guest that runs no driver.
    #[error("the guest has no vsock driver running: wait until it has booted")]
    Inactive,
    /// A socket was to be connected, and no slot is free.
    #[error("all {0} vsock streams are in use: close one or raise the limit")]
    Full(u16),
    /// The host refused something.
    #[error("{what} failed: {source}; is the host or the process out of descriptors?")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
}

impl VsockError {
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// What has happened, seen from the device: `rx` is the queue that the guest receives from.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    rx_packets: u64,
    tx_packets: u64,
    rx_bytes: u64,
    tx_bytes: u64,
    /// Packets without a header or with somebody else's address.
    tx_dropped: u64,
    connections_opened: u64,
    resets_sent: u64,
    /// How often a stream had data for a guest that granted no credit.
    credit_stalls: u64,
}
