//! One stream: where it stands, what it still has to tell the guest, and the credit of both directions.
//!
//! Nothing here touches a queue or waits for anything; [`super::muxer`] does, and calls this to learn what
//! comes next. See the folder's description for the states.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::buffer::Ring;
use super::packet::{HOST_CID, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};
use super::rx::BURST;
use super::table::Key;

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A client of the listener has not said yet which port it wants. The guest knows nothing.
    Handshake,
    /// The guest has asked; the broker will be, under this number, once it has room.
    AwaitingTurn(u64),
    /// The guest has asked; the broker, under this number, has not answered yet.
    AwaitingBroker(u64),
    /// The guest is being asked. `announce` when the client expects an `OK` line.
    Connecting {
        /// Whether the client speaks the handshake.
        announce: bool,
    },
    /// Data may flow.
    Open,
    /// The guest was told that the host is done both ways; its reset is awaited.
    Closing,
    /// Over for the guest, or about to be as soon as a reset has gone out. What is left in the buffer may
    /// still drain to the host.
    Gone,
}

/// Control packets that wait for a receive buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Unsaid {
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
    /// When the state has lasted too long.
    pub(super) deadline: Option<Instant>,
    /// In the list of streams with something to say.
    pub(super) queued: bool,
    /// The socket may have something to read.
    pub(super) readable: bool,
    /// The socket has reported a hang-up, so no further report of readable data may follow.
    pub(super) hangup: bool,
    unsaid: Unsaid,

    /// Our receive buffer as the guest knows it, bytes.
    buf_alloc: u32,
    /// Bytes that have left it (or been thrown away), modulo 2³².
    fwd_cnt: u32,
    /// `fwd_cnt` as the guest was last told.
    told_fwd_cnt: u32,

    /// The guest's receive buffer, bytes.
    peer_buf_alloc: u32,
    /// Bytes that have left that one, modulo 2³².
    peer_fwd_cnt: u32,
    /// Bytes sent to the guest, modulo 2³².
    sent_cnt: u32,
    /// The guest was asked for credit since it last gave some.
    starved: bool,

    /// What the guest has said it is done with, `SHUTDOWN_*`.
    guest_done: u32,
    /// What the host is done with, `SHUTDOWN_*`.
    host_done: u32,
    /// `host_done` as the guest was last told.
    told_done: u32,
    /// Receive buffers to offer to the next read.
    burst: usize,
}

