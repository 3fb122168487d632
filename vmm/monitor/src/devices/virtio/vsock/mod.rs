//! The socket device (virtio 1.2, 5.10): streams between the guest's `AF_VSOCK` sockets and Unix sockets of
//! the host, entirely in user space.
//!
//! The monitor is jailed and opens no path, so it receives the host's sockets as descriptors:
//!
//! * *host to guest*: a client of a listening socket sends `CONNECT <port>\n`. It receives
//!   `OK <host port>\n` once the guest has accepted; otherwise its connection is closed. All bytes after the line
//!   belong to the stream. A connected socket can also be passed in for a port, without the lines.
//! * *guest to host*: the device requests a connected socket from a [`Broker`] outside the jail.
//!
//! ```text
//!   listener ──► Handshake ──CONNECT──► Connecting ──RESPONSE─────┐
//!   connect() ────────────────────────────▲                       ▼      host shut down both ways
//!   guest REQUEST ─► AwaitingTurn ─► AwaitingBroker ──socket───► Open ──────────────────► Closing
//!                         │               │                       │ reset, or guest          │ reset,
//!                         │               │                       │ shut down both ways      │ timeout
//!                         └───────────────┴─────refused─────► Gone ◄─────────────────────────┘
//! ```
//!
//! [`device`] owns the queues; `muxer` (the guest's side), `host` (the host's side) and `outbound` (the broker)
//! are the parts of the multiplexer over a `table` of `connection`s and the `broker_queue`. `relay` moves the data: host data is
//! read directly into the guest's receive buffers, guest data is written directly from its transmit buffers,
//! and only the bytes that the host's socket does not take at once are copied, into a bounded `buffer`. Credit
//! (5.10.6.3) keeps the guest from sending more than that buffer holds.
//!
//! Sockets of streams are watched edge-triggered: a stream that cannot continue for lack of credit or receive
//! buffers causes neither wake-ups nor system calls.

pub mod broker;
mod broker_queue;
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
use std::time::Duration;

pub use broker::Broker;
pub use device::Vsock;

/// Event tokens of the device's descriptors.
const TOKEN_LISTENER: u16 = 0;
const TOKEN_BROKER: u16 = 1;
const TOKEN_TIMER: u16 = 2;
const TOKEN_STREAMS: u16 = 16;

/// The largest [`Limits::streams`], which the number of event tokens limits.
pub const MAX_STREAMS: u16 = crate::event_loop::QUEUE_TOKEN - TOKEN_STREAMS;
/// The smallest context identifier that a guest may have (5.10.4).
pub const MIN_GUEST_CID: u32 = 3;
/// Range of the host ports of streams that the host opens.
pub const EPHEMERAL_PORTS: Range<u32> = 1 << 30..1 << 31;

/// Limits of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest number of simultaneous streams, including clients that have not sent their line yet; 1 to
    /// [`MAX_STREAMS`].
    pub streams: u16,
    /// Largest number of requests that the broker has not answered; further requests wait for its answers.
    pub broker_requests: u16,
    /// Largest number of requests that wait for the broker; further ones are refused. Each takes one of `streams`.
    pub waiting_requests: u16,
    /// Number of bytes of a stream that the guest may send before the host's socket takes them, 4 KiB to 16 MiB. From
    /// the 65th stream on, new ones have at most 64 KiB.
    pub buffer: u32,
    /// Time that a client has to send its line.
    pub handshake_timeout: Duration,
    /// Time that the guest has to accept a stream.
    pub connect_timeout: Duration,
    /// Time that the guest's request may be without the broker's answer, including the time that it waits for the
    /// broker. (A Linux guest gives up after 2 s unless its application sets a longer timeout.)
    pub broker_timeout: Duration,
    /// Time that the guest has to acknowledge that a stream is closed (Linux: 8 s), and that the host has to take more
    /// of the data that the guest had sent before.
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
    /// A socket cannot be connected, because the guest runs no driver.
    #[error("the guest has no vsock driver running: wait until it has booted")]
    Inactive,
    /// A socket cannot be connected, because no slot is free.
    #[error("all {0} vsock streams are in use: close one or raise the limit")]
    Full(u16),
    /// The host refused an operation.
    #[error("{what} failed: {source}; is the host or the process out of descriptors?")]
    Host {
        /// The operation that failed.
        what: &'static str,
        /// Error from the host.
        source: io::Error,
    },
}

impl VsockError {
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// Counters of the device. `rx` is the queue from which the guest receives.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    rx_packets: u64,
    tx_packets: u64,
    rx_bytes: u64,
    tx_bytes: u64,
    /// Packets without a complete header or with a wrong source address.
    tx_dropped: u64,
    connections_opened: u64,
    resets_sent: u64,
    /// Number of times that a stream had data for the guest but no credit.
    credit_stalls: u64,
}
