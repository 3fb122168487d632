//! Saves a virtio-mmio transport into a snapshot and restores it.

use hearth_proto::vmm::v1::{SavedQueue, SavedVirtio};

use super::mmio::MmioTransport;
use super::queue::QueueState;
use super::{DeviceError, VIRTIO_F_EVENT_IDX, VirtioDevice};

/// Why a device could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot has a device of another type at this place.
    #[error("the snapshot has a virtio device of type {saved} here, the machine one of type {own}")]
    Type {
        /// The type in the snapshot.
        saved: u32,
        /// The type in the machine.
        own: u32,
    },
    /// The queues are not valid for the device.
    #[error("the snapshot's queues are not this device's: {0}")]
    Queues(String),
    /// The guest uses features that the device does not offer.
    #[error(
        "the snapshot's guest uses features {0:#x} of the device that it does not have here: attach it as it was attached"
    )]
    Features(u64),
    /// The device's own state belongs to a device of another type.
    #[error("the snapshot has something for this device that belongs to one of another type")]
    Part,
    /// The disk has another size than the snapshot's disk.
    #[error(
        "the snapshot's disk has {saved} sectors of 512 bytes, the one that was passed has {own}: pass the snapshot's disk or a copy of it"
    )]
    DiskSize {
        /// Size in the snapshot, in sectors of 512 bytes.
        saved: u64,
        /// Size of the disk that was passed, in sectors of 512 bytes.
        own: u64,
    },
    /// The device refused its queues.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn saved_queue(state: &QueueState) -> SavedQueue {
    SavedQueue {
        max_size: state.max_size.into(),
        size: state.size.into(),
        ready: state.ready,
        descriptor_table: state.desc_table,
        available_ring: state.avail_ring,
        used_ring: state.used_ring,
        next_available: state.next_avail.into(),
        next_used: state.next_used.into(),
    }
}

fn queue_state(
    saved: &SavedQueue,
    own: &QueueState,
    event_idx_enabled: bool,
) -> Result<QueueState, RestoreError> {
    let number = |value: u32, what: &str| {
        u16::try_from(value).map_err(|_| RestoreError::Queues(format!("{what} is {value}")))
    };
    let (max_size, size) = (number(saved.max_size, "the largest size")?, number(saved.size, "the size")?);
    if max_size != own.max_size || !size.is_power_of_two() || size > max_size {
        return Err(RestoreError::Queues(format!(
            "{size} of at most {max_size} entries, here at most {}",
            own.max_size
        )));
    }
    Ok(QueueState {
        max_size,
        size,
        ready: saved.ready,
        desc_table: saved.descriptor_table,
        avail_ring: saved.available_ring,
        used_ring: saved.used_ring,
        next_avail: number(saved.next_available, "the next available index")?,
        next_used: number(saved.next_used, "the next used index")?,
        event_idx_enabled,
    })
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// State of the transport and its device for a snapshot. The device must be quiesced.
    #[must_use]
    pub fn save(&self) -> SavedVirtio {
        let live = if self.active { self.device.queue_states() } else { Vec::new() };
        let queues = self
            .queues
            .iter()
            .enumerate()
            .map(|(index, queue)| saved_queue(live.get(index).and_then(Option::as_ref).unwrap_or(queue)));
        SavedVirtio {
            device_type: self.device.device_type() as u32,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            driver_features: self.driver_features,
            queue_select: self.queue_select,
            status: self.status,
            interrupt_status: self.interrupt.status(),
            config_generation: self.config_generation,
            active: self.active,
            queues: queues.collect(),
            device: self.device.save(),
        }
    }

    /// Restores the state that [`Self::save`] returned, in a new transport. Pending interrupts are not raised.
    ///
    /// # Errors
    /// [`RestoreError`]; the transport must not be used then.
    pub fn restore(&mut self, saved: &SavedVirtio) -> Result<(), RestoreError> {
        let own = self.device.device_type() as u32;
        if saved.device_type != own {
            return Err(RestoreError::Type { saved: saved.device_type, own });
        }
        if saved.queues.len() != self.queues.len() {
            let (there, here) = (saved.queues.len(), self.queues.len());
            return Err(RestoreError::Queues(format!("{there} there, {here} here")));
        }
        let unknown = saved.driver_features & !self.device.offered_features();
        if saved.active && unknown != 0 {
            return Err(RestoreError::Features(unknown));
        }
        let event_idx = saved.driver_features & VIRTIO_F_EVENT_IDX != 0;
        let queues = saved.queues.iter().zip(&self.queues);
        self.queues =
            queues.map(|(saved, own)| queue_state(saved, own, event_idx)).collect::<Result<_, _>>()?;
        self.device_features_select = saved.device_features_select;
        self.driver_features_select = saved.driver_features_select;
        self.driver_features = saved.driver_features;
        self.queue_select = saved.queue_select;
        self.status = saved.status;
        self.config_generation = saved.config_generation;
        self.interrupt.restore(saved.interrupt_status);
        if let Some(device) = &saved.device {
            self.device.restore(device)?;
        }
        if saved.active {
            self.activate()?;
            self.active = true;
            self.device.restored()?;
        }
        Ok(())
    }
}
