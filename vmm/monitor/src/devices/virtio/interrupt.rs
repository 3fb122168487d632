//! The interrupt line of a virtio-mmio device: the status register, and the eventfd that KVM turns into an
//! edge on the GIC (irqfd).

use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// `InterruptStatus` bit: the device used buffers in a queue.
const USED_BUFFER: u32 = 1;
/// `InterruptStatus` bit: the configuration or the device status changed.
const CONFIG_CHANGE: u32 = 2;

/// The interrupt line of one device. Any thread may raise it.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    event: EventFd,
}

impl Interrupt {
    /// Makes a line that is not raised and signals through `event`.
    #[must_use]
    pub fn new(event: EventFd) -> Self {
        Self { status: AtomicU32::new(0), event }
    }

    /// The descriptor to register as an irqfd.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Value of the register `InterruptStatus`.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// Restores a saved `InterruptStatus` without raising the line.
    pub fn restore(&self, status: u32) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Handles a write to `InterruptACK`: clears the bits that the driver has handled.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Notifies the driver that buffers were used.
    pub fn used_buffer(&self) {
        self.raise(USED_BUFFER);
    }

    /// Notifies the driver that the configuration or the device status changed.
    pub fn config_change(&self) {
        self.raise(CONFIG_CHANGE);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // An eventfd write fails only when its counter is full: then the line is raised already.
        let _ = self.event.write(1);
    }
}
