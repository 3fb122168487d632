//! The block device: its configuration space, its queue, and when it takes requests.

use std::fmt;
use std::io;

use hearth_proto::vmm::v1::{SavedDisk, saved_virtio};
use hearth_vmm_api::config::DiskConfig;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use virtio_bindings::virtio_blk as blk;

use super::backend::{Disk, DiskError};
use super::io::DiskIo;
use super::map::OverlayMap;
use super::request::{
    self, MAX_DISCARD_SECTORS, MAX_SEGMENTS, MAX_WRITE_ZEROES_SECTORS, Operation, Refused, Request,
    SERIAL_LEN, Status,
};
use super::slots::SLOTS;
use super::{QUEUE_SIZE, SECTOR_SIZE};
use crate::devices::virtio::persist::RestoreError;
use crate::devices::virtio::queue::{Chain, QueueState, VirtQueue};
use crate::devices::virtio::{
    Activation, COMMON_FEATURES, DeviceError, DeviceType, VirtioDevice, read_config_bytes,
};
use crate::event_loop::{Interest, Poller};
use crate::rate_limiter::{LimiterTimer, RateLimiter, RateLimiterError, Wait, monotonic_now};

/// Largest number of data buffers in a request: a full queue minus header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Physical block size of 4 KiB, as the base-2 logarithm of its sectors: the best size for file systems and the
/// underlying disks.
const PHYSICAL_BLOCK_EXP: u8 = 3;
const SECTORS_PER_BLOCK: u8 = 1 << PHYSICAL_BLOCK_EXP;

/// Number of rounds of popping, submitting and completing before other devices are served.
const ROUNDS: u32 = 8;
/// Delay before a submission is retried that the kernel refused for lack of resources.
const RETRY: std::time::Duration = std::time::Duration::from_millis(1);

const COMPLETION: u16 = 0;
const TIMER: u16 = 1;

const fn feature(bit: u32) -> u64 {
    1 << bit
}

/// Why a block device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The disk is not usable.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The serial number is too long or not printable.
    #[error("serial number {0:?} is not usable: it must be at most {SERIAL_LEN} bytes of printable ASCII")]
    Serial(String),
    /// A rate limit is out of range.
    #[error(transparent)]
    RateLimiter(#[from] RateLimiterError),
    /// The host cannot provide a ring or a timer.
    #[error(
        "cannot set up io_uring for the disk: {0}; is kernel.io_uring_disabled 0, and are descriptors left?"
    )]
    Engine(#[source] io::Error),
}

/// Counters of the device's requests, for metrics.
#[derive(Debug, Default)]
struct Counters {
    reads: u64,
    writes: u64,
    read_bytes: u64,
    write_bytes: u64,
    flushes: u64,
    discards: u64,
    write_zeroes: u64,
    errors: u64,
    throttled: u64,
    out_of_room: u64,
}

/// State that exists while a driver has activated the device.
#[derive(Debug)]
struct Active {
    queue: VirtQueue,
    poller: Poller,
    /// Whether requests wait for the rate limiter's timer.
    throttled: bool,
    /// Whether requests wait for a larger bound on storage.
    out_of_room: bool,
}

