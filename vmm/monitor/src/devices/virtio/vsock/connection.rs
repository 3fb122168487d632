//! One stream: its state, the control packets that it still has to send to the guest, and the credit of both
//! directions.
//!
//! This module accesses no queue and does not wait; [`super::muxer`] does, and calls this module to determine the
//! next step. The documentation of the `vsock` module shows the states.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::buffer::Ring;
use super::packet::{HOST_CID, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};
use super::rx::BURST;

/// The pair of ports by which the guest identifies a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Port on the host's side.
    pub(super) host: u32,
    /// Port on the guest's side.
    pub(super) guest: u32,
}

/// State of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A client of the listener has not named its port yet. The guest does not know of the stream.
    Handshake,
    /// The guest has requested the stream; the request, with this number, will be sent to the broker once it has room.
    AwaitingTurn(u64),
    /// The guest has requested the stream; the broker has not answered the request with this number yet.
    AwaitingBroker(u64),
    /// The stream is requested from the guest.
    Connecting {
        /// Whether the client uses the handshake and expects an `OK` line.
        announce: bool,
    },
    /// Data may flow.
    Open,
    /// The guest was notified that the host has shut down both directions; its reset is awaited.
    Closing,
    /// Closed for the guest, or as soon as a reset has been sent. The rest of the buffer may still drain to the
    /// host.
    Gone,
}

/// Control packets that wait for a receive buffer.
#[derive(Debug, Clone, Copy, Default)]
struct PendingControl {
    request: bool,
    response: bool,
    reset: bool,
    credit_update: bool,
    credit_request: bool,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) stream: Option<UnixStream>,
    /// Bytes from the guest that the socket did not take at once; `None` while there are none.
    pub(super) ring: Option<Ring>,
    /// Time at which the stream is terminated if its state has not changed by then; `None` for no limit.
    pub(super) deadline: Option<Instant>,
    /// Whether the stream is in the list of streams that have a packet for the guest.
    pub(super) queued: bool,
    /// Whether the socket may have data to read.
    pub(super) readable: bool,
    /// Whether the socket has reported a hang-up, so that no further report of readable data may follow.
    pub(super) hangup: bool,
    pending: PendingControl,

    /// Size of the device's receive buffer that was reported to the guest, in bytes.
    buf_alloc: u32,
    /// Number of bytes that have left that buffer (or were discarded), modulo 2³².
    fwd_cnt: u32,
    /// The value of `fwd_cnt` that was last sent to the guest.
    reported_fwd_cnt: u32,

    /// Size of the guest's receive buffer in bytes.
    peer_buf_alloc: u32,
    /// Number of bytes that have left the guest's receive buffer, modulo 2³².
    peer_fwd_cnt: u32,
    /// Number of bytes sent to the guest, modulo 2³².
    sent_cnt: u32,
    /// Whether a credit update was requested since the guest last granted credit.
    starved: bool,

    /// Directions that the guest has shut down, `SHUTDOWN_*`.
    guest_done: u32,
    /// Directions that the host has shut down, `SHUTDOWN_*`.
    host_done: u32,
    /// The value of `host_done` that was last sent to the guest.
    reported_done: u32,
    /// Number of receive buffers to offer to the next read.
    burst: usize,
}

impl Connection {
    /// Makes a stream in `state` with a receive buffer of `buf_alloc` bytes, which is reported to the guest.
    pub(super) fn new(key: Key, state: State, stream: Option<UnixStream>, buf_alloc: u32) -> Self {
        Self {
            key,
            state,
            stream,
            ring: None,
            deadline: None,
            queued: false,
            readable: false,
            hangup: false,
            pending: PendingControl {
                request: matches!(state, State::Connecting { .. }),
                ..PendingControl::default()
            },
            buf_alloc,
            fwd_cnt: 0,
            reported_fwd_cnt: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            sent_cnt: 0,
            starved: false,
            guest_done: 0,
            host_done: 0,
            reported_done: 0,
            burst: 1,
        }
    }

    /// Plans a request to the guest, after the client has named its port.
    pub(super) fn request_stream(&mut self, key: Key) {
        self.key = key;
        self.state = State::Connecting { announce: true };
        self.pending.request = true;
    }

