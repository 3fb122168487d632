//! The broker's socket and the guest's requests that were, or will be, sent to it.
//!
//! A broker that has fallen behind ([`Limits::broker_requests`](super::Limits) unanswered, or its socket full)
//! receives no more for now: later requests wait here, in their order. A request fails only if the guest gives up,
//! at its timeout, or when [`Limits::waiting_requests`](super::Limits) is reached. A burst of connections is no
//! reason to reset any of them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use super::TOKEN_BROKER;
use super::connection::State;
use crate::event_loop::{Interest, Poller};

/// The broker's socket and the requests that were, or will be, sent to it.
#[derive(Debug, Default)]
pub(super) struct BrokerQueue {
    socket: Option<OwnedFd>,
    /// Number of streams in [`State::AwaitingBroker`].
    awaiting: u16,
    /// Numbers of the requests in [`State::AwaitingTurn`], oldest first.
    waiting: VecDeque<u64>,
    /// The counter in the number of the last request.
    last: u64,
    /// Whether the broker's socket was full and is watched for room.
    choked: bool,
}

impl BrokerQueue {
    /// The broker's socket, if there is a broker.
    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    /// Sets the broker's socket, and watches it while the device is active.
    ///
    /// # Errors
    /// When the socket cannot be watched; there is no broker then.
    pub(super) fn open(&mut self, socket: OwnedFd, poller: Option<&Poller>) -> io::Result<()> {
        self.socket = Some(socket);
        let watched = poller.map_or(Ok(()), |poller| self.watch(poller));
        watched.inspect_err(|_| self.close())
    }

    /// Closes the broker's socket.
    pub(super) fn close(&mut self) {
        self.socket = None;
    }

    /// Starts watching the broker, if there is one.
    ///
    /// # Errors
    /// When the broker cannot be watched.
    pub(super) fn watch(&self, poller: &Poller) -> io::Result<()> {
        self.socket.as_ref().map_or(Ok(()), |socket| poller.add(socket, TOKEN_BROKER, Interest::READ))
    }

    /// Stops watching the broker.
    pub(super) fn unwatch(&mut self, poller: &Poller) {
        self.choked = false;
        if let Some(socket) = &self.socket {
            let _ = poller.remove(socket); // fails if it was not watched, which does no harm
        }
    }

    /// Watches for room only while the socket is full and a request waits for room.
    ///
    /// # Errors
    /// When the broker cannot be watched.
    pub(super) fn watch_for_room(&mut self, choked: bool, poller: &Poller) -> io::Result<()> {
        if self.choked != choked
            && let Some(socket) = &self.socket
        {
            poller.modify(socket, TOKEN_BROKER, if choked { Interest::BOTH } else { Interest::READ })?;
            self.choked = choked;
        }
        Ok(())
    }

    /// Number of requests that have no answer yet, sent or not.
    pub(super) fn pending(&self) -> usize {
        usize::from(self.awaiting) + self.waiting.len()
    }

    /// Appends a request for the stream in `slot`. Returns the request's number, which is unique.
    pub(super) fn push(&mut self, slot: u16) -> u64 {
        // The number contains the slot, so that the answer finds it; the rest makes every number unique.
        self.last = self.last.wrapping_add(1);
        let request = self.last << 16 | u64::from(slot);
        self.waiting.push_back(request);
        request
    }

    /// The request to send next, if there is one and fewer than `limit` are unanswered.
    pub(super) fn first(&self, limit: u16) -> Option<u64> {
        self.waiting.front().copied().filter(|_| self.awaiting < limit)
    }

    /// Records that the first request was sent.
    pub(super) fn first_is_sent(&mut self) {
        self.waiting.pop_front();
        self.awaiting += 1;
    }

    /// Removes the first request, which was not sent.
    pub(super) fn drop_first(&mut self) {
        self.waiting.pop_front();
    }

    /// Removes the request of a stream that was in `state` and is closed, or has its answer.
    pub(super) fn forget(&mut self, state: State) {
        match state {
            State::AwaitingBroker(_) => self.awaiting = self.awaiting.saturating_sub(1),
            State::AwaitingTurn(request) => self.waiting.retain(|waiting| *waiting != request),
            _ => {}
        }
    }

    /// Removes all requests.
    pub(super) fn forget_all(&mut self) {
        self.awaiting = 0;
        self.waiting.clear();
    }
}

/// The slot of the stream to which a request belongs: the low 16 bits of the request's number.
pub(super) fn slot_of(request: u64) -> u16 {
    let [low, high, ..] = request.to_le_bytes();
    u16::from_le_bytes([low, high])
}
