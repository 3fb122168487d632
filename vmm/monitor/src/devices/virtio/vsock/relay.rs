//! Transfers a connection's data to its socket: forwards the guest's data, buffers the bytes that the socket does not
//! take at once, and passes on the shutdown of directions.

use std::io;
use std::net::Shutdown;

use super::buffer::{Ring, RingPool};
use super::connection::Connection;
use super::packet::{HEADER_LEN, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::socket;
use crate::devices::virtio::queue::Chain;
use crate::event_loop::{Interest, Poller};

/// The poller and token with which a connection's socket is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch<'a> {
    pub(super) poller: &'a Poller,
    pub(super) token: u16,
}

/// Why a connection cannot continue, so that the guest receives a reset.
#[derive(Debug)]
pub(super) enum Broken {
    /// The guest sent more than its credit allowed, or data after it had shut down sending.
    Guest,
    /// The host refused to watch the socket.
    Host,
}

impl Connection {
    /// Starts watching the socket. The first event reports its current state.
    pub(super) fn watch(&self, watch: Watch<'_>) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        watch.poller.add(stream, watch.token, Interest::READ_EDGE)
    }

    /// Forwards the `length` bytes of payload in `chain` to the host's socket, as far as it takes them; buffers the
    /// rest.
    pub(super) fn forward(
        &mut self,
        chain: &Chain,
        length: usize,
        rings: &mut RingPool,
        watch: Watch<'_>,
    ) -> Result<(), Broken> {
        if self.guest_sends_no_more() || !self.has_space(length) {
            return Err(Broken::Guest);
        }
        if self.discards() {
            self.forwarded(length);
            return Ok(());
        }
        let Some(stream) = &self.stream else { return Err(Broken::Host) };
        let mut sent = 0;
        while self.ring.is_none() && sent < length {
            match socket::send_chain(stream, chain, HEADER_LEN + sent, length - sent) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.forwarded(length);
                    self.host_takes_no_more(); // there is no ring to return to the pool
                    return Ok(());
                }
            }
        }
        if sent < length {
            if self.ring.is_none() {
                let again = watch.poller.modify(stream, watch.token, Interest::BOTH_EDGE);
                again.map_err(|_| Broken::Host)?;
            }
            let capacity = self.capacity();
            let ring = self.ring.get_or_insert_with(|| rings.take(capacity));
            ring.append(chain, HEADER_LEN + sent, length - sent);
        }
        self.forwarded(sent);
        Ok(())
    }

    /// Writes buffered bytes to the socket as far as it takes them; returns whether it took any.
    pub(super) fn flush(&mut self, rings: &mut RingPool, watch: Watch<'_>) -> Result<bool, Broken> {
        let mut progress = false;
        while let (Some(ring), Some(stream)) = (&mut self.ring, &self.stream) {
            match socket::send_slices(stream, ring.contents()) {
                Ok(count) => {
                    ring.consume(count);
                    progress = true;
                    if ring.is_empty() {
                        let quiet = watch.poller.modify(stream, watch.token, Interest::READ_EDGE);
                        quiet.map_err(|_| Broken::Host)?;
                        if let Some(ring) = self.ring.take() {
                            rings.give(ring);
                        }
                        self.forward_shutdowns();
                    }
                    self.forwarded(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.lose_host(rings),
            }
        }
        Ok(progress)
    }

    /// Handles a host's socket that takes no more data: discards the buffer.
    pub(super) fn lose_host(&mut self, rings: &mut RingPool) {
        if let Some(ring) = self.host_takes_no_more() {
            rings.give(ring);
        }
    }

    /// If the socket is closed in both directions, records that it takes no more data.
    pub(super) fn check_host(&mut self, rings: &mut RingPool) {
        if self.stream.as_ref().is_some_and(socket::hung_up) {
            self.lose_host(rings);
        }
    }

    /// Shuts down the socket's directions that the guest has shut down; sending only after all buffered data.
    pub(super) fn forward_shutdowns(&self) {
        let Some(stream) = &self.stream else { return };
        // Shutting down fails only where the peer has closed first.
        if self.guest_done() & SHUTDOWN_SEND != 0 && self.buffered() == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
        if self.guest_done() & SHUTDOWN_RECEIVE != 0 {
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Closes the socket at once and returns the buffer to the pool.
    pub(super) fn release(&mut self, rings: &mut RingPool, poller: &Poller) {
        self.deadline = None;
        if let Some(ring) = self.ring.take() {
            rings.give(ring);
        }
        if let Some(stream) = self.stream.take() {
            // Another process may hold a duplicate of the descriptor: closing this one alone would stop neither
            // the watching nor the stream.
            let _ = poller.remove(&stream);
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether any buffered data still has to be written to the socket.
    pub(super) fn has_backlog(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring: &Ring| !ring.is_empty())
    }
}
