//! From the guest to the backend.

use std::io;

use super::super::DeviceError;
use super::super::drain::Wakeup;
use super::super::queue::{Chain, QueueState, VirtQueue};
use super::backend::Backend;
use super::throttle::Throttle;
use super::{HEADER_LEN, MAX_PACKET_LEN};

/// Bytes of an Ethernet header, the least a packet has.
const ETHERNET_HEADER: usize = 14;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) drops: u64,
    pub(super) errors: u64,
}

/// What a run ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything is sent, or the wake-up goes on.
    Done,
    /// The backend has no room: go on when it is writable.
    WaitWritable,
    /// The rate limiter's timer goes on.
    WaitTimer,
}

/// The transmit queue.
#[derive(Debug)]
pub(super) struct Transmitter {
    queue: VirtQueue,
    chain: Chain,
    /// The packet at the head of the queue has paid its tokens already.
    paid: bool,
}

impl Transmitter {
    pub(super) fn new(queue: VirtQueue) -> Self {
        Self { queue, chain: Chain::new(), paid: false }
    }

    /// What a snapshot keeps of the queue.
    pub(super) fn queue_state(&self) -> QueueState {
        self.queue.state()
    }

    /// Sends what the guest has made available until a packet has to wait, at most a queue's worth; then
    /// `more` is signalled. With `wait` false, packets that have no room are dropped.
    ///
    /// # Errors
    /// When the driver broke the queue.
    pub(super) fn run(
        &mut self,
        backend: &Backend,
        throttle: &mut Throttle,
        more: &Wakeup,
        wait: bool,
        counters: &mut Counters,
    ) -> Result<Outcome, DeviceError> {
        self.queue.disable_notification()?;
        let mut outcome = None;
        for _ in 0..=self.queue.size() {
            if !self.queue.pop(&mut self.chain)? {
                if !self.queue.enable_notification()? {
                    outcome = Some(Outcome::Done);
                    break;
                }
                continue;
            }
            outcome = self.send(backend, throttle, wait, counters)?;
            if outcome.is_some() {
                self.queue.undo_pop(1);
                break;
            }
            self.paid = false;
            self.queue.push_used(self.chain.head(), 0)?;
        }
        self.queue.notify()?;
        Ok(outcome.unwrap_or_else(|| {
            more.signal();
            Outcome::Done
        }))
    }

    /// Sends or drops the packet in `chain`; `Some` when it has to wait.
    fn send(
        &mut self,
        backend: &Backend,
        throttle: &mut Throttle,
        wait: bool,
        counters: &mut Counters,
    ) -> Result<Option<Outcome>, DeviceError> {
        let length = self.chain.readable_len();
        if !(HEADER_LEN + ETHERNET_HEADER..=MAX_PACKET_LEN).contains(&length) {
            counters.drops += 1;
            return Ok(None);
        }
        let payload = length - HEADER_LEN;
        if !self.paid {
            if !throttle.admit(payload).map_err(DeviceError::backend("arming the transmit limit's timer"))? {
                return Ok(Some(Outcome::WaitTimer));
            }
            self.paid = true;
        }
        // SAFETY: the chain's buffers are mapped guest memory.
        match unsafe { backend.write(self.chain.readable()) } {
            Ok(_) => {
                counters.packets += 1;
                counters.bytes += payload as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if wait {
                    return Ok(Some(Outcome::WaitWritable));
                }
                counters.drops += 1;
            }
            // A packet that the kernel does not take (a nonsensical header, an interface that is down) is lost,
            // as on a wire.
            Err(_) => counters.errors += 1,
        }
        Ok(None)
    }
}
