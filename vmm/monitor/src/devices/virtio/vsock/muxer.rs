//! The guest's side of the multiplexer: packets from and to the guest, and their effects on streams.
//!
//! Streams that have a packet for the guest wait in a first-in-first-out list. Each has one turn (a control packet,
//! or one read of its socket into as many receive buffers as it has recently filled) and moves to the back of the
//! list if it has more, so any number of streams share the receive queue fairly.
//!
//! A stream stays in the table until it has left that list, which bounds the list. Resets for packets that
//! belong to no stream have a bounded list of their own; while it is full, no packet is taken from the guest,
//! so a guest that sends without receiving stops only itself (5.10.6.2).

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::broker_queue::BrokerQueue;
use super::buffer::RingPool;
use super::connection::{Connection, Key, State};
use super::packet::{HEADER_LEN, HOST_CID, Header, Op, SHUTDOWN_BOTH, TYPE_STREAM};
use super::relay::Watch;
use super::rx::RxQueue;
use super::table::Table;
use super::timer::Timer;
use super::{Counters, Limits, TOKEN_STREAMS};
use crate::devices::virtio::DeviceError;
use crate::devices::virtio::queue::Chain;
use crate::event_loop::Poller;

/// Largest number of resets, for packets that belong to no stream, that wait for receive buffers.
const PENDING_RESETS: usize = 256;
/// Largest number of turns in one call, so that the device thread also serves its other devices.
const TURNS: usize = 256;
/// Number of streams from which on new ones have at most [`CROWDED_BUFFER`] bytes of buffer.
const CROWD: usize = 64;
/// Size in bytes of a stream's receive buffer when there are many streams.
const CROWDED_BUFFER: u32 = 64 << 10;

/// How a stream is terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseMode {
    /// The guest is not notified, because it knows already.
    Silent,
    /// The guest receives a reset.
    Reset,
    /// The guest receives a reset; data that it has sent before is still delivered to the host.
    Drain,
}

/// All streams of a device and their shared state.
#[derive(Debug)]
pub(super) struct Muxer {
    pub(super) guest_cid: u64,
    pub(super) limits: Limits,
    pub(super) table: Table,
    ready: VecDeque<u16>,
    resets: VecDeque<Header>,
    pub(super) broker: BrokerQueue,
    pub(super) next_port: u32,
    pub(super) rings: RingPool,
    pub(super) timer: Timer,
    /// The poller, while the device is active.
    pub(super) poller: Option<Poller>,
    pub(super) counters: Counters,
}

/// The event token of a stream's socket.
pub(super) fn token(slot: u16) -> u16 {
    TOKEN_STREAMS + slot
}

