//! The entropy device (virtio 1.2, 5.4): one queue of buffers that the device fills with random bytes from
//! the host's kernel. The device has no configuration and no state of its own.

#[cfg(test)]
mod tests;

use std::io;

use super::drain::{Wakeup, drain};
use super::queue::{Chain, QueueState, VirtQueue};
use super::{Activation, COMMON_FEATURES, DeviceError, DeviceType, VirtioDevice};
use crate::devices::random;
use crate::event_loop::{Interest, Poller};

/// Largest queue size; small, because a driver has only one or a few requests in progress.
const QUEUE_SIZE: u16 = 16;
/// Largest number of bytes that one request receives; the driver sees the number and requests more. The limit bounds
/// the time that a request takes on the device thread.
pub const MAX_BYTES_PER_REQUEST: usize = 64 * 1024;
/// Token of the device's own [`Wakeup`].
const MORE: u16 = 0;

/// The entropy device.
#[derive(Debug)]
pub struct Rng {
    more: Wakeup,
    chain: Chain,
    active: Option<(VirtQueue, Poller)>,
    requests: u64,
    bytes: u64,
}

impl Rng {
    /// Makes an entropy device that is not activated.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { more: Wakeup::new()?, chain: Chain::new(), active: None, requests: 0, bytes: 0 })
    }

    fn serve(&mut self) -> Result<(), DeviceError> {
        let Some((queue, _)) = &mut self.active else { return Ok(()) };
        let (requests, bytes) = (&mut self.requests, &mut self.bytes);
        drain(queue, &mut self.chain, &self.more, |chain| {
            let mut written = 0;
            for buffer in chain.writable() {
                let length = buffer.iov_len.min(MAX_BYTES_PER_REQUEST - written);
                // SAFETY: the chain's buffers are mapped guest memory, to which no Rust reference exists.
                unsafe { random::fill_raw(buffer.iov_base.cast(), length) }
                    .map_err(DeviceError::backend("getting random bytes"))?;
                written += length;
            }
            *requests += 1;
            *bytes += written as u64;
            // The number is at most `MAX_BYTES_PER_REQUEST`.
            Ok(u32::try_from(written).unwrap_or(u32::MAX))
        })
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn offered_features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let queue = activation.require_queue(0)?;
        self.more.clear();
        let watched = activation.poller.add(&self.more, MORE, Interest::READ);
        watched.map_err(DeviceError::backend("watching the entropy device's wake-up"))?;
        self.active = Some((queue, activation.poller));
        Ok(())
    }

    fn reset(&mut self) {
        if let Some((_, poller)) = self.active.take() {
            let _ = poller.remove(&self.more); // it was added by `activate`; a failure to remove it does no harm
        }
        self.chain = Chain::new();
    }

    fn queue_notified(&mut self, _queue: usize) -> Result<(), DeviceError> {
        self.serve()
    }

    fn event(&mut self, _token: u16, _events: u32) -> Result<(), DeviceError> {
        self.more.clear();
        self.serve()
    }

    fn queue_states(&self) -> Vec<Option<QueueState>> {
        vec![self.active.as_ref().map(|(queue, _)| queue.state())]
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("requests", self.requests), ("bytes", self.bytes)]
    }
}
