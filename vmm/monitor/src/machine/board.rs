//! The devices of one machine on their bus, their interrupt lines and queue notifications, and the worker
//! that serves all of them from one thread.
//!
//! virtio-mmio slots are assigned in a fixed order – disks, network cards, vsock, balloon, entropy – so that
//! the same configuration always produces the same board. Snapshots rely on that.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_proto::vmm::v1::{SavedBoard, SavedVirtio};
use hearth_vmm_api::config::MachineConfig;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use vmm_sys_util::eventfd::EventFd;

use super::gate::{Gate, Passage};
use super::shutdown::{ShutdownReason, ShutdownSignal};
use crate::arch::layout::{self, spi};
use crate::devices::bus::{Bus, BusError, MmioDevice};
use crate::devices::rtc::Rtc;
use crate::devices::serial::{self, Serial, SerialConfig, SerialState};
use crate::devices::virtio::balloon::{Balloon, BalloonError};
use crate::devices::virtio::block::{Block, BlockError};
use crate::devices::virtio::mmio::{MMIO_WINDOW, MmioTransport, QUEUE_NOTIFY_OFFSET};
use crate::devices::virtio::net::{Net, NetError};
use crate::devices::virtio::persist::RestoreError;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::vsock::{Vsock, VsockError};
use crate::devices::virtio::{DeviceError, VirtioDevice};
use crate::devices::vmgenid::VmGenId;
use crate::event_loop::{DeviceId, EventLoop, Interest, Ready};
use crate::memory::GuestMemory;

/// Device id of the serial console's input in the event loop.
const SERIAL: DeviceId = 0xfffe;
/// Device id of the event that makes the worker check its gate.
const WAKE: DeviceId = 0xffff;

