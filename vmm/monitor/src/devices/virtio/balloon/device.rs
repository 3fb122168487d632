//! The balloon device: configuration space, queues and counters.

use std::io;

use hearth_proto::vmm::v1::{SavedBalloon, saved_virtio};
use hearth_vmm_api::config::BalloonConfig;

use super::super::drain::{Wakeup, drain};
use super::super::persist::RestoreError;
use super::super::queue::{Chain, QueueState, VirtQueue};
use super::super::{Activation, COMMON_FEATURES, DeviceError, DeviceType, VirtioDevice, read_config_bytes};
use super::reclaim::{PAGE_SIZE, Reclaimer, page_count};
use super::stats::GuestStats;
use crate::event_loop::{Interest, Poller};
use crate::memory::{GuestMemory, MIB};

/// Balloon pages in one MiB.
const PAGES_PER_MIB: u64 = MIB / PAGE_SIZE;

/// Feature bit: the guest reports statistics.
pub(super) const STATS_VQ: u64 = 1 << 1;
/// Feature bit: the guest takes pages back instead of killing processes when it lacks memory.
pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
/// Feature bit: the guest reports free pages.
pub(super) const REPORTING: u64 = 1 << 5;

/// Largest size of each queue. Linux reports up to 32 free ranges at once and refuses shorter queues.
pub(super) const QUEUE_SIZE: u16 = 64;
/// Number of queues: inflate, deflate, and up to three more.
const QUEUES: usize = 5;
/// Offset of `actual` in configuration space.
const ACTUAL_OFFSET: u64 = 4;
/// Token of the device's own [`Wakeup`].
const MORE: u16 = 0;

/// Why the balloon refused a request.
#[derive(Debug, thiserror::Error)]
pub enum BalloonError {
    /// The target exceeds the guest's memory.
    #[error(
        "a balloon of {target_mib} MiB does not fit a microVM of {memory_mib} MiB; give a smaller target"
    )]
    Target {
        /// The requested size in MiB.
        target_mib: u32,
        /// The guest's memory in MiB.
        memory_mib: u64,
    },
    /// The driver has not negotiated statistics, or has not answered the last request yet.
    #[error(
        "the guest has no statistics buffer available: its driver is not up, or still busy with the last request"
    )]
    NoStats,
    /// The statistics queue is broken.
    #[error("cannot ask the guest for statistics: {0}")]
    Device(#[from] DeviceError),
    /// The host has no descriptors left.
    #[error("cannot make the balloon's wake-up event: {0}; raise the limit on open files")]
    Descriptors(#[from] io::Error),
}

/// State of the balloon that a snapshot keeps in addition to its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonState {
    /// Size to which the guest is to inflate the balloon, in pages of [`PAGE_SIZE`].
    pub target_pages: u32,
    /// Size of the balloon that the guest reported, in pages of [`PAGE_SIZE`].
    pub actual_pages: u32,
}

#[derive(Debug, Default)]
struct Counters {
    inflated_pages: u64,
    deflated_pages: u64,
    reported_bytes: u64,
}

#[derive(Debug)]
struct Active {
    memory: GuestMemory,
    poller: Poller,
    queues: [Option<VirtQueue>; QUEUES],
    /// Index of the statistics queue, if the feature was negotiated; `reporting` is that of the reporting queue.
    stats: Option<usize>,
    reporting: Option<usize>,
    /// Head of the driver's statistics buffer, which the device keeps until it requests new statistics.
    stats_buffer: Option<u16>,
}

/// The balloon device.
#[derive(Debug)]
pub struct Balloon {
    /// Size of the guest's memory in MiB, which the balloon cannot exceed.
    memory_mib: u64,
    free_page_reporting: bool,
    state: BalloonState,
    guest_stats: GuestStats,
    counters: Counters,
    reclaimer: Reclaimer,
    more: Wakeup,
    chain: Chain,
    active: Option<Active>,
}