/// A virtio block device.
pub struct Block {
    io: DiskIo,
    /// The disk's size in sectors.
    sectors: u64,
    features: u64,
    config_space: Vec<u8>,
    serial: [u8; SERIAL_LEN],
    limiter: Option<RateLimiter>,
    timer: LimiterTimer,
    active: Option<Active>,
    counters: Counters,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Block");
        debug.field("io", &self.io).field("limiter", &self.limiter).field("active", &self.active);
        debug.field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Block {
    /// Makes the device. Everything that it needs from the host later (ring, timer, memory for requests) is
    /// set up here, so that afterwards it needs only `io_uring_enter`, `timerfd_settime`, `read` and `write`.
    ///
    /// # Errors
    /// [`BlockError`] when the disk, the serial number or the limits are not usable, or the host lacks resources.
    pub fn new(config: DiskConfig) -> Result<Self, BlockError> {
        let printable = config.serial.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if config.serial.len() > SERIAL_LEN || !printable {
            return Err(BlockError::Serial(config.serial));
        }
        let mut serial = [0; SERIAL_LEN];
        serial.iter_mut().zip(config.serial.bytes()).for_each(|(to, from)| *to = from);
        let limiter = RateLimiter::of(config.rate_limiter, monotonic_now())?;
        let disk = Disk::open(config.source)?;
        let mut features = COMMON_FEATURES
            | feature(blk::VIRTIO_BLK_F_SEG_MAX)
            | feature(blk::VIRTIO_BLK_F_BLK_SIZE)
            | feature(blk::VIRTIO_BLK_F_TOPOLOGY);
        features |= if disk.is_read_only() {
            feature(blk::VIRTIO_BLK_F_RO)
        } else {
            feature(blk::VIRTIO_BLK_F_FLUSH)
                | feature(blk::VIRTIO_BLK_F_DISCARD)
                | feature(blk::VIRTIO_BLK_F_WRITE_ZEROES)
        };
        Ok(Self {
            features,
            sectors: disk.sectors(),
            config_space: config_space(disk.sectors(), disk.is_read_only()),
            io: DiskIo::new(disk, config.room).map_err(BlockError::Engine)?,
            serial,
            limiter,
            timer: LimiterTimer::new().map_err(BlockError::Engine)?,
            active: None,
            counters: Counters::default(),
        })
    }

    /// Takes and processes requests until nothing more can be done without waiting.
    fn run(&mut self) -> Result<(), DeviceError> {
        if self.active.is_none() {
            return Ok(());
        }
        self.io.engine_mut().mute();
        let mut result = Ok(true);
        for _ in 0..ROUNDS {
            result = self.round();
            if !matches!(result, Ok(true)) {
                break;
            }
        }
        // The next turn handles completions that were not seen meanwhile and requests that these rounds left.
        if self.io.engine_mut().unmute() || matches!(result, Ok(true)) {
            self.io.engine().wake();
        }
        result.map(|_| ())
    }

    /// Runs one round; returns `true` when another round could make progress.
    fn round(&mut self) -> Result<bool, DeviceError> {
        self.take_requests()?;
        self.submit()?;
        let came_back = self.io.reap();
        Ok(self.deliver()? || came_back)
    }

    fn submit(&mut self) -> Result<(), DeviceError> {
        let all = self.io.submit().map_err(DeviceError::backend("submitting block I/O"))?;
        if !all && self.io.engine_mut().is_stuck() {
            self.timer.arm(RETRY).map_err(DeviceError::backend("arming the block device's timer"))?;
        }
        Ok(())
    }

    /// Pops requests as long as there are requests and free slots, and the rate limiter lets them pass.
    fn take_requests(&mut self) -> Result<(), DeviceError> {
        let Self { io, active: Some(active), .. } = self else { return Ok(()) };
        if active.throttled || active.out_of_room {
            return Ok(());
        }
        let limits = io.limits();
        active.queue.disable_notification()?;
        // Each iteration takes a slot or finds no more requests, unless the driver manipulates its ring.
        for _ in 0..2 * SLOTS {
            // When all slots are taken, a completion calls this function again; the driver need not notify.
            let Some(index) = io.claim() else { return Ok(()) };
            let Some(chain) = io.chain_mut(index) else { return Ok(()) };
            if !active.queue.pop(chain)? {
                io.release(index);
                if !active.queue.enable_notification()? {
                    return Ok(());
                }
                active.queue.disable_notification()?;
                continue;
            }
            let request = match request::parse(chain, &limits) {
                Err(Refused::NoStatusByte) => {
                    return Err(DeviceError::Protocol("a block request without a byte for its status"));
                }
                Ok(request) => Ok(request),
                Err(Refused::With(status)) => Err(status),
            };
            if let Ok(request) = &request
                && !io.has_room(request).map_err(DeviceError::backend("asking what the disk's file takes"))?
            {
                active.queue.undo_pop(1);
                io.release(index);
                active.out_of_room = true;
                self.counters.out_of_room += 1;
                return Ok(());
            }
            let cost = request.as_ref().map_or(0, |request| io.cost(request));
            if let Some(limiter) = &mut self.limiter {
                let now = monotonic_now();
                if let Err(wait) = limiter.consume(now, cost, 1) {
                    active.queue.undo_pop(1);
                    io.release(index);
                    active.throttled = true;
                    self.counters.throttled += 1;
                    return arm(&self.timer, wait, now);
                }
            }
            match request {
                Err(status) => io.answer(index, status),
                Ok(Request { operation: Operation::GetId, .. }) => {
                    let written = io.chain(index).map_or(0, |chain| chain.write_at(0, &self.serial));
                    io.answer(index, if written == SERIAL_LEN { Status::Ok } else { Status::IoError });
                }
                Ok(request) => io.start(index, request),
            }
        }
        io.engine().wake();
        Ok(())
    }

    /// Returns finished requests to the driver; the result is `false` when there were none.
    fn deliver(&mut self) -> Result<bool, DeviceError> {
        let Self { io, active: Some(active), counters, .. } = self else { return Ok(false) };
        let mut any = false;
        while let Some((index, request, status)) = io.take_finished() {
            if let Some(chain) = io.chain(index) {
                let written = finish(chain, request.as_ref(), status);
                active.queue.push_used(chain.head(), written)?;
            }
            counters.count(request.as_ref(), status);
            io.release(index);
            any = true;
        }
        if any {
            active.queue.notify()?;
        }
        Ok(any)
    }

    /// Waits until no request is in progress.
    fn drain(&mut self) -> Result<(), DeviceError> {
        loop {
            self.io.submit().map_err(DeviceError::backend("submitting block I/O"))?;
            self.io.reap();
            self.deliver()?;
            if !self.io.is_busy() {
                return Ok(());
            }
            if self.io.engine().in_flight() > 0 {
                self.io.engine().wait().map_err(DeviceError::backend("waiting for block I/O"))?;
            }
        }
    }
}

fn arm(timer: &LimiterTimer, wait: Wait, now: std::time::Duration) -> Result<(), DeviceError> {
    timer.arm(wait.delay(now)).map_err(DeviceError::backend("arming the block device's timer"))
}

/// Writes the status byte; returns the number of bytes, from the first writable one on, that are known to be written.
fn finish(chain: &Chain, request: Option<&Request>, status: Status) -> u32 {
    let data = chain.writable_len().saturating_sub(1);
    let _ = chain.write_at(data, &[status as u8]); // the request was refused if there is no such byte
    let filled = match request.map(|request| request.operation) {
        Some(Operation::Read) if status == Status::Ok => data,
        None if status == Status::Ok => SERIAL_LEN,
        _ => 0,
    };
    u32::try_from(if filled == data { data.saturating_add(1) } else { filled }).unwrap_or(u32::MAX)
}

impl Counters {
    fn count(&mut self, request: Option<&Request>, status: Status) {
        if status != Status::Ok {
            self.errors += 1;
            return;
        }
        let Some(request) = request else { return };
        let bytes = request.bytes;
        match request.operation {
            Operation::Read => (self.reads, self.read_bytes) = (self.reads + 1, self.read_bytes + bytes),
            Operation::Write => (self.writes, self.write_bytes) = (self.writes + 1, self.write_bytes + bytes),
            Operation::Flush => self.flushes += 1,
            Operation::Discard => self.discards += 1,
            Operation::WriteZeroes => self.write_zeroes += 1,
            Operation::GetId => {}
        }
    }
}

/// Builds the configuration space (5.2.4), up to and including the write-zeroes fields.
fn config_space(sectors: u64, read_only: bool) -> Vec<u8> {
    let writable = u32::from(!read_only);
    let fields: [&[u8]; 14] = [
        &sectors.to_le_bytes(),
        &[0; 4], // size_max: not offered
        &SEG_MAX.to_le_bytes(),
        &[0; 4], // geometry: not offered
        &u32::try_from(SECTOR_SIZE).unwrap_or(512).to_le_bytes(),
        &[PHYSICAL_BLOCK_EXP, 0, SECTORS_PER_BLOCK, 0, 0, 0, 0, 0], // alignment offset, minimum and optimal size
        &[0; 4],                                                    // writeback, num_queues: not offered
        &(writable * MAX_DISCARD_SECTORS).to_le_bytes(),
        &(writable * MAX_SEGMENTS).to_le_bytes(),
        &(writable * u32::from(SECTORS_PER_BLOCK)).to_le_bytes(), // discard alignment
        &(writable * MAX_WRITE_ZEROES_SECTORS).to_le_bytes(),
        &(writable * MAX_SEGMENTS).to_le_bytes(),
        &[u8::from(!read_only)], // write_zeroes_may_unmap
        &[0; 3],
    ];
    fields.concat()
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn offered_features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config_space, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let queue = activation.require_queue(0)?;
        let has = |bit| activation.features & feature(bit) != 0;
        // If the driver cannot flush, every write must be durable when it completes (5.2.6.2).
        let write_through = !has(blk::VIRTIO_BLK_F_FLUSH);
        self.io.configure(has(blk::VIRTIO_BLK_F_DISCARD), has(blk::VIRTIO_BLK_F_WRITE_ZEROES), write_through);
        let poller = activation.poller;
        let watching = DeviceError::backend("watching the block device's events");
        poller
            .add(self.io.engine().event(), COMPLETION, Interest::READ)
            .and_then(|()| poller.add(&self.timer, TIMER, Interest::READ))
            .map_err(watching)?;
        self.active = Some(Active { queue, poller, throttled: false, out_of_room: false });
        Ok(())
    }

