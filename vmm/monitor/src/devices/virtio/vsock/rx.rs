//! The receive queue, from which a few empty buffers of the guest are held at a time and filled in order.

use std::io;
use std::os::unix::net::UnixStream;

use super::packet::{HEADER_LEN, Header};
use super::socket::{self, Received};
use crate::devices::virtio::DeviceError;
use crate::devices::virtio::queue::{Chain, QueueState, VirtQueue};

/// Largest number of buffers that one read of a host socket may fill: 64 KiB at Linux's 4 KiB each.
pub(super) const BURST: usize = 16;
/// Largest payload of a packet in bytes; Linux uses the same on both sides (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
pub(super) const MAX_PAYLOAD: usize = 64 << 10;

/// The receive queue and the chains popped from it that are still empty.
#[derive(Debug)]
pub(super) struct RxQueue {
    queue: VirtQueue,
    chains: Vec<Chain>,
    first: usize,
    held: usize,
    unannounced: bool,
}

impl RxQueue {
    /// Takes over the queue.
    pub(super) fn new(queue: VirtQueue) -> Self {
        let chains = std::iter::repeat_with(Chain::new).take(BURST).collect();
        Self { queue, chains, first: 0, held: 0, unannounced: false }
    }

    /// Pops buffers until up to `wanted` (at most [`BURST`]) empty ones are held, and returns the number held.
    /// When there are none, notifications from the driver are enabled, so that it notifies when it adds some.
    ///
    /// # Errors
    /// When the queue is broken, or a buffer is too small for a packet.
    pub(super) fn hold(&mut self, wanted: usize) -> Result<usize, DeviceError> {
        while self.held < wanted.min(BURST) && self.pop()? {}
        if self.held == 0 && self.queue.enable_notification()? {
            self.pop()?;
        }
        Ok(self.held)
    }

    fn pop(&mut self) -> Result<bool, DeviceError> {
        let Some(chain) = self.chains.get_mut((self.first + self.held) % BURST) else { return Ok(false) };
        if !self.queue.pop(chain)? {
            return Ok(false);
        }
        if chain.writable_len() <= HEADER_LEN {
            return Err(DeviceError::Protocol("a vsock receive buffer has no room for a header and data"));
        }
        self.held += 1;
        Ok(true)
    }

    /// Number of bytes of payload that fit into the first buffer held; zero when none is held.
    pub(super) fn room(&self) -> usize {
        let first = if self.held == 0 { None } else { self.chains.get(self.first) };
        first.map_or(0, |chain| (chain.writable_len() - HEADER_LEN).min(MAX_PAYLOAD))
    }

    /// Reads from `stream` into the payloads of the first `count` buffers held, at most `limit` (not zero)
    /// bytes. The buffers stay held until [`Self::deliver`] writes each one's header.
    ///
    /// # Errors
    /// The error of the read; `WouldBlock` when there is no data.
    pub(super) fn receive(&self, stream: &UnixStream, count: usize, limit: usize) -> io::Result<Received> {
        let order = (0..count.min(self.held)).map(|position| (self.first + position) % BURST);
        let chains = order.filter_map(|index| self.chains.get(index));
        socket::receive(stream, chains, HEADER_LEN, MAX_PAYLOAD, limit)
    }

    /// Returns the first buffer held to the driver: with `header`, and the `header.len` bytes that
    /// [`Self::receive`] has written after it.
    ///
    /// # Errors
    /// When the queue is broken.
    pub(super) fn deliver(&mut self, header: &Header) -> Result<(), DeviceError> {
        let Some(chain) = self.chains.get(self.first) else { return Ok(()) };
        let written = chain.write_at(0, &header.to_bytes());
        let head = chain.head();
        self.first = (self.first + 1) % BURST;
        self.held = self.held.saturating_sub(1);
        self.unannounced = true;
        let written = u32::try_from(written).unwrap_or(0).saturating_add(header.len);
        Ok(self.queue.push_used(head, written)?)
    }

    /// State of the queue, for a snapshot. Between two events no buffers are held.
    pub(super) fn queue_state(&self) -> QueueState {
        self.queue.state()
    }

    /// Disables notifications from the driver, while there is no lack of buffers.
    ///
    /// # Errors
    /// When the queue is broken.
    pub(super) fn disable_notification(&mut self) -> Result<(), DeviceError> {
        Ok(self.queue.disable_notification()?)
    }

    /// Puts the buffers back that are still held, and notifies the driver of those that were delivered.
    ///
    /// # Errors
    /// When the queue is broken.
    pub(super) fn complete(&mut self) -> Result<(), DeviceError> {
        self.queue.undo_pop(u16::try_from(self.held).unwrap_or(0));
        self.held = 0;
        self.first = 0;
        if std::mem::take(&mut self.unannounced) {
            self.queue.notify()?;
        }
        Ok(())
    }
}