    /// Accepts the guest's request with the socket that the broker supplied.
    pub(super) fn accept(&mut self, stream: UnixStream) {
        self.stream = Some(stream);
        self.state = State::Open;
        self.deadline = None;
        self.pending.response = true;
    }

    /// Records that the guest has accepted the stream.
    pub(super) fn accepted(&mut self) {
        self.state = State::Open;
        self.deadline = None;
    }

    /// Terminates the stream. With `reset`, plans a reset to the guest if the guest knows of the stream.
    pub(super) fn terminate(&mut self, reset: bool) {
        let guest_knows = match self.state {
            State::Handshake => false,
            State::Connecting { .. } => !self.pending.request,
            State::AwaitingTurn(_) | State::AwaitingBroker(_) | State::Open | State::Closing => true,
            State::Gone => return,
        };
        self.state = State::Gone;
        self.deadline = None;
        self.pending = PendingControl { reset: reset && guest_knows, ..PendingControl::default() };
    }

    // Credit, guest to host

    /// Number of bytes in the buffer.
    pub(super) fn buffered(&self) -> usize {
        self.ring.as_ref().map_or(0, Ring::len)
    }

    /// Whether the guest may send `length` more bytes. This is always true for a guest that respects its credit:
    /// the credit is never more than the free space.
    pub(super) fn has_space(&self, length: usize) -> bool {
        self.buffered() + length <= self.capacity()
    }

