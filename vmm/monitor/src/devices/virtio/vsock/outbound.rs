//! Streams that the guest opens: its requests to the broker, and the broker's answers.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::broker::{self, Answer};
use super::broker_queue::slot_of;
use super::connection::{Connection, Key, State};
use super::muxer::{CloseMode, Muxer, token};
use super::packet::Header;
use super::relay::Watch;
use crate::devices::virtio::DeviceError;

/// Largest number of the broker's answers that are handled per event.
const BROKER_BATCH: usize = 64;

impl Muxer {
    /// Replaces the broker, or removes it. The unanswered requests of the old one are reset.
    ///
    /// # Errors
    /// When the new broker cannot be watched; there is none then.
    pub(super) fn set_broker(&mut self, broker: Option<OwnedFd>) -> io::Result<()> {
        if let Some(poller) = &self.poller {
            self.broker.unwatch(poller);
        }
        self.broker.close();
        let mut result = Ok(());
        for slot in 0..self.table.used_slots() {
            let state = self.table.get(slot).map(|connection| connection.state);
            if let Some(State::AwaitingTurn(_) | State::AwaitingBroker(_)) = state {
                result = self.finish(slot, CloseMode::Reset).map_err(io::Error::other).and(result);
            }
        }
        if let Some(broker) = broker {
            self.broker.open(broker, self.poller.as_ref())?;
        }
        result
    }

    /// Handles the guest's request for port `key.host` of the host, for which the broker must supply a socket.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn open_to_host(&mut self, key: Key, header: &Header) -> Result<(), DeviceError> {
        let limit = usize::from(self.limits.broker_requests) + usize::from(self.limits.waiting_requests);
        if self.broker.socket().is_none() || self.broker.pending() >= limit {
            self.refuse(header);
            return Ok(());
        }
        let mut connection = Connection::new(key, State::AwaitingTurn(0), None, self.buffer_size());
        connection.take_credit(header);
        let Some(slot) = self.table.insert(connection) else {
            self.refuse(header);
            return Ok(());
        };
        let request = self.broker.push(slot);
        if let Some(connection) = self.table.get_mut(slot) {
            connection.state = State::AwaitingTurn(request);
        }
        self.table.bind(key, slot);
        self.set_deadline(slot, self.limits.broker_timeout)
    }

    /// Sends waiting requests to the broker, as far as its limit and its socket allow.
    ///
    /// # Errors
    /// When the broker cannot be watched for room or the timer cannot be set.
    pub(super) fn ask_broker(&mut self) -> Result<(), DeviceError> {
        let mut choked = false;
        while let (Some(broker), Some(request)) =
            (self.broker.socket(), self.broker.first(self.limits.broker_requests))
        {
            let slot = slot_of(request);
            let connection = self.table.get_mut(slot);
            let Some(connection) = connection.filter(|it| it.state == State::AwaitingTurn(request)) else {
                self.broker.drop_first();
                continue;
            };
            match broker::send_request(broker, request, connection.key.host) {
                Ok(()) => {
                    connection.state = State::AwaitingBroker(request);
                    self.broker.first_is_sent();
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
        let watched = self.broker.watch_for_room(choked, poller);
        watched.map_err(DeviceError::backend("watching the vsock broker"))
    }

    /// Handles events of the broker's socket.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn broker_ready(&mut self) -> Result<(), DeviceError> {
        for _ in 0..BROKER_BATCH {
            let Some(broker) = self.broker.socket() else { return Ok(()) };
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
        self.broker.forget(connection.state);
        connection.accept(UnixStream::from(stream));
        if connection.watch(Watch { poller, token: token(slot) }).is_err() {
            return self.finish(slot, CloseMode::Reset);
        }
        self.counters.connections_opened += 1;
        self.queue(slot);
        Ok(())
    }
}