/// Why a board could not be built, or a device refused a request.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// A disk could not be set up.
    #[error("disk {index}: {source}")]
    Disk {
        /// Index of the disk, in the order in which the guest sees the disks.
        index: usize,
        /// Error from the disk.
        source: BlockError,
    },
    /// A network card could not be set up.
    #[error("network card {index}: {source}")]
    Net {
        /// Index of the network card, in the order in which the guest sees the cards.
        index: usize,
        /// Error from the network card.
        source: NetError,
    },
    /// The vsock device could not be set up, or refused a request.
    #[error("vsock: {0}")]
    Vsock(#[from] VsockError),
    /// The balloon could not be set up, or refused a target.
    #[error("balloon: {0}")]
    Balloon(#[from] BalloonError),
    /// The machine has no such device.
    #[error("the machine was created without a {0} device")]
    Absent(&'static str),
    /// The saved state of a device could not be restored.
    #[error("{device}: {source}")]
    Restore {
        /// Name of the device, such as `disk0`.
        device: String,
        /// Error from the device.
        source: RestoreError,
    },
    /// A device refused new rate limits.
    #[error("{device}: {source}")]
    Limits {
        /// Name of the device, such as `disk0`.
        device: String,
        /// Error from the device.
        source: DeviceError,
    },
    /// The snapshot's devices do not match the machine's configuration, or their state is invalid.
    #[error("the snapshot's devices make no sense: {0}")]
    Saved(&'static str),
    /// Two devices share an address: a mistake in the layout.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The host refused an operation.
    #[error("{what}: {source}")]
    Host {
        /// The operation that failed.
        what: &'static str,
        /// Error from the host.
        source: io::Error,
    },
}

impl BoardError {
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// Operations of the board on a virtio device of any type.
trait Slot: MmioDevice {
    fn handle(&mut self, ready: Ready);
    fn quiesce(&mut self);
    fn kick(&self);
    fn counters(&self) -> Vec<(&'static str, u64)>;
    fn set_limits(&mut self, limits: DeviceLimits) -> Result<(), DeviceError>;
    fn save(&self) -> SavedVirtio;
    fn restore(&mut self, saved: &SavedVirtio) -> Result<(), RestoreError>;
}

impl<D: VirtioDevice> Slot for MmioTransport<D> {
    fn handle(&mut self, ready: Ready) {
        MmioTransport::handle(self, ready);
    }
    fn quiesce(&mut self) {
        MmioTransport::quiesce(self);
    }
    fn kick(&self) {
        MmioTransport::kick(self);
    }
    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.device().counters();
        counters.push(("device_failures", self.failures().0));
        counters
    }
    fn set_limits(&mut self, limits: DeviceLimits) -> Result<(), DeviceError> {
        self.device_mut().set_limits(limits)
    }
    fn save(&self) -> SavedVirtio {
        MmioTransport::save(self)
    }
    fn restore(&mut self, saved: &SavedVirtio) -> Result<(), RestoreError> {
        MmioTransport::restore(self, saved)
    }
}

type Shared<T> = Arc<Mutex<T>>;

fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The board: all devices of one machine. vCPUs reach them through the bus, the device thread through a [`Worker`].
pub struct Board {
    bus: Arc<Bus>,
    slots: Vec<(String, Shared<dyn Slot>)>,
    vsock: Option<Shared<MmioTransport<Vsock>>>,
    balloon: Option<Shared<MmioTransport<Balloon>>>,
    serial: Shared<Serial>,
    rtc: Shared<Rtc>,
    vmgenid: VmGenId,
    interrupts: Vec<(EventFd, u32)>,
    notifications: Vec<(EventFd, u64, u32)>,
    wake: EventFd,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.slots.iter().map(|(name, _)| name);
        f.debug_struct("Board").field("slots", &slots.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

/// A board that is being built.
struct Builder<'a> {
    memory: &'a GuestMemory,
    events: &'a EventLoop,
    bus: Bus,
    slots: Vec<(String, Shared<dyn Slot>)>,
    interrupts: Vec<(EventFd, u32)>,
    notifications: Vec<(EventFd, u64, u32)>,
}

fn event() -> Result<EventFd, BoardError> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(BoardError::host("making an eventfd"))
}

fn duplicate(event: &EventFd) -> Result<EventFd, BoardError> {
    event.try_clone().map_err(BoardError::host("duplicating an eventfd"))
}

impl Builder<'_> {
    fn interrupt(&mut self, spi: u32) -> Result<EventFd, BoardError> {
        let event = event()?;
        self.interrupts.push((duplicate(&event)?, spi));
        Ok(event)
    }

    fn virtio<D>(&mut self, name: String, device: D) -> Result<Shared<MmioTransport<D>>, BoardError>
    where
        D: VirtioDevice + 'static,
    {
        let slot = DeviceId::try_from(self.slots.len()).unwrap_or(DeviceId::MAX);
        let base = layout::virtio_base(slot);
        let interrupt = self.interrupt(layout::virtio_spi(slot))?;
        let poller = self.events.poller(slot);
        let transport = MmioTransport::new(device, self.memory.clone(), interrupt, poller)
            .map_err(BoardError::host("setting up a virtio device"))?;
        for (queue, event) in (0..).zip(transport.queue_events()) {
            self.notifications.push((duplicate(event)?, base + QUEUE_NOTIFY_OFFSET, queue));
        }
        let transport = Arc::new(Mutex::new(transport));
        self.bus.insert(base, MMIO_WINDOW, transport.clone())?;
        self.slots.push((name, transport.clone()));
        Ok(transport)
    }
}

impl Board {
    /// Builds the devices of `config`, whose files it takes, and the event loop for their [`Worker`].
    ///
    /// # Errors
    /// [`BoardError`], which names the device.
    pub fn new(config: &mut MachineConfig, memory: &GuestMemory) -> Result<(Self, EventLoop), BoardError> {
        Self::build(config, memory, None)
    }

    /// Builds the devices of `config` in the state that [`Self::save`] recorded. Interrupts that were pending in a
    /// device are not raised: [`raised_interrupts`] lists them.
    ///
    /// # Errors
    /// [`BoardError`], which names the device.
    pub fn restore(
        config: &mut MachineConfig,
        memory: &GuestMemory,
        saved: &SavedBoard,
    ) -> Result<(Self, EventLoop), BoardError> {
        let (board, events) = Self::build(config, memory, Some(saved))?;
        if board.slots.len() != saved.virtio.len() {
            return Err(BoardError::Saved("it has another number of virtio devices than its configuration"));
        }
        for ((name, slot), saved) in board.slots.iter().zip(&saved.virtio) {
            let restored = lock(slot).restore(saved);
            restored.map_err(|source| BoardError::Restore { device: name.clone(), source })?;
        }
        Ok((board, events))
    }

    /// State of the devices for a snapshot. The devices must be quiesced.
    #[must_use]
    pub fn save(&self) -> SavedBoard {
        SavedBoard {
            virtio: self.slots.iter().map(|(_, slot)| lock(slot).save()).collect(),
            serial: Some(lock(&self.serial).save()),
            rtc: Some(lock(&self.rtc).save()),
        }
    }

    fn build(
        config: &mut MachineConfig,
        memory: &GuestMemory,
        saved: Option<&SavedBoard>,
    ) -> Result<(Self, EventLoop), BoardError> {
        let events = EventLoop::new().map_err(BoardError::host("making an event loop"))?;
        let mut builder = Builder {
            memory,
            events: &events,
            bus: Bus::default(),
            slots: Vec::new(),
            interrupts: Vec::new(),
            notifications: Vec::new(),
        };
        let interrupt = builder.interrupt(spi::UART)?;
        let state = match saved.and_then(|saved| saved.serial.as_ref()) {
            Some(saved) => {
                serial::saved_state(saved).ok_or(BoardError::Saved("its UART has no such registers"))?
            }
            None => SerialState::default(),
        };
        let serial = Serial::with_state(
            SerialConfig {
                output: config.console_output.take(),
                input: config.console_input.take(),
                max_bytes: config.console_max_bytes,
            },
            interrupt,
            events.poller(SERIAL),
            &state,
        )
        .map_err(BoardError::host("setting up the serial console"))?;
        let serial = Arc::new(Mutex::new(serial));
        builder.bus.insert(layout::UART, layout::UART_SIZE, serial.clone())?;
        let rtc = saved.and_then(|saved| saved.rtc.as_ref()).map_or_else(Rtc::default, Rtc::restore);
        let rtc = Arc::new(Mutex::new(rtc));
        builder.bus.insert(layout::RTC, layout::RTC_SIZE, rtc.clone())?;
        let vmgenid_event = builder.interrupt(spi::VMGENID)?;
        let vmgenid = VmGenId::new(vmgenid_event).map_err(BoardError::host("making a VM generation id"))?;

        for (index, config) in config.disks.drain(..).enumerate() {
            let device = Block::new(config).map_err(|source| BoardError::Disk { index, source })?;
            builder.virtio(format!("disk{index}"), device)?;
        }
        for (index, config) in config.nets.drain(..).enumerate() {
            let device = Net::new(config).map_err(|source| BoardError::Net { index, source })?;
            builder.virtio(format!("net{index}"), device)?;
        }
        let mut vsock = None;
        if let Some(config) = config.vsock.take() {
            vsock = Some(builder.virtio("vsock".into(), Vsock::new(config)?)?);
        }
        let mut balloon = None;
        if let Some(balloon_config) = config.balloon {
            let device = Balloon::new(balloon_config, config.memory_mib)?;
            balloon = Some(builder.virtio("balloon".into(), device)?);
        }
        if config.rng {
            let device = Rng::new().map_err(BoardError::host("setting up the entropy device"))?;
            builder.virtio("rng".into(), device)?;
        }

        let wake = event()?;
        events
            .poller(WAKE)
            .add(&crate::event_loop::borrow(&wake), 0, Interest::READ)
            .map_err(BoardError::host("watching an eventfd"))?;
        let Builder { bus, slots, interrupts, notifications, .. } = builder;
        let bus = Arc::new(bus);
        let board =
            Self { bus, slots, vsock, balloon, serial, rtc, vmgenid, interrupts, notifications, wake };
        Ok((board, events))
    }

    /// The bus, through which vCPUs access the devices.
    #[must_use]
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Number of virtio-mmio slots in use.
    #[must_use]
    pub fn virtio_devices(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// The VM generation id device.
    #[must_use]
    pub fn vmgenid(&self) -> &VmGenId {
        &self.vmgenid
    }

    /// Interrupt lines: an event and the shared peripheral interrupt it raises.
    #[must_use]
    pub fn interrupts(&self) -> &[(EventFd, u32)] {
        &self.interrupts
    }

    /// Queue notifications: an event, and the guest address and the value whose write signals the event.
    #[must_use]
    pub fn notifications(&self) -> &[(EventFd, u64, u32)] {
        &self.notifications
    }

    /// The worker that serves the devices; `events` is the loop that [`Self::new`] or [`Self::restore`] returned.
    #[must_use]
    pub fn worker(&self, events: EventLoop) -> Worker {
        let slots = self.slots.iter().map(|(_, slot)| Arc::clone(slot)).collect();
        Worker { events, slots, serial: Arc::clone(&self.serial) }
    }

    /// Makes the worker check its gate.
    pub fn wake_worker(&self) {
        let _ = self.wake.write(1); // fails only when it is signalled already
    }

    /// Makes the devices check every queue once.
    pub fn kick(&self) {
        for (_, slot) in &self.slots {
            lock(slot).kick();
        }
        // Discards a wake-up that was meant for a worker that has stopped since.
        let _ = self.wake.read();
    }

    /// Finishes the requests that the devices have in flight. The vCPUs and the worker must be stopped.
    pub fn quiesce(&self) {
        for (_, slot) in &self.slots {
            lock(slot).quiesce();
        }
    }

    /// Counters of every device.
    pub fn counters(&self) -> impl Iterator<Item = (String, Vec<(&'static str, u64)>)> + '_ {
        let slots = self.slots.iter().map(|(name, slot)| (name.clone(), lock(slot).counters()));
        slots.chain([("serial".to_owned(), lock(&self.serial).counters())])
    }

    /// Changes the rate limits of disks and network cards.
    ///
    /// # Errors
    /// [`BoardError`], which names the device.
    pub fn set_limits(&self, limits: DeviceLimits) -> Result<(), BoardError> {
        for (name, slot) in &self.slots {
            let set = lock(slot).set_limits(limits);
            set.map_err(|source| BoardError::Limits { device: name.clone(), source })?;
        }
        Ok(())
    }

    /// Sets the balloon's target size in MiB.
    ///
    /// # Errors
    /// [`BoardError`] when there is no balloon or the target is out of range.
    pub fn set_balloon(&self, target_mib: u32) -> Result<(), BoardError> {
        let mut balloon = lock(self.balloon.as_ref().ok_or(BoardError::Absent("balloon"))?);
        balloon.device_mut().set_target_mib(target_mib)?;
        balloon.config_changed();
        Ok(())
    }

    fn vsock(&self) -> Result<MutexGuard<'_, MmioTransport<Vsock>>, BoardError> {
        Ok(lock(self.vsock.as_ref().ok_or(BoardError::Absent("vsock"))?))
    }

    /// Connects `stream` to vsock port `port` of the guest.
    ///
    /// # Errors
    /// [`BoardError`] when there is no vsock device or the device refuses.
    pub fn vsock_connect(&self, port: u32, stream: UnixStream) -> Result<(), BoardError> {
        Ok(self.vsock()?.device_mut().connect(port, stream)?)
    }

    /// Replaces the vsock device's listener and broker; `None` leaves the present one.
    ///
    /// # Errors
    /// [`BoardError`] when there is no vsock device or the device refuses.
    pub fn attach_vsock(
        &self,
        listener: Option<UnixListener>,
        broker: Option<OwnedFd>,
    ) -> Result<(), BoardError> {
        let mut vsock = self.vsock()?;
        if let Some(listener) = listener {
            vsock.device_mut().set_listener(Some(listener))?;
        }
        if let Some(broker) = broker {
            vsock.device_mut().set_broker(Some(broker))?;
        }
        Ok(())
    }
}

/// The shared peripheral interrupts that must be pending in a restored guest: those of devices whose interrupt status
/// was not zero, because the interrupt may have been on its way when the machine was saved, and that of the VM
/// generation id, which has a new value now.
#[must_use]
pub fn raised_interrupts(saved: &SavedBoard) -> Vec<u32> {
    let slots = (0..).zip(&saved.virtio).filter(|(_, saved)| saved.interrupt_status != 0);
    slots.map(|(slot, _)| layout::virtio_spi(slot)).chain([spi::VMGENID]).collect()
}

/// Serves the devices' events on the device thread.
pub struct Worker {
    events: EventLoop,
    slots: Vec<Shared<dyn Slot>>,
    serial: Shared<Serial>,
}

impl Worker {
    /// Serves events until the gate is shut. When woken while the gate is closed, waits at the gate.
    pub fn run(mut self, gate: &Gate, shutdown: &ShutdownSignal) {
        while gate.pass() == Passage::Go {
            if let Err(error) = self.serve_until_woken() {
                shutdown.report(ShutdownReason::MonitorError(format!("waiting for device events: {error}")));
                return;
            }
        }
    }

    fn serve_until_woken(&mut self) -> io::Result<()> {
        let mut woken = false;
        while !woken {
            let (slots, serial) = (&self.slots, &self.serial);
            self.events.wait(-1, |ready| match ready.device {
                WAKE => woken = true,
                SERIAL => lock(serial).handle(ready),
                device => {
                    if let Some(slot) = slots.get(usize::from(device)) {
                        lock(slot).handle(ready);
                    }
                }
            })?;
        }
        Ok(())
    }
}
