//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2).
//!
//! ```text
//!            ACKNOWLEDGE|DRIVER       FEATURES_OK              DRIVER_OK
//!   Reset ──────────────────────► Negotiating ──► QueueSetup ───────────► Active
//!     ▲                                                                     │ device error
//!     └────────────────────────── status := 0 ◄─────────────────── NeedsReset
//! ```
//!
//! The status register is the state; a write in a state that does not allow it is ignored, as is any
//! access below the configuration space that is not an aligned 32-bit one. Queue notifications normally
//! arrive through ioeventfds; where they do not, a write to the register signals the same event.

use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_NEEDS_RESET,
};
use virtio_bindings::virtio_mmio as reg;
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::queue::{QueueState, VirtQueue};
use super::{Activation, DeviceError, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1, VirtioDevice};
use crate::devices::bus::MmioDevice;
use crate::event_loop::{Interest, Poller, QUEUE_TOKEN, Ready, borrow};
use crate::memory::GuestMemory;

/// Size of one transport's address window in bytes.
pub const MMIO_WINDOW: u64 = 0x1000;
/// Offset of the register to which a driver writes a queue's index in order to notify the device.
pub const QUEUE_NOTIFY_OFFSET: u64 = reg::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

const MAGIC: u32 = 0x7472_6976; // "virt"
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"HRTH");
const CONFIG_SPACE: u64 = reg::VIRTIO_MMIO_CONFIG as u64;
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// A device behind the transport's registers.
#[derive(Debug)]
pub struct MmioTransport<D> {
    pub(super) device: D,
    memory: GuestMemory,
    pub(super) interrupt: Arc<Interrupt>,
    poller: Poller,
    queue_events: Vec<EventFd>,
    pub(super) queues: Vec<QueueState>,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u32,
    pub(super) status: u32,
    pub(super) config_generation: u32,
    pub(super) active: bool,
    failures: u64,
    last_failure: Option<String>,
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// Puts `device` behind a transport. The caller still has to register `interrupt` and the queue events with KVM.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(device: D, memory: GuestMemory, interrupt: EventFd, poller: Poller) -> std::io::Result<Self> {
        let mut queue_events = Vec::new();
        for (token, _) in (QUEUE_TOKEN..).zip(device.queue_max_sizes()) {
            let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            poller.add(&borrow(&event), token, Interest::READ)?;
            queue_events.push(event);
        }
        let mut transport = Self {
            device,
            memory,
            interrupt: Arc::new(Interrupt::new(interrupt)),
            poller,
            queue_events,
            queues: Vec::new(),
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            status: 0,
            config_generation: 0,
            active: false,
            failures: 0,
            last_failure: None,
        };
        transport.clear();
        Ok(transport)
    }

    /// The device itself, mutable for changes that the host makes at run time.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The device itself.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The interrupt line, to be registered as an irqfd.
    #[must_use]
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// One event per queue, to be registered as an ioeventfd on [`QUEUE_NOTIFY_OFFSET`] with the queue's index.
    #[must_use]
    pub fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    /// Whether a driver has activated the device.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Number of times the device was stopped because of an error of its driver or backend, and the last error's text.
    #[must_use]
    pub fn failures(&self) -> (u64, Option<&str>) {
        (self.failures, self.last_failure.as_deref())
    }

    /// Notifies the driver that the configuration space changed.
    pub fn config_changed(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        if self.active {
            self.interrupt.config_change();
        }
    }

    /// Handles an event from the device thread's event loop.
    pub fn handle(&mut self, ready: Ready) {
        let result = match ready.token.checked_sub(QUEUE_TOKEN) {
            Some(queue) => {
                if let Some(event) = self.queue_events.get(usize::from(queue)) {
                    let _ = event.read(); // reset the counter; it is 0 already after a spurious wake-up
                }
                if !self.active {
                    return;
                }
                self.device.queue_notified(usize::from(queue))
            }
            None if self.active => self.device.event(ready.token, ready.events),
            None => return,
        };
        self.stop_on_error(result);
    }

    /// Finishes the device's requests in flight, at a descriptor boundary.
    pub fn quiesce(&mut self) {
        if self.active {
            let result = self.device.quiesce();
            self.stop_on_error(result);
        }
    }

    /// Makes the device check every queue once, after a pause during which notifications may have been lost.
    pub fn kick(&self) {
        for event in &self.queue_events {
            let _ = event.write(1); // fails only when it is signalled already
        }
    }

    fn stop_on_error(&mut self, result: Result<(), DeviceError>) {
        let Err(error) = result else { return };
        self.device.reset();
        self.active = false;
        self.failures += 1;
        self.last_failure = Some(error.to_string());
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        self.interrupt.config_change();
    }

    fn clear(&mut self) {
        let empty = |&max_size: &u16| QueueState { max_size, size: max_size, ..QueueState::default() };
        self.queues = self.device.queue_max_sizes().iter().map(empty).collect();
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.status = 0;
        self.active = false;
        self.interrupt.acknowledge(u32::MAX);
    }

    fn queue(&mut self) -> Option<&mut QueueState> {
        self.queues.get_mut(usize::try_from(self.queue_select).ok()?)
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    fn may_negotiate(&self) -> bool {
        self.status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED) == 0
    }

    fn may_set_up_queues(&self) -> bool {
        let blocked = VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;
        self.has(VIRTIO_CONFIG_S_FEATURES_OK) && self.status & blocked == 0
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            self.device.reset();
            self.clear();
            return;
        }
        // The driver must not set NEEDS_RESET, which belongs to the device, and bits are only ever added (2.1.1).
        let mut added = value & !self.status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        if added & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            let unknown = self.driver_features & !self.device.offered_features();
            if unknown != 0 || self.driver_features & VIRTIO_F_VERSION_1 == 0 {
                added &= !(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
            }
        }
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 && (self.status | added) & VIRTIO_CONFIG_S_FEATURES_OK == 0
        {
            added &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        let start = added & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.status & VIRTIO_CONFIG_S_NEEDS_RESET == 0;
        self.status |= added;
        if start {
            let result = self.activate();
            self.active = result.is_ok();
            self.stop_on_error(result);
        }
        if added & VIRTIO_CONFIG_S_FAILED != 0 {
            self.device.reset();
            self.active = false;
        }
    }

    pub(super) fn activate(&mut self) -> Result<(), DeviceError> {
        let event_idx_enabled = self.driver_features & VIRTIO_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for state in &self.queues {
            queues.push(if state.ready {
                let state = QueueState { event_idx_enabled, ..*state };
                Some(VirtQueue::new(state, self.memory.clone(), Arc::clone(&self.interrupt))?)
            } else {
                None
            });
        }
        self.device.activate(Activation {
            memory: self.memory.clone(),
            queues,
            features: self.driver_features,
            interrupt: Arc::clone(&self.interrupt),
            poller: self.poller.clone(),
        })
    }

    fn read_register(&mut self, offset: u32) -> u32 {
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device.device_type() as u32,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => {
                half(self.device.offered_features(), self.device_features_select)
            }
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => self.queue().map_or(0, |queue| u32::from(queue.max_size)),
            reg::VIRTIO_MMIO_QUEUE_READY => self.queue().map_or(0, |queue| u32::from(queue.ready)),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            reg::VIRTIO_MMIO_STATUS => self.status,
            reg::VIRTIO_MMIO_SHM_LEN_LOW
            | reg::VIRTIO_MMIO_SHM_LEN_HIGH
            | reg::VIRTIO_MMIO_SHM_BASE_LOW
            | reg::VIRTIO_MMIO_SHM_BASE_HIGH => NO_SHARED_MEMORY,
            reg::VIRTIO_MMIO_CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES if self.may_negotiate() => {
                set_half(&mut self.driver_features, self.driver_features_select, value);
            }
            reg::VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => {
                if let Some(event) =
                    usize::try_from(value).ok().and_then(|queue| self.queue_events.get(queue))
                {
                    let _ = event.write(1); // fails only when it is signalled already
                }
            }
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::VIRTIO_MMIO_STATUS => self.write_status(value),
            _ if self.may_set_up_queues() => self.write_queue_register(offset, value),
            _ => {}
        }
    }

    fn write_queue_register(&mut self, offset: u32, value: u32) {
        let Some(queue) = self.queue() else { return };
        match offset {
            reg::VIRTIO_MMIO_QUEUE_READY => queue.ready = value == 1,
            _ if queue.ready => {}
            reg::VIRTIO_MMIO_QUEUE_NUM => {
                // An invalid size has no effect: the queue keeps its last valid size. The driver cannot read the size
                // back, but the queue is checked again when it starts.
                let size = u16::try_from(value).unwrap_or(0);
                if size.is_power_of_two() && size <= queue.max_size {
                    queue.size = size;
                }
            }
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut queue.desc_table, 0, value),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut queue.desc_table, 1, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut queue.avail_ring, 0, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut queue.avail_ring, 1, value),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut queue.used_ring, 0, value),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut queue.used_ring, 1, value),
            _ => {}
        }
    }
}

/// The low (`select` is 0) or high (1) half of a 64-bit register; other selectors read as zero.
fn half(value: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

/// Replaces the low (`select` is 0) or high (1) half of a 64-bit register; other selectors change nothing.
fn set_half(register: &mut u64, select: u32, value: u32) {
    match select {
        0 => *register = *register & !0xffff_ffff | u64::from(value),
        1 => *register = *register & 0xffff_ffff | u64::from(value) << 32,
        _ => {}
    }
}

impl<D: VirtioDevice> MmioDevice for MmioTransport<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            self.device.read_config(offset, data);
        } else if let (Ok(data), Ok(offset), true) =
            (<&mut [u8; 4]>::try_from(data), u32::try_from(offset), offset.is_multiple_of(4))
        {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            self.device.write_config(offset, data);
        } else if let (Ok(data), Ok(offset), true) =
            (<[u8; 4]>::try_from(data), u32::try_from(offset), offset.is_multiple_of(4))
        {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}

#[cfg(test)]
mod tests;