    /// Size of the receive buffer in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.buf_alloc as usize
    }

    /// Records that `count` bytes from the guest were forwarded to the host or discarded.
    pub(super) fn forwarded(&mut self, count: usize) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(low_word(count));
        self.update_guest_view();
    }

    /// Plans a credit update when, as the guest knows it, half of the buffer is occupied and the change is worth
    /// a packet. A guest that waits for credit receives it: once the buffer is empty, the condition holds.
    pub(super) fn update_guest_view(&mut self) {
        let unreported = self.fwd_cnt.wrapping_sub(self.reported_fwd_cnt) as usize;
        if unreported >= self.capacity() / 8 && self.buffered() + unreported >= self.capacity() / 2 {
            self.pending.credit_update = true;
        }
    }

    /// Plans a credit update that the guest has requested.
    pub(super) fn want_credit_update(&mut self) {
        self.pending.credit_update = true;
    }

    // Credit, host to guest

    /// Records the credit in a packet from the guest; every packet of a stream contains it (5.10.6.3).
    pub(super) fn take_credit(&mut self, header: &Header) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
        if self.credit() > 0 {
            self.starved = false;
            self.pending.credit_request = false;
        }
    }

    /// Number of bytes that may be sent to the guest.
    pub(super) fn credit(&self) -> usize {
        let in_flight = self.sent_cnt.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(in_flight) as usize
    }

    /// Whether data could be read for the guest if there was credit.
    fn may_read(&self) -> bool {
        self.state == State::Open
            && self.readable
            && self.host_done & SHUTDOWN_SEND == 0
            && self.guest_done & SHUTDOWN_RECEIVE == 0
    }

    /// Whether data should be read for the guest now.
    pub(super) fn can_read(&self) -> bool {
        self.may_read() && self.credit() > 0
    }

    /// Plans a credit request to the guest if only credit is missing; does so once until the guest grants some.
    /// Returns `true` when the request has become necessary now.
    pub(super) fn note_stall(&mut self) -> bool {
        let stalled = !self.starved && self.may_read() && self.credit() == 0;
        if stalled {
            self.starved = true;
            self.pending.credit_request = true;
        }
        stalled
    }

    /// Number of receive buffers to offer to the next read: as many as the stream has recently been able to fill.
    pub(super) fn burst(&self) -> usize {
        self.burst
    }

    /// Adapts that number after a read that filled, or did not fill, all the offered buffers.
    pub(super) fn adapt_burst(&mut self, filled: bool) {
        self.burst = if filled { (self.burst * 2).min(BURST) } else { (self.burst / 2).max(1) };
    }

    // Shutdown

    /// Records that the guest has shut down `flags`; returns all the directions that it has shut down.
    pub(super) fn guest_is_done(&mut self, flags: u32) -> u32 {
        self.guest_done |= flags & SHUTDOWN_BOTH;
        self.guest_done
    }

    /// Directions that the guest has shut down.
    pub(super) fn guest_done(&self) -> u32 {
        self.guest_done
    }

    /// Whether the guest has announced that it will send no more data.
    pub(super) fn guest_sends_no_more(&self) -> bool {
        self.guest_done & SHUTDOWN_SEND != 0
    }

    /// Records that the host's socket takes no more data: discards the data for it, now and in future. Returns the
    /// buffer.
    pub(super) fn host_takes_no_more(&mut self) -> Option<Ring> {
        self.host_done |= SHUTDOWN_RECEIVE;
        if self.guest_done & SHUTDOWN_RECEIVE != 0 {
            // The data that the socket may still hold is never read, so reading will not find its end.
            self.host_done |= SHUTDOWN_SEND;
        }
        let ring = self.ring.take();
        self.forwarded(ring.as_ref().map_or(0, Ring::len));
        ring
    }

    /// Records that the host's socket has no more data.
    pub(super) fn host_sends_no_more(&mut self) {
        self.host_done |= SHUTDOWN_SEND;
        self.readable = false;
    }

    /// Whether data for the host is to be discarded.
    pub(super) fn discards(&self) -> bool {
        self.state == State::Closing || self.host_done & SHUTDOWN_RECEIVE != 0
    }

    // Packets

    /// Makes a header of this stream with the current credit, and records that the guest knows that credit.
    pub(super) fn header(&mut self, guest_cid: u64, op: Op, flags: u32, len: usize) -> Header {
        self.reported_fwd_cnt = self.fwd_cnt;
        self.pending.credit_update = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: self.key.host,
            dst_port: self.key.guest,
            len: low_word(len),
            kind: TYPE_STREAM,
            op: op as u16,
            flags,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    /// Records that `count` bytes have been sent to the guest.
    pub(super) fn sent(&mut self, count: usize) {
        self.sent_cnt = self.sent_cnt.wrapping_add(low_word(count));
    }

    /// Takes the next control packet, with its flags, that must be sent before any data.
    pub(super) fn next_control(&mut self) -> Option<(Op, u32)> {
        let pending = &mut self.pending;
        match self.state {
            State::Handshake | State::AwaitingTurn(_) | State::AwaitingBroker(_) | State::Closing => None,
            State::Gone => std::mem::take(&mut pending.reset).then_some((Op::Reset, 0)),
            State::Connecting { .. } => std::mem::take(&mut pending.request).then_some((Op::Request, 0)),
            State::Open if std::mem::take(&mut pending.response) => Some((Op::Response, 0)),
            State::Open if self.host_done != self.reported_done => {
                self.reported_done = self.host_done;
                if self.reported_done == SHUTDOWN_BOTH {
                    self.state = State::Closing;
                }
                Some((Op::Shutdown, self.reported_done))
            }
            State::Open => None,
        }
    }

    /// Takes the next control packet that is sent when there is no data to send.
    pub(super) fn next_credit(&mut self) -> Option<Op> {
        if self.state != State::Open {
            return None;
        }
        if std::mem::take(&mut self.pending.credit_request) {
            return Some(Op::CreditRequest);
        }
        std::mem::take(&mut self.pending.credit_update).then_some(Op::CreditUpdate)
    }

    /// Whether the stream has a packet for the guest.
    pub(super) fn has_pending_packet(&self) -> bool {
        let pending = &self.pending;
        match self.state {
            State::Handshake | State::AwaitingTurn(_) | State::AwaitingBroker(_) | State::Closing => false,
            State::Gone => pending.reset,
            State::Connecting { .. } => pending.request,
            State::Open => {
                pending.response
                    || pending.credit_request
                    || pending.credit_update
                    || self.host_done != self.reported_done
                    || self.can_read()
            }
        }
    }

    /// Whether nothing is left to be done, so that another stream may use the slot.
    pub(super) fn is_finished(&self) -> bool {
        self.state == State::Gone && !self.queued && !self.pending.reset && self.stream.is_none()
    }
}

/// Stream counters are 32 bits wide and wrap (5.10.6.3).
#[expect(clippy::cast_possible_truncation, reason = "the counters are defined modulo 2^32")]
fn low_word(count: usize) -> u32 {
    count as u32
}