    fn reset(&mut self) {
        self.io.abandon();
        if let Some(active) = self.active.take() {
            // Removal can fail only if they are no longer watched.
            let _ = active.poller.remove(self.io.engine().event());
            let _ = active.poller.remove(&self.timer);
        }
        let _ = self.timer.clear();
        self.io.engine().drain_event();
    }

    fn queue_notified(&mut self, _queue: usize) -> Result<(), DeviceError> {
        self.run()
    }

    fn event(&mut self, token: u16, _events: u32) -> Result<(), DeviceError> {
        match token {
            COMPLETION => self.io.engine().drain_event(),
            _ => {
                self.timer.clear().map_err(DeviceError::backend("clearing the block device's timer"))?;
                if let Some(active) = &mut self.active {
                    active.throttled = false;
                }
            }
        }
        if let Some(active) = &mut self.active {
            // A discard that has completed may have made room, and so does a larger bound.
            active.out_of_room = false;
        }
        self.run()
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        self.drain()?;
        if self.io.begin_flush() {
            self.drain()?;
        }
        if self.io.flush_has_failed() {
            let source = io::Error::other("a sync or a write of the block map failed");
            return Err(DeviceError::Backend { what: "making the disk durable", source });
        }
        // Requests that found no free slot are taken when the device continues.
        self.io.engine().wake();
        Ok(())
    }

