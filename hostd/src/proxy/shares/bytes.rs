//! Bytes that one side has sent and the other has not taken.
//!
//! **Answers** are counted in the pieces that the app's connection gives, from there until a piece has been written to the
//! client's connection. A connection that holds [`CONNECTION`] bytes gets no further piece. Neither does one whose account
//! holds as much as it may, unless the connection holds nothing: so clients that read get their answers, however many
//! others of their account do not, and the account exceeds its budget by one piece for each connection at most.
//!
//! **Requests** are kept by HTTP until the app takes them, up to a flow-control window. What could be kept is set aside when
//! a request begins, since a window that a client has been given cannot be taken back. What a request may need to be sent
//! again is counted beside.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use super::{Seat, ShareTaken};

/// Bytes of answers that a connection may hold.
pub const CONNECTION: usize = 4 << 20;
/// Flow-control windows of HTTP/2 for requests, in bytes, of each stream and each connection: as much as is sent in 100 ms
/// at 160 and 320 Mbit/s. Versions of curl up to 7.88 do not go on with an upload that is longer than its window when the
/// answer comes first (curl's issue 10433).
pub const WINDOWS: (u32, u32) = (2 << 20, 4 << 20);

/// Bytes that are held, and who waits until there are fewer.
#[derive(Debug)]
pub(super) struct Gauge {
    held: AtomicUsize,
    most: usize,
    /// Those who wait are woken when no more than this is held.
    low: usize,
    waiting: AtomicUsize,
    fewer: Notify,
}

impl Gauge {
    /// Bytes of an account. So that not each byte that is freed wakes all who wait, a quarter has to be free.
    pub(super) fn new(most: usize) -> Self {
        let low = most.saturating_sub(most / 4);
        Self { held: AtomicUsize::new(0), most, low, waiting: AtomicUsize::new(0), fewer: Notify::new() }
    }

    /// Bytes of a connection.
    pub(super) fn of_connection() -> Self {
        Self { low: CONNECTION, ..Self::new(CONNECTION) }
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    fn is_full(&self) -> bool {
        self.held() >= self.most
    }

    /// Returns how many are held then.
    fn add(&self, count: usize) -> usize {
        self.held.fetch_add(count, Ordering::SeqCst).saturating_add(count)
    }

    fn release(&self, count: usize) {
        let held = self.held.fetch_sub(count, Ordering::SeqCst).saturating_sub(count);
        // Whoever begins to wait is counted before it looks once more at what is held.
        if held <= self.low && self.waiting.load(Ordering::SeqCst) > 0 {
            self.fewer.notify_waiters();
        }
    }
}

/// One who waits is counted as long as this exists.
struct Waiting<'a>([&'a Gauge; 2]);

impl<'a> Waiting<'a> {
    fn at(gauges: [&'a Gauge; 2]) -> Self {
        for gauge in gauges {
            gauge.waiting.fetch_add(1, Ordering::SeqCst);
        }
        Self(gauges)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        for gauge in self.0 {
            gauge.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Seat {
    /// Whether the connection may get a further piece of a response.
    pub(in crate::proxy) fn may_take(&self) -> bool {
        match self.bytes.held() {
            0 => true,
            held => held < CONNECTION && !self.microvm.account.bytes.is_full(),
        }
    }

    /// Returns when the connection may get a further piece of a response.
    pub(in crate::proxy) async fn turn(self: Arc<Self>) {
        let gauges = [&self.bytes, &self.microvm.account.bytes];
        let _waiting = Waiting::at(gauges);
        loop {
            let [own, all] = gauges.map(|gauge| gauge.fewer.notified());
            let (mut own, mut all) = (pin!(own), pin!(all));
            own.as_mut().enable();
            all.as_mut().enable();
            if self.may_take() {
                return;
            }
            tokio::select! {
                () = own => {}
                () = all => {}
            }
        }
    }

    /// Counts a piece of a response until it has been written.
    pub(in crate::proxy) fn piece(self: &Arc<Self>, bytes: Bytes) -> Piece {
        let size = bytes.len();
        self.bytes.add(size);
        self.microvm.account.bytes.add(size);
        Piece { bytes, counted: Some((Arc::clone(self), size)) }
    }

    /// Sets bytes aside for what a client may send before it is read. The requests of a connection share its window.
    ///
    /// # Errors
    /// [`ShareTaken::AccountBytes`].
    pub(in crate::proxy) fn room(self: &Arc<Self>, size: usize) -> Result<Room, ShareTaken> {
        let before = self.uploads.fetch_add(size, Ordering::SeqCst);
        let more = windowed(before.saturating_add(size)).saturating_sub(windowed(before));
        let account = &self.microvm.account.bytes;
        let held = account.add(more);
        let room = Room { seat: Arc::clone(self), size };
        if more > 0 && held > account.most {
            return Err(ShareTaken::AccountBytes(account.most));
        }
        Ok(room)
    }
}

/// What the connection's window leaves of the windows of its streams together.
fn windowed(streams: usize) -> usize {
    streams.min(usize::try_from(WINDOWS.1).unwrap_or(usize::MAX))
}

/// Bytes that are set aside until this is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Room {
    seat: Arc<Seat>,
    size: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let before = self.seat.uploads.fetch_sub(self.size, Ordering::SeqCst);
        let less = windowed(before).saturating_sub(windowed(before.saturating_sub(self.size)));
        self.seat.microvm.account.bytes.release(less);
    }
}

/// Bytes of a request that are kept until its answer begins, so that it can be sent again. They count for the account.
#[derive(Debug)]
pub(in crate::proxy) struct Kept {
    seat: Arc<Seat>,
    bytes: Vec<u8>,
}

impl Kept {
    /// Nothing yet.
    pub(in crate::proxy) fn of(seat: &Arc<Seat>) -> Self {
        Self { seat: Arc::clone(seat), bytes: Vec::new() }
    }

    /// Keeps further bytes. Returns false if these would be more than `most`, or more than the account may hold.
    pub(in crate::proxy) fn push(&mut self, data: &[u8], most: usize) -> bool {
        let account = &self.seat.microvm.account.bytes;
        if self.bytes.len().saturating_add(data.len()) > most {
            return false;
        }
        let held = account.add(data.len());
        self.bytes.extend_from_slice(data);
        held <= account.most
    }

    pub(in crate::proxy) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.seat.microvm.account.bytes.release(self.bytes.len());
    }
}

/// A piece of a response. Unless it is a text of the endpoint itself, it is counted until it is dropped, which HTTP does as
/// soon as it has written the piece.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    counted: Option<(Arc<Seat>, usize)>,
}

impl Piece {
    /// A piece that is not counted.
    #[must_use]
    pub fn text(bytes: Bytes) -> Self {
        Self { bytes, counted: None }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some((seat, size)) = self.counted.take() {
            seat.bytes.release(size);
            seat.microvm.account.bytes.release(size);
        }
    }
}
