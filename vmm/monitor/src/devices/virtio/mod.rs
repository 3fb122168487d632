//! Virtio 1.2 devices over the MMIO transport.
//!
//! [`mmio::MmioTransport`] owns what all devices share – registers, feature negotiation, the device status
//! machine, queue set-up, interrupts – and drives a [`VirtioDevice`], which owns only its queues' contents
//! and its backend. [`queue::VirtQueue`] is the only code that walks rings and descriptor chains.
//!
//! Threads: register accesses come from vCPU threads, queue notifications and backend events from the device
//! thread. Both hold the transport's lock, so a device needs no lock of its own. A device that finds something
//! that the specification forbids returns a [`DeviceError`]: the transport then resets the device, sets
//! `DEVICE_NEEDS_RESET` and notifies the driver (virtio 1.2, 2.1.2). The guest has broken only its own device.

pub mod balloon;
pub mod block;
pub mod drain;
pub mod interrupt;
pub mod mmio;
pub mod net;
pub mod persist;
pub mod queue;
pub mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vsock;

use std::io;
use std::sync::Arc;

use hearth_proto::vmm::v1::saved_virtio;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;

use crate::event_loop::Poller;
use crate::memory::GuestMemory;
use interrupt::Interrupt;
use persist::RestoreError;
use queue::{QueueError, QueueState, VirtQueue};

use crate::rate_limiter::RateLimiterError;

/// Feature bit: the device follows virtio 1.0 or later (6, Reserved Feature Bits).
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// Feature bit: interrupts and notifications are suppressed by ring index (2.7.10).
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
/// Feature bit: descriptors may point to indirect tables (2.7.5.3).
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
/// Features that every device offers in addition to its own.
pub const COMMON_FEATURES: u64 = VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;

/// Virtio device types (5, Device Types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DeviceType {
    /// Network card (5.1).
    Net = 1,
    /// Block device (5.2).
    Block = 2,
    /// Entropy device (5.4).
    Rng = 4,
    /// Traditional memory balloon (5.5).
    Balloon = 5,
    /// Socket device (5.10).
    Vsock = 19,
}

/// Why a device stopped; the driver sees `DEVICE_NEEDS_RESET`.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver broke the rules of a queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The driver's request is not valid for this device.
    #[error("the driver's request breaks the specification: {0}")]
    Protocol(&'static str),
    /// A rate limit is out of range.
    #[error(transparent)]
    Limit(#[from] RateLimiterError),
    /// The device's backend failed.
    #[error("{what} failed: {source}")]
    Backend {
        /// The operation that failed.
        what: &'static str,
        /// Error from the host.
        source: io::Error,
    },
}

impl DeviceError {
    /// For `map_err`: a backend failure while doing `what`.
    pub fn backend(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Backend { what, source }
    }
}

/// What the transport hands to a device when its driver is ready (`DRIVER_OK`).
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub memory: GuestMemory,
    /// One entry per queue of [`VirtioDevice::queue_max_sizes`]; `None` where the driver set up none.
    pub queues: Vec<Option<VirtQueue>>,
    /// The negotiated features.
    pub features: u64,
    /// Raises configuration-change interrupts; queues raise their own.
    pub interrupt: Arc<Interrupt>,
    /// Watches backend descriptors, with tokens below [`crate::event_loop::QUEUE_TOKEN`].
    pub poller: Poller,
}

impl Activation {
    /// Takes queue `index`, which the device requires.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] when the driver did not set up the queue.
    pub fn require_queue(&mut self, index: usize) -> Result<VirtQueue, DeviceError> {
        let queue = self.queues.get_mut(index).and_then(Option::take);
        queue.ok_or(DeviceError::Protocol("DRIVER_OK without a queue that the device needs"))
    }
}

/// A device behind the transport. All methods are called with the transport's lock held.
pub trait VirtioDevice: Send {
    /// The device's type.
    fn device_type(&self) -> DeviceType;
    /// The largest size of each of the device's queues: powers of two up to 32,768.
    fn queue_max_sizes(&self) -> &[u16];
    /// The features that the device offers, including [`COMMON_FEATURES`].
    fn offered_features(&self) -> u64;
    /// The driver reads `data.len()` bytes of the configuration space at `offset`. Bytes past its end stay zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// The driver writes to configuration space. Ignored unless the device has writable fields.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// The driver is ready: take the queues and start.
    ///
    /// # Errors
    /// When queues or features are not valid, or the backend cannot be started.
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError>;
    /// Returns to the state before activation: drops the queues, stops watching descriptors, and finishes or cancels
    /// the requests in progress. Afterwards the device accesses no guest memory. Also called on a device that is not
    /// activated.
    fn reset(&mut self);
    /// The driver made buffers available in queue `queue`. Only called while activated.
    ///
    /// # Errors
    /// When a queue or the backend is broken; the transport resets the device.
    fn queue_notified(&mut self, queue: usize) -> Result<(), DeviceError>;
    /// A descriptor registered with the poller is ready. Only called while activated.
    ///
    /// # Errors
    /// When a queue or the backend is broken; the transport resets the device.
    fn event(&mut self, token: u16, events: u32) -> Result<(), DeviceError>;
    /// Finishes the requests in progress, at a descriptor boundary, so that no write to guest memory is left in
    /// flight; the vCPUs and the device thread are about to stop. Only called while activated.
    ///
    /// # Errors
    /// When a queue or the backend is broken.
    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// State of the device's queues by index, for a snapshot. Only called while activated and quiesced.
    fn queue_states(&self) -> Vec<Option<QueueState>>;
    /// State of the device for a snapshot, in addition to its queues.
    fn save(&self) -> Option<saved_virtio::Device> {
        None
    }
    /// Takes over the state that [`Self::save`] returned. Called before activation.
    ///
    /// # Errors
    /// When the state belongs to another kind of device, or is not valid for this one.
    fn restore(&mut self, _saved: &saved_virtio::Device) -> Result<(), RestoreError> {
        Err(RestoreError::Part)
    }
    /// Called after the device was activated with the queues of a snapshot: the peers of its backend from before the
    /// snapshot are gone.
    ///
    /// # Errors
    /// When the device cannot reset its connections or notify its driver.
    fn restored(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// Changes the limits that are this kind of device's. Requests that wait are tried again. A limit that is as before keeps
    /// the level of its buckets.
    ///
    /// # Errors
    /// When a limit is out of range, or the host fails.
    fn set_limits(&mut self, _limits: DeviceLimits) -> Result<(), DeviceError> {
        Ok(())
    }
    /// The device's counters, by name.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}

/// Copies the part of `config` at `offset` into `data`, for [`VirtioDevice::read_config`].
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let Some(rest) = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)) else { return };
    let length = rest.len().min(data.len());
    if let (Some(to), Some(from)) = (data.get_mut(..length), rest.get(..length)) {
        to.copy_from_slice(from);
    }
}