impl Connection {
    /// A stream in `state`, of which the guest is told that it may send `buf_alloc` bytes ahead.
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
            unsaid: Unsaid { request: matches!(state, State::Connecting { .. }), ..Unsaid::default() },
            buf_alloc,
            fwd_cnt: 0,
            told_fwd_cnt: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            sent_cnt: 0,
            starved: false,
            guest_done: 0,
            host_done: 0,
            told_done: 0,
            burst: 1,
        }
    }

    /// The client has named its port: ask the guest.
    pub(super) fn ask_guest(&mut self, key: Key) {
        self.key = key;
        self.state = State::Connecting { announce: true };
        self.unsaid.request = true;
    }

    /// The broker has come up with a socket: accept.
    pub(super) fn accept(&mut self, stream: UnixStream) {
        self.stream = Some(stream);
        self.state = State::Open;
        self.deadline = None;
        self.unsaid.response = true;
    }

    /// The guest has accepted.
    pub(super) fn accepted(&mut self) {
        self.state = State::Open;
        self.deadline = None;
    }

    /// The stream is over; with `reset` the guest has to hear of it, if it knows of the stream at all.
    pub(super) fn end(&mut self, reset: bool) {
        let guest_knows = match self.state {
            State::Handshake => false,
            State::Connecting { .. } => !self.unsaid.request,
            State::AwaitingTurn(_) | State::AwaitingBroker(_) | State::Open | State::Closing => true,
            State::Gone => return,
        };
        self.state = State::Gone;
        self.deadline = None;
        self.unsaid = Unsaid { reset: reset && guest_knows, ..Unsaid::default() };
    }

    // Credit, guest to host

    /// Bytes buffered.
    pub(super) fn buffered(&self) -> usize {
        self.ring.as_ref().map_or(0, Ring::len)
    }

    /// Whether the guest may send `length` more bytes. It always may if it keeps to the credit it was given:
    /// what it was told is never more than what is really free.
    pub(super) fn has_space(&self, length: usize) -> bool {
        self.buffered() + length <= self.capacity()
    }

    /// Size of the receive buffer in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.buf_alloc as usize
    }

    /// `count` bytes from the guest have gone on to the host, or nowhere.
    pub(super) fn forwarded(&mut self, count: usize) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(low_word(count));
        self.update_guest_view();
    }

    /// Plans a credit update when the guest believes half of the buffer to be taken and the news is worth
    /// a packet. A guest that waits for credit gets it: once the buffer has emptied, all of it is news.
    pub(super) fn update_guest_view(&mut self) {
        let untold = self.fwd_cnt.wrapping_sub(self.told_fwd_cnt) as usize;
        if untold >= self.capacity() / 8 && self.buffered() + untold >= self.capacity() / 2 {
            self.unsaid.credit_update = true;
        }
    }

    /// The guest asks for a credit update.
    pub(super) fn want_credit_update(&mut self) {
        self.unsaid.credit_update = true;
    }

    // Credit, host to guest

    /// Takes note of the credit in a packet from the guest; every packet of a stream has it (5.10.6.3).
    pub(super) fn take_credit(&mut self, header: &Header) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
        if self.credit() > 0 {
            self.starved = false;
            self.unsaid.credit_request = false;
        }
    }

    /// Bytes that may be sent to the guest.
    pub(super) fn credit(&self) -> usize {
        let in_flight = self.sent_cnt.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(in_flight) as usize
    }

    /// Whether data could be read for the guest if it had the credit.
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

    /// Plans to ask the guest for credit if that is what is missing, once until it gives some; `true` when
    /// that has become necessary now.
    pub(super) fn note_stall(&mut self) -> bool {
        let stalled = !self.starved && self.may_read() && self.credit() == 0;
        if stalled {
            self.starved = true;
            self.unsaid.credit_request = true;
        }
        stalled
    }

    /// Receive buffers to offer to the next read: as many as a stream has lately been able to fill.
    pub(super) fn burst(&self) -> usize {
        self.burst
    }

    /// Learns from a read that filled all the buffers offered, or did not.
    pub(super) fn adapt_burst(&mut self, filled: bool) {
        self.burst = if filled { (self.burst * 2).min(BURST) } else { (self.burst / 2).max(1) };
    }

    // Ends

    /// The guest is done with `flags`; returns all that it is done with.
    pub(super) fn guest_is_done(&mut self, flags: u32) -> u32 {
        self.guest_done |= flags & SHUTDOWN_BOTH;
        self.guest_done
    }

    /// What the guest has said that it is done with.
    pub(super) fn guest_done(&self) -> u32 {
        self.guest_done
    }

    /// Whether the guest has said that it will send nothing more.
    pub(super) fn guest_sends_no_more(&self) -> bool {
        self.guest_done & SHUTDOWN_SEND != 0
    }

    /// The host's socket takes no more data: throws away what was meant for it, now and from now on.
    pub(super) fn host_takes_no_more(&mut self) -> Option<Ring> {
        self.host_done |= SHUTDOWN_RECEIVE;
        if self.guest_done & SHUTDOWN_RECEIVE != 0 {
            // Nobody reads what the socket may still hold, so its end will not be found by reading.
            self.host_done |= SHUTDOWN_SEND;
        }
        let ring = self.ring.take();
        self.forwarded(ring.as_ref().map_or(0, Ring::len));
        ring
    }

    /// The host's socket has no more data.
    pub(super) fn host_sends_no_more(&mut self) {
        self.host_done |= SHUTDOWN_SEND;
        self.readable = false;
    }

    /// Whether data for the host is to be thrown away.
    pub(super) fn discards(&self) -> bool {
        self.state == State::Closing || self.host_done & SHUTDOWN_RECEIVE != 0
    }

    // Packets

    /// A header of this stream with the current credit, which the guest thereby knows.
    pub(super) fn header(&mut self, guest_cid: u64, op: Op, flags: u32, len: usize) -> Header {
        self.told_fwd_cnt = self.fwd_cnt;
        self.unsaid.credit_update = false;
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

    /// Takes note that `count` bytes have been sent to the guest.
    pub(super) fn sent(&mut self, count: usize) {
        self.sent_cnt = self.sent_cnt.wrapping_add(low_word(count));
    }

    /// The control packet, with its flags, that goes before any data.
    pub(super) fn next_control(&mut self) -> Option<(Op, u32)> {
        let unsaid = &mut self.unsaid;
        match self.state {
            State::Handshake | State::AwaitingTurn(_) | State::AwaitingBroker(_) | State::Closing => None,
            State::Gone => std::mem::take(&mut unsaid.reset).then_some((Op::Reset, 0)),
            State::Connecting { .. } => std::mem::take(&mut unsaid.request).then_some((Op::Request, 0)),
            State::Open if std::mem::take(&mut unsaid.response) => Some((Op::Response, 0)),
            State::Open if self.host_done != self.told_done => {
                self.told_done = self.host_done;
                if self.told_done == SHUTDOWN_BOTH {
                    self.state = State::Closing;
                }
                Some((Op::Shutdown, self.told_done))
            }
            State::Open => None,
        }
    }

    /// The control packet that goes when there is no data to send.
    pub(super) fn next_credit(&mut self) -> Option<Op> {
        if self.state != State::Open {
            return None;
        }
        if std::mem::take(&mut self.unsaid.credit_request) {
            return Some(Op::CreditRequest);
        }
        std::mem::take(&mut self.unsaid.credit_update).then_some(Op::CreditUpdate)
    }

    /// Whether a receive buffer could be put to use.
    pub(super) fn has_something_to_say(&self) -> bool {
        let unsaid = &self.unsaid;
        match self.state {
            State::Handshake | State::AwaitingTurn(_) | State::AwaitingBroker(_) | State::Closing => false,
            State::Gone => unsaid.reset,
            State::Connecting { .. } => unsaid.request,
            State::Open => {
                unsaid.response
                    || unsaid.credit_request
                    || unsaid.credit_update
                    || self.host_done != self.told_done
                    || self.can_read()
            }
        }
    }

    /// Whether nothing is left to be done, so that its slot may go to another.
    pub(super) fn is_finished(&self) -> bool {
        self.state == State::Gone && !self.queued && !self.unsaid.reset && self.stream.is_none()
    }
}

/// Stream counters are 32 bits wide and wrap (5.10.6.3).
#[expect(clippy::cast_possible_truncation, reason = "the counters are defined modulo 2^32")]
fn low_word(count: usize) -> u32 {
    count as u32
}
