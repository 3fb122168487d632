//! Streams that the guest opens: its requests to the broker, and the broker's answers.
//!
//! A broker that has fallen behind ([`Limits::broker_requests`](super::Limits) unanswered, or its socket full)
//! receives no more for now: later requests wait here, in their order. A request fails only if the guest gives up,
//! at its timeout, or when [`Limits::waiting_requests`](super::Limits) is reached. A burst of connections is no
//! reason to reset any of them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::TOKEN_BROKER;
use super::broker::{self, Answer};
use super::connection::{Connection, State};
use super::muxer::{CloseMode, Muxer, token};
use super::packet::Header;
use super::relay::Watch;
use super::table::Key;
use crate::devices::virtio::DeviceError;
use crate::event_loop::{Interest, Poller};

/// Largest number of the broker's answers that are handled per event.
const BROKER_BATCH: usize = 64;

/// The broker and the requests that were, or will be, sent to it.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    broker: Option<OwnedFd>,
    /// Number of streams in [`State::AwaitingBroker`].
    awaiting: u16,
    /// Numbers of the requests in [`State::AwaitingTurn`], oldest first.
    waiting: VecDeque<u64>,
    /// The counter in the number of the last request.
    last: u64,
    /// Whether the broker's socket was full and is watched for room.
    choked: bool,
}

impl Outbound {
    /// Starts watching the broker, if there is one.
    ///
    /// # Errors
    /// When the broker cannot be watched.
    pub(super) fn watch(&self, poller: &Poller) -> io::Result<()> {
        self.broker.as_ref().map_or(Ok(()), |broker| poller.add(broker, TOKEN_BROKER, Interest::READ))
    }

    /// Stops watching the broker.
    pub(super) fn unwatch(&mut self, poller: &Poller) {
        self.choked = false;
        if let Some(broker) = &self.broker {
            let _ = poller.remove(broker); // fails if it was not watched, which does no harm
        }
    }

    /// Removes the request of a stream that was in `state` and is closed.
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

    /// Watches for room only while the socket is full and a request waits for room.
    fn watch_for_room(&mut self, choked: bool, poller: &Poller) -> io::Result<()> {
        if self.choked != choked
            && let Some(broker) = &self.broker
        {
            poller.modify(broker, TOKEN_BROKER, if choked { Interest::BOTH } else { Interest::READ })?;
            self.choked = choked;
        }
        Ok(())
    }
}

/// The slot of the stream to which a request belongs: the low 16 bits of the request's number.
fn slot_of(request: u64) -> u16 {
    let [low, high, ..] = request.to_le_bytes();
    u16::from_le_bytes([low, high])
}

impl Muxer {
    /// Replaces the broker, or removes it. The unanswered requests of the old one are reset.
    ///
    /// # Errors
    /// When the new broker cannot be watched; there is none then.
    pub(super) fn set_broker(&mut self, broker: Option<OwnedFd>) -> io::Result<()> {
        if let Some(poller) = &self.poller {
            self.outbound.unwatch(poller);
        }
        self.outbound.broker = None; // closed
        let mut result = Ok(());
        for slot in 0..self.table.end() {
            let state = self.table.get(slot).map(|connection| connection.state);
            if let Some(State::AwaitingTurn(_) | State::AwaitingBroker(_)) = state {
                result = self.finish(slot, CloseMode::Reset).map_err(io::Error::other).and(result);
            }
        }
        if let (Some(new), Some(poller)) = (&broker, &self.poller) {
            poller.add(new, TOKEN_BROKER, Interest::READ)?;
        }
        self.outbound.broker = broker;
        result
    }

    /// Handles the guest's request for port `key.host` of the host, for which the broker must supply a socket.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn open_to_host(&mut self, key: Key, header: &Header) -> Result<(), DeviceError> {
        let limit = usize::from(self.limits.broker_requests) + usize::from(self.limits.waiting_requests);
        let pending = usize::from(self.outbound.awaiting) + self.outbound.waiting.len();
        if self.outbound.broker.is_none() || pending >= limit {
            self.refuse(header);
            return Ok(());
        }
        let mut connection = Connection::new(key, State::AwaitingTurn(0), None, self.buffer_size());
        connection.take_credit(header);
        let Some(slot) = self.table.insert(connection) else {
            self.refuse(header);
            return Ok(());
        };
        // The number contains the slot, so that the answer finds it; the rest makes every number unique.
        self.outbound.last = self.outbound.last.wrapping_add(1);
        let request = self.outbound.last << 16 | u64::from(slot);
        if let Some(connection) = self.table.get_mut(slot) {
            connection.state = State::AwaitingTurn(request);
        }
        self.outbound.waiting.push_back(request);
        self.table.bind(key, slot);
        self.set_deadline(slot, self.limits.broker_timeout)
    }

    /// Sends waiting requests to the broker, as far as its limit and its socket allow.
    ///
    /// # Errors
    /// When the broker cannot be watched for room or the timer cannot be set.
    pub(super) fn ask_broker(&mut self) -> Result<(), DeviceError> {
        let mut choked = false;
        while self.outbound.awaiting < self.limits.broker_requests {
            let (Some(broker), Some(&request)) = (&self.outbound.broker, self.outbound.waiting.front())
            else {
                break;
            };
            let slot = slot_of(request);
            let connection = self.table.get_mut(slot);
            let Some(connection) = connection.filter(|it| it.state == State::AwaitingTurn(request)) else {
                self.outbound.waiting.pop_front();
                continue;
            };
            match broker::send_request(broker, request, connection.key.host) {
                Ok(()) => {
                    connection.state = State::AwaitingBroker(request);
                    self.outbound.waiting.pop_front();
                    self.outbound.awaiting += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    choked = true;
                    break;
                }
                // The broker is gone; the event for that follows. This call also removes the request from the list.
                Err(_) => self.finish(slot, CloseMode::Reset)?,
            }
        }
        let Some(poller) = &self.poller else { return Ok(()) };
        let watched = self.outbound.watch_for_room(choked, poller);
        watched.map_err(DeviceError::backend("watching the vsock broker"))
    }

    /// Handles events of the broker's socket.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn broker_ready(&mut self) -> Result<(), DeviceError> {
        for _ in 0..BROKER_BATCH {
            let Some(broker) = &self.outbound.broker else { return Ok(()) };
            match broker::receive_answer(broker) {
                Ok(answer) => self.answered(answer)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => {
                    return self.set_broker(None).map_err(DeviceError::backend("dropping the vsock broker"));
                }
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> Result<(), DeviceError> {
        let slot = slot_of(answer.request);
        let (Some(connection), Some(poller)) = (self.table.get_mut(slot), &self.poller) else {
            return Ok(());
        };
        if connection.state != State::AwaitingBroker(answer.request) {
            return Ok(()); // the guest has given up meanwhile; the socket closes
        }
        let Some(stream) = answer.stream else { return self.finish(slot, CloseMode::Reset) };
        self.outbound.forget(connection.state);
        connection.accept(UnixStream::from(stream));
        if connection.watch(Watch { poller, token: token(slot) }).is_err() {
            return self.finish(slot, CloseMode::Reset);
        }
        self.counters.connections_opened += 1;
        self.queue(slot);
        Ok(())
    }
}