impl Balloon {
    /// Makes a deflated balloon with the target of `config`, for a guest with `memory_mib` MiB of memory.
    ///
    /// # Errors
    /// [`BalloonError::Target`] when the target exceeds the memory, [`BalloonError::Descriptors`].
    pub fn new(config: BalloonConfig, memory_mib: u64) -> Result<Self, BalloonError> {
        let mut balloon = Self {
            memory_mib,
            free_page_reporting: config.free_page_reporting,
            state: BalloonState { target_pages: 0, actual_pages: 0 },
            guest_stats: GuestStats::default(),
            counters: Counters::default(),
            reclaimer: Reclaimer::new(),
            more: Wakeup::new()?,
            chain: Chain::new(),
            active: None,
        };
        balloon.set_target_mib(config.target_mib)?;
        Ok(balloon)
    }

    /// Sets the size to which the guest is to inflate or deflate the balloon, in MiB. The caller then notifies the
    /// driver with [`super::super::mmio::MmioTransport::config_changed`].
    ///
    /// # Errors
    /// [`BalloonError::Target`] when the size exceeds the guest's memory.
    pub fn set_target_mib(&mut self, mib: u32) -> Result<(), BalloonError> {
        let refused = BalloonError::Target { target_mib: mib, memory_mib: self.memory_mib };
        let pages = u32::try_from(u64::from(mib) * PAGES_PER_MIB).ok();
        let Some(pages) = pages.filter(|_| u64::from(mib) <= self.memory_mib) else {
            return Err(refused);
        };
        self.state.target_pages = pages;
        Ok(())
    }

    /// Target size and actual size.
    #[must_use]
    pub fn state(&self) -> BalloonState {
        self.state
    }

    /// Restores a saved state. Must be called before the device is activated.
    pub fn restore(&mut self, state: BalloonState) {
        self.state = state;
    }

    /// The statistics that the guest reported last.
    #[must_use]
    pub fn guest_stats(&self) -> GuestStats {
        self.guest_stats
    }

    /// Requests new statistics from the guest; [`Self::guest_stats`] returns them once the driver has answered.
    ///
    /// # Errors
    /// [`BalloonError::NoStats`] when no request is possible now, [`BalloonError::Device`] when the driver's queue
    /// is broken.
    pub fn request_stats(&mut self) -> Result<(), BalloonError> {
        let active = self.active.as_mut().ok_or(BalloonError::NoStats)?;
        let head = active.stats_buffer.take().ok_or(BalloonError::NoStats)?;
        let queue = active.stats.and_then(|index| active.queues.get_mut(index)).and_then(Option::as_mut);
        let queue = queue.ok_or(BalloonError::NoStats)?;
        queue.push_used(head, 0).map_err(DeviceError::from)?;
        queue.notify().map_err(DeviceError::from)?;
        Ok(())
    }

    fn serve(&mut self, index: usize) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(Some(queue)) = active.queues.get_mut(index) else { return Ok(()) };
        let (counters, reclaimer, memory) = (&mut self.counters, &mut self.reclaimer, &active.memory);
        let (chain, more) = (&mut self.chain, &self.more);
        match index {
            0 => drain(queue, chain, more, |chain| {
                counters.inflated_pages += reclaimer.pages(memory, chain)?;
                Ok(0)
            }),
            1 => drain(queue, chain, more, |chain| {
                counters.deflated_pages += page_count(chain)? as u64;
                Ok(0)
            }),
            _ if active.reporting == Some(index) => drain(queue, chain, more, |chain| {
                counters.reported_bytes += reclaimer.reported(chain)?;
                Ok(0)
            }),
            _ if active.stats == Some(index) => {
                take_stats(queue, chain, more, &mut active.stats_buffer, &mut self.guest_stats)
            }
            _ => Ok(()),
        }
    }
}

