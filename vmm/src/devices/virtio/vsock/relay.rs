//! A connection's traffic with its socket: guest data out, what did not go out at once buffered, ends of
//! directions passed on.

use std::io;
use std::net::Shutdown;

use super::buffer::{Ring, RingPool};
use super::connection::Connection;
use super::packet::{HEADER_LEN, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::socket;
use crate::devices::virtio::queue::Chain;
use crate::event_loop::{Interest, Poller};

/// Where a connection's socket is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch<'a> {
    pub(super) poller: &'a Poller,
    pub(super) token: u16,
}

/// Why a connection cannot go on: the guest gets a reset.
#[derive(Debug)]
pub(super) enum Broken {
    /// The guest sent more than it had credit for, or after it had said that it would send nothing more.
    Guest,
    /// The host refused to watch the socket.
    Host,
}

impl Connection {
    /// Starts watching the socket. Its state of now is reported first, whatever it is.
    pub(super) fn watch(&self, watch: Watch<'_>) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        watch.poller.add(stream, watch.token, Interest::READ_EDGE)
    }

    /// Forwards the `length` bytes of payload in `chain` to the host, as far as it takes them; buffers the
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
                    self.host_takes_no_more(); // there is no ring that could be given back
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

    /// Hands buffered bytes to the socket as far as it takes them; whether it took any.
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
                        self.pass_on_ends();
                    }
                    self.forwarded(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.lose_host(rings),
            }
        }
        Ok(progress)
    }

    /// The host's socket takes no more data.
    pub(super) fn lose_host(&mut self, rings: &mut RingPool) {
        if let Some(ring) = self.host_takes_no_more() {
            rings.give(ring);
        }
    }

    /// If the socket is closed in both directions, takes note that it takes no more data.
    pub(super) fn check_host(&mut self, rings: &mut RingPool) {
        if self.stream.as_ref().is_some_and(socket::hung_up) {
            self.lose_host(rings);
        }
    }

    /// Tells the socket what the guest is done with, the end of its data only behind the data.
    pub(super) fn pass_on_ends(&self) {
        let Some(stream) = &self.stream else { return };
        // Shutting down fails only where the peer was faster.
        if self.guest_done() & SHUTDOWN_SEND != 0 && self.buffered() == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
        if self.guest_done() & SHUTDOWN_RECEIVE != 0 {
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Closes the socket at once and gives the buffer back.
    pub(super) fn release(&mut self, rings: &mut RingPool, poller: &Poller) {
        self.deadline = None;
        if let Some(ring) = self.ring.take() {
            rings.give(ring);
        }
        if let Some(stream) = self.stream.take() {
            // Somebody may hold a duplicate: closing ours would end neither the watching nor the stream.
            let _ = poller.remove(&stream);
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether anything is still to be handed to the socket.
    pub(super) fn has_backlog(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring: &Ring| !ring.is_empty())
    }
}