impl Muxer {
    /// Makes a multiplexer without streams.
    ///
    /// # Errors
    /// When the host cannot provide a timer.
    pub(super) fn new(guest_cid: u64, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            limits,
            table: Table::new(limits.streams),
            ready: VecDeque::with_capacity(usize::from(limits.streams)),
            resets: VecDeque::with_capacity(PENDING_RESETS),
            broker: BrokerQueue::default(),
            next_port: super::EPHEMERAL_PORTS.start,
            rings: RingPool::new(limits.buffer as usize),
            timer: Timer::new()?,
            poller: None,
            counters: Counters::default(),
        })
    }

    /// Whether another packet from the guest can be handled.
    pub(super) fn accepts_packets(&self) -> bool {
        self.resets.len() < PENDING_RESETS
    }

    /// Size of the receive buffer for a new stream in bytes.
    pub(super) fn buffer_size(&self) -> u32 {
        if self.table.len() < CROWD { self.limits.buffer } else { self.limits.buffer.min(CROWDED_BUFFER) }
    }

    /// Sets a deadline for the stream in `slot`: after `time`, [`Self::expire`] terminates it.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn set_deadline(&mut self, slot: u16, time: Duration) -> Result<(), DeviceError> {
        let deadline = Instant::now().checked_add(time);
        if let (Some(connection), Some(deadline)) = (self.table.get_mut(slot), deadline) {
            connection.deadline = Some(deadline);
            self.timer.arm(deadline).map_err(DeviceError::backend("setting the vsock timer"))?;
        }
        Ok(())
    }

    /// Handles one packet from the guest.
    ///
    /// # Errors
    /// When the host fails. An invalid packet from the guest is no error: at most its stream is reset.
    pub(super) fn receive(&mut self, chain: &Chain) -> Result<(), DeviceError> {
        let mut bytes = [0; HEADER_LEN];
        let length = chain.read_at(0, &mut bytes);
        let header = Header::from_bytes(&bytes);
        if length < HEADER_LEN || header.src_cid != self.guest_cid {
            // There is no address to which an answer could be sent.
            self.counters.tx_dropped += 1;
            return Ok(());
        }
        self.counters.tx_packets += 1;
        let key = Key { host: header.dst_port, guest: header.src_port };
        let whole = chain.readable_len() - HEADER_LEN >= header.len as usize;
        let ours = header.dst_cid == HOST_CID && header.kind == TYPE_STREAM;
        let op = Op::from_wire(header.op);
        match self.table.find(key) {
            _ if !ours => self.refuse(&header),
            Some(slot) if whole => self.receive_for(slot, op, &header, chain)?,
            Some(slot) => self.finish(slot, CloseMode::Reset)?,
            None if whole && op == Some(Op::Request) => self.open_to_host(key, &header)?,
            None => self.refuse(&header),
        }
        Ok(())
    }

    /// Answers a packet that belongs to no stream with a reset.
    pub(super) fn refuse(&mut self, header: &Header) {
        if header.op != Op::Reset as u16 {
            self.resets.push_back(header.reset_reply());
        }
    }

    fn receive_for(
        &mut self,
        slot: u16,
        op: Option<Op>,
        header: &Header,
        chain: &Chain,
    ) -> Result<(), DeviceError> {
        let (Some(connection), Some(poller)) = (self.table.get_mut(slot), &self.poller) else {
            return Ok(());
        };
        connection.take_credit(header);
        match (connection.state, op) {
            (_, Some(Op::Reset)) => return self.finish(slot, CloseMode::Silent),
            (State::Connecting { announce }, Some(Op::Response)) => self.opened(slot, announce)?,
            (State::Open | State::Closing, Some(Op::Data)) => {
                let watch = Watch { poller, token: token(slot) };
                let length = header.len as usize;
                if connection.forward(chain, length, &mut self.rings, watch).is_err() {
                    return self.finish(slot, CloseMode::Reset);
                }
                self.counters.tx_bytes += u64::from(header.len);
            }
            (State::Open | State::Closing, Some(Op::Shutdown)) => {
                if connection.guest_is_done(header.flags) == SHUTDOWN_BOTH {
                    return self.finish(slot, CloseMode::Drain);
                }
                connection.forward_shutdowns();
                if connection.hangup {
                    connection.check_host(&mut self.rings);
                }
            }
            (State::Open | State::Closing, Some(Op::CreditUpdate)) => {}
            (State::Open | State::Closing, Some(Op::CreditRequest)) => connection.want_credit_update(),
            _ => return self.finish(slot, CloseMode::Reset),
        }
        self.queue(slot);
        Ok(())
    }

    /// Terminates the stream in `slot`.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn finish(&mut self, slot: u16, mode: CloseMode) -> Result<(), DeviceError> {
        let (Some(connection), Some(poller)) = (self.table.get_mut(slot), &self.poller) else {
            return Ok(());
        };
        let (key, state) = (connection.key, connection.state);
        connection.terminate(mode != CloseMode::Silent);
        if mode == CloseMode::Drain && connection.has_backlog() {
            connection.forward_shutdowns();
            self.set_deadline(slot, self.limits.linger)?;
        } else {
            connection.release(&mut self.rings, poller);
        }
        match state {
            State::Handshake | State::Gone => {}
            State::AwaitingTurn(_) | State::AwaitingBroker(_) => {
                self.broker.forget(state);
                self.table.unbind(key);
            }
            State::Connecting { .. } | State::Open | State::Closing => self.table.unbind(key),
        }
        self.queue(slot);
        self.reap(slot);
        Ok(())
    }

    /// Terminates every stream whose deadline has passed and sets the timer for the next deadline.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn expire(&mut self) -> Result<(), DeviceError> {
        self.timer.acknowledge();
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for slot in 0..self.table.used_slots() {
            match self.table.get(slot).and_then(|connection| connection.deadline) {
                Some(deadline) if deadline <= now => self.finish(slot, CloseMode::Reset)?,
                Some(deadline) => next = Some(next.map_or(deadline, |next| next.min(deadline))),
                None => {}
            }
        }
        let Some(next) = next else { return Ok(()) };
        self.timer.arm(next).map_err(DeviceError::backend("setting the vsock timer"))
    }

    /// Makes the event loop call this device again `after` this time.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn kick(&mut self, after: Duration) -> io::Result<()> {
        Instant::now().checked_add(after).map_or(Ok(()), |soon| self.timer.arm(soon))
    }

    /// Puts the stream in `slot` into the list if it has a packet for the guest.
    pub(super) fn queue(&mut self, slot: u16) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        if connection.note_stall() {
            self.counters.credit_stalls += 1;
        }
        if !connection.queued && connection.has_pending_packet() {
            connection.queued = true;
            self.ready.push_back(slot);
        }
    }

    /// Frees `slot` if its stream is finished.
    pub(super) fn reap(&mut self, slot: u16) {
        if self.table.get(slot).is_some_and(Connection::is_finished) {
            self.table.remove(slot);
        }
    }

    /// Fills receive buffers until there are no buffers or no packets left. Returns `true` when it stopped for
    /// another reason.
    ///
    /// # Errors
    /// When the queue is broken or the host fails.
    pub(super) fn transmit(&mut self, rx: &mut RxQueue) -> Result<bool, DeviceError> {
        if self.resets.is_empty() && self.ready.is_empty() {
            return Ok(false);
        }
        rx.disable_notification()?;
        for _ in 0..TURNS {
            if self.resets.is_empty() && self.ready.is_empty() || rx.hold(1)? == 0 {
                return Ok(false);
            }
            if let Some(reset) = self.resets.pop_front() {
                self.counters.rx_packets += 1;
                self.counters.resets_sent += 1;
                rx.deliver(&reset)?;
            } else if let Some(slot) = self.ready.pop_front() {
                self.serve(slot, rx)?;
                self.queue(slot);
                self.reap(slot);
            }
        }
        Ok(true)
    }

    /// Serves the stream in `slot` for one turn.
    fn serve(&mut self, slot: u16, rx: &mut RxQueue) -> Result<(), DeviceError> {
        let Some(connection) = self.table.get_mut(slot) else { return Ok(()) };
        connection.queued = false;
        let (op, flags) = match connection.next_control() {
            Some(control) => control,
            None if connection.can_read() => return self.read_host(slot, rx),
            None => match connection.next_credit() {
                Some(op) => (op, 0),
                None => return Ok(()),
            },
        };
        rx.deliver(&connection.header(self.guest_cid, op, flags, 0))?;
        self.counters.rx_packets += 1;
        self.counters.resets_sent += u64::from(op == Op::Reset);
        if connection.state == State::Closing
            && let Some(poller) = &self.poller
        {
            connection.release(&mut self.rings, poller);
            self.set_deadline(slot, self.limits.linger)?;
        }
        Ok(())
    }

    /// Reads from the host's socket directly into receive buffers, of which at least one is held.
    fn read_host(&mut self, slot: u16, rx: &mut RxQueue) -> Result<(), DeviceError> {
        let Some(connection) = self.table.get_mut(slot) else { return Ok(()) };
        let Some(stream) = &connection.stream else { return Ok(()) };
        let burst = connection.burst();
        let held = rx.hold(burst)?;
        match rx.receive(stream, burst, connection.credit()) {
            Ok(received) if received.bytes > 0 => {
                connection.sent(received.bytes);
                connection.readable = received.more || connection.hangup;
                connection.adapt_burst(received.more && held >= burst);
                self.counters.rx_bytes += received.bytes as u64;
                let mut left = received.bytes;
                while left > 0 {
                    let length = rx.room().min(left);
                    if length == 0 {
                        return Err(DeviceError::Protocol("a vsock receive buffer changed its size"));
                    }
                    rx.deliver(&connection.header(self.guest_cid, Op::Data, 0, length))?;
                    self.counters.rx_packets += 1;
                    left -= length;
                }
            }
            Ok(_) => {
                connection.host_sends_no_more();
                connection.check_host(&mut self.rings);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.readable = false,
            Err(_) => {
                connection.host_sends_no_more();
                connection.lose_host(&mut self.rings);
            }
        }
        Ok(())
    }

    /// Drops every stream and every waiting packet without notifying the guest.
    pub(super) fn drop_streams(&mut self) {
        for slot in 0..self.table.used_slots() {
            if let (Some(mut connection), Some(poller)) = (self.table.remove(slot), &self.poller) {
                connection.release(&mut self.rings, poller);
            }
        }
        self.table.clear();
        self.ready.clear();
        self.resets.clear();
        self.rings.clear();
        self.broker.forget_all();
    }
}
