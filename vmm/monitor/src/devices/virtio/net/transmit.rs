//! The transmit direction: packets from the guest to the backend.

use std::io;

use super::super::DeviceError;
use super::super::drain::Wakeup;
use super::super::queue::{Chain, QueueState, VirtQueue};
use super::backend::Backend;
use super::throttle::Throttle;
use super::{Counters, HEADER_LEN, MAX_PACKET_LEN};

/// Size of an Ethernet header in bytes, which is the smallest packet.
const ETHERNET_HEADER: usize = 14;

/// Why a run stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every packet is sent, or the wake-up is signalled and continues.
    Done,
    /// The backend has no room: continue when it is writable.
    WaitWritable,
    /// The rate limit is reached: continue when the timer expires.
    WaitTimer,
}

/// The transmit queue.
#[derive(Debug)]
pub(super) struct Transmitter {
    queue: VirtQueue,
    chain: Chain,
    /// Whether the packet at the head of the queue has already paid its tokens.
    paid: bool,
}

impl Transmitter {
    pub(super) fn new(queue: VirtQueue) -> Self {
        Self { queue, chain: Chain::new(), paid: false }
    }

    /// State of the queue, for a snapshot.
    pub(super) fn queue_state(&self) -> QueueState {
        self.queue.state()
    }

    /// Sends the packets that the guest has made available until one has to wait. After at most one queue length of
    /// packets (plus one), signals `more` and stops. If `wait` is false, drops packets for which there is no room.
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

    /// Sends or drops the packet in `self.chain`; returns `Some` when the packet has to wait.
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
            // A packet that the kernel refuses (an invalid header, an interface that is down) is lost, as on a wire.
            Err(_) => counters.errors += 1,
        }
        Ok(None)
    }
}