    fn queue_states(&self) -> Vec<Option<QueueState>> {
        vec![self.active.as_ref().map(|active| active.queue.state())]
    }

    fn save(&self) -> Option<saved_virtio::Device> {
        let map = self.io.overlay_map().map(OverlayMap::sums);
        Some(saved_virtio::Device::Disk(SavedDisk { sectors: self.sectors, map }))
    }

    fn restore(&mut self, saved: &saved_virtio::Device) -> Result<(), RestoreError> {
        match *saved {
            saved_virtio::Device::Disk(SavedDisk { sectors, .. }) if sectors == self.sectors => Ok(()),
            saved_virtio::Device::Disk(SavedDisk { sectors, .. }) => {
                Err(RestoreError::DiskSize { saved: sectors, own: self.sectors })
            }
            saved_virtio::Device::Balloon(_) => Err(RestoreError::Part),
        }
    }

    fn set_limits(&mut self, limits: DeviceLimits) -> Result<(), DeviceError> {
        let changed = RateLimiter::change(&mut self.limiter, limits.disk, monotonic_now())?;
        let changed = self.io.set_room(limits.room) || changed;
        if changed && self.active.as_ref().is_some_and(|active| active.throttled || active.out_of_room) {
            // The device thread tries again what waits under the old limits.
            self.timer
                .arm(std::time::Duration::ZERO)
                .map_err(DeviceError::backend("arming the block device's timer"))?;
        }
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.counters;
        vec![
            ("reads", counters.reads),
            ("writes", counters.writes),
            ("read_bytes", counters.read_bytes),
            ("write_bytes", counters.write_bytes),
            ("flushes", counters.flushes),
            ("discards", counters.discards),
            ("write_zeroes", counters.write_zeroes),
            ("errors", counters.errors),
            ("throttled", counters.throttled),
            ("out_of_room", counters.out_of_room),
        ]
    }
}