/// Reads the statistics buffers in `queue` and keeps the last one.
fn take_stats(
    queue: &mut VirtQueue,
    chain: &mut Chain,
    more: &Wakeup,
    kept: &mut Option<u16>,
    stats: &mut GuestStats,
) -> Result<(), DeviceError> {
    for _ in 0..=queue.size() {
        if queue.pop(chain)? {
            *stats = GuestStats::parse(chain);
            // A driver has only one statistics buffer; if there are more, the older ones are returned.
            if let Some(older) = kept.replace(chain.head()) {
                queue.push_used(older, 0)?;
                queue.notify()?;
            }
        } else if !queue.enable_notification()? {
            return Ok(());
        }
    }
    more.signal();
    Ok(())
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn offered_features(&self) -> u64 {
        let reporting = if self.free_page_reporting { REPORTING } else { 0 };
        COMMON_FEATURES | STATS_VQ | DEFLATE_ON_OOM | reporting
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [a, b, c, d] = self.state.target_pages.to_le_bytes();
        let [e, f, g, h] = self.state.actual_pages.to_le_bytes();
        read_config_bytes(&[a, b, c, d, e, f, g, h], offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL_OFFSET, Ok(actual)) = (offset, <[u8; 4]>::try_from(data)) {
            self.state.actual_pages = u32::from_le_bytes(actual);
        }
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let mut queues =
            [Some(activation.require_queue(0)?), Some(activation.require_queue(1)?), None, None, None];
        let features = activation.features;
        let mut wanted = [(STATS_VQ, None), (REPORTING, None)];
        let mut optional = wanted.iter_mut().filter(|(feature, _)| features & feature != 0);
        // The specification numbers the queues by function (statistics 2, reporting 4), but Linux on MMIO numbers
        // the negotiated ones consecutively. Both set up the optional queues in the same order and no others.
        for (index, slot) in queues.iter_mut().enumerate().skip(2) {
            if let Some(queue) = activation.queues.get_mut(index).and_then(Option::take)
                && let Some((_, place)) = optional.next()
            {
                *slot = Some(queue);
                *place = Some(index);
            }
        }
        let [(_, stats), (_, reporting)] = wanted;
        self.more.clear();
        let watched = activation.poller.add(&self.more, MORE, Interest::READ);
        watched.map_err(DeviceError::backend("watching the balloon's wake-up"))?;
        self.active = Some(Active {
            memory: activation.memory,
            poller: activation.poller,
            queues,
            stats,
            reporting,
            stats_buffer: None,
        });
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            let _ = active.poller.remove(&self.more); // it was added by `activate`; a failure to remove it does no harm
        }
        // A new driver starts with an empty balloon: the pages that were in the balloon are its memory again.
        self.state.actual_pages = 0;
        self.guest_stats = GuestStats::default();
        self.chain = Chain::new();
    }

    fn queue_notified(&mut self, queue: usize) -> Result<(), DeviceError> {
        self.serve(queue)
    }

    fn event(&mut self, _token: u16, _events: u32) -> Result<(), DeviceError> {
        self.more.clear();
        (0..QUEUES).try_for_each(|queue| self.serve(queue))
    }

    /// Puts the statistics buffer back into its queue, so that the queues hold everything that must be saved. After
    /// the pause, the transport's kick makes the device take the buffer again.
    fn quiesce(&mut self) -> Result<(), DeviceError> {
        if let Some(active) = &mut self.active
            && active.stats_buffer.take().is_some()
            && let Some(Some(queue)) = active.stats.and_then(|index| active.queues.get_mut(index))
        {
            queue.undo_pop(1);
        }
        Ok(())
    }

    fn queue_states(&self) -> Vec<Option<QueueState>> {
        let queues = self.active.iter().flat_map(|active| &active.queues);
        queues.map(|queue| queue.as_ref().map(VirtQueue::state)).collect()
    }

    fn save(&self) -> Option<saved_virtio::Device> {
        let BalloonState { target_pages, actual_pages } = self.state;
        Some(saved_virtio::Device::Balloon(SavedBalloon { target_pages, actual_pages }))
    }

    fn restore(&mut self, saved: &saved_virtio::Device) -> Result<(), RestoreError> {
        let saved_virtio::Device::Balloon(SavedBalloon { target_pages, actual_pages }) = *saved else {
            return Err(RestoreError::Part);
        };
        self.state = BalloonState { target_pages, actual_pages };
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("inflated_pages", self.counters.inflated_pages),
            ("deflated_pages", self.counters.deflated_pages),
            ("reported_bytes", self.counters.reported_bytes),
            ("target_pages", self.state.target_pages.into()),
            ("actual_pages", self.state.actual_pages.into()),
        ]
    }
}
