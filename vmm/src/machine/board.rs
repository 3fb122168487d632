//! The devices of one machine on their bus, their interrupt lines and queue notifications, and the worker
//! that serves them all from one thread.
//!
//! virtio-mmio slots are given out in a fixed order – disks, network cards, vsock, balloon, entropy – so that
//! the same configuration always gives the same board, which a snapshot relies on.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_proto::vmm::v1::{SavedBoard, SavedVirtio};
use vmm_sys_util::eventfd::EventFd;

use super::end::{End, EndSignal};
use super::gate::{Gate, Passage};
use crate::arch::layout::{self, spi};
use crate::config::{DiskConfig, DiskSource, MachineConfig, NetConfig};
use crate::devices::bus::{Bus, BusError, MmioDevice};
use crate::devices::rtc::Rtc;
use crate::devices::serial::{self, Serial, SerialConfig, SerialState};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::balloon::{Balloon, BalloonConfig, BalloonError};
use crate::devices::virtio::block::{Block, BlockConfig, BlockError, DiskBacking};
use crate::devices::virtio::mmio::{MMIO_WINDOW, MmioTransport, QUEUE_NOTIFY_OFFSET};
use crate::devices::virtio::net::{Net, NetConfig as NetDeviceConfig, NetError};
use crate::devices::virtio::persist::RestoreError;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::vsock::{Vsock, VsockConfig, VsockError};
use crate::devices::vmgenid::VmGenId;
use crate::event_loop::{DeviceId, EventLoop, Interest, Ready};
use crate::memory::GuestMemory;

/// Events of the serial console's input.
const SERIAL: DeviceId = 0xfffe;
/// The event that makes the worker look at its gate.
const WAKE: DeviceId = 0xffff;

/// Why a board could not be built, or a device refused something.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// A disk.
    #[error("disk {index}: {source}")]
    Disk {
        /// Which one.
        index: usize,
        /// What is wrong.
        source: BlockError,
    },
    /// A network card.
    #[error("network card {index}: {source}")]
    Net {
        /// Which one.
        index: usize,
        /// What is wrong.
        source: NetError,
    },
    /// The vsock device.
    #[error("vsock: {0}")]
    Vsock(#[from] VsockError),
    /// The balloon.
    #[error("balloon: {0}")]
    Balloon(#[from] BalloonError),
    /// The machine has no such device.
    #[error("the machine was created without a {0} device")]
    Absent(&'static str),
    /// A device of a snapshot.
    #[error("{device}: {source}")]
    Restore {
        /// Which one.
        device: String,
        /// What is wrong.
        source: RestoreError,
    },
    /// A snapshot's devices are not the machine's.
    #[error("the snapshot's devices make no sense: {0}")]
    Saved(&'static str),
    /// Two devices at one address: a mistake in the layout.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
}

impl BoardError {
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// What the board does with a virtio device, whichever it is.
trait Slot: MmioDevice {
    fn handle(&mut self, ready: Ready);
    fn quiesce(&mut self);
    fn kick(&self);
    fn counters(&self) -> Vec<(&'static str, u64)>;
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

/// The board.
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

/// A board in the making.
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

fn disk(config: DiskConfig) -> Result<Block, BlockError> {
    let backing = match config.source {
        DiskSource::ReadOnly(file) => DiskBacking::ReadOnly(file),
        DiskSource::Writable(file) => DiskBacking::Writable(file),
        DiskSource::Overlay { base, layers, overlay } => DiskBacking::Overlay { base, layers, overlay },
    };
    Block::new(BlockConfig { backing, serial: config.serial, rate_limiter: config.rate_limiter })
}

fn net(config: NetConfig) -> Result<Net, NetError> {
    Net::new(NetDeviceConfig {
        tap: config.tap,
        mac: config.mac,
        mtu: config.mtu,
        rx_rate_limiter: config.receive_limiter,
        tx_rate_limiter: config.transmit_limiter,
    })
}

impl Board {
    /// Builds the devices of `config`, taking its files, and the event loop for their [`Worker`].
    ///
    /// # Errors
    /// [`BoardError`] naming the device.
    pub fn new(config: &mut MachineConfig, memory: &GuestMemory) -> Result<(Self, EventLoop), BoardError> {
        Self::build(config, memory, None)
    }

    /// Builds the devices of `config` as [`Self::save`] left them. Interrupts that were pending in a device are not
    /// raised: [`raised_interrupts`] names them.
    ///
    /// # Errors
    /// [`BoardError`] naming the device.
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

    /// What a snapshot keeps of the devices, which are quiesced.
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
            let device = disk(config).map_err(|source| BoardError::Disk { index, source })?;
            builder.virtio(format!("disk{index}"), device)?;
        }
        for (index, config) in config.nets.drain(..).enumerate() {
            let device = net(config).map_err(|source| BoardError::Net { index, source })?;
            builder.virtio(format!("net{index}"), device)?;
        }
        let mut vsock = None;
        if let Some(config) = config.vsock.take() {
            let device = Vsock::new(VsockConfig {
                guest_cid: config.guest_cid,
                listener: config.listener,
                broker: config.broker,
            })?;
            vsock = Some(builder.virtio("vsock".into(), device)?);
        }
        let mut balloon = None;
        let memory_mib = config.memory_mib;
        if let Some(config) = config.balloon.take() {
            let device = Balloon::new(BalloonConfig {
                memory_mib,
                target_mib: config.target_mib,
                free_page_reporting: config.free_page_reporting,
                ..BalloonConfig::default()
            })?;
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

    /// The bus, for vCPUs.
    #[must_use]
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Number of virtio-mmio slots in use.
    #[must_use]
    pub fn virtio_devices(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// The VM generation id.
    #[must_use]
    pub fn vmgenid(&self) -> &VmGenId {
        &self.vmgenid
    }

    /// Interrupt lines: an event and the shared peripheral interrupt it raises.
    #[must_use]
    pub fn interrupts(&self) -> &[(EventFd, u32)] {
        &self.interrupts
    }

    /// Queue notifications: an event, the guest address and the value whose write signals it.
    #[must_use]
    pub fn notifications(&self) -> &[(EventFd, u64, u32)] {
        &self.notifications
    }

    /// What serves the devices; `events` is the loop that [`Self::new`] returned.
    #[must_use]
    pub fn worker(&self, events: EventLoop) -> Worker {
        let slots = self.slots.iter().map(|(_, slot)| Arc::clone(slot)).collect();
        Worker { events, slots, serial: Arc::clone(&self.serial) }
    }

    /// Makes the worker look at its gate.
    pub fn wake_worker(&self) {
        let _ = self.wake.write(1); // full only when it is signalled already
    }

    /// Has every queue looked at once.
    pub fn kick(&self) {
        for (_, slot) in &self.slots {
            lock(slot).kick();
        }
        // What was meant for a worker that has stopped since.
        let _ = self.wake.read();
    }

    /// Finishes what the devices have in flight. The vCPUs and the worker must stand still.
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

    /// Sets the balloon's target.
    ///
    /// # Errors
    /// [`BoardError`] when there is no balloon or the target makes no sense.
    pub fn set_balloon(&self, target_mib: u32) -> Result<(), BoardError> {
        let mut balloon = lock(self.balloon.as_ref().ok_or(BoardError::Absent("balloon"))?);
        balloon.device_mut().set_target_mib(target_mib)?;
        balloon.config_changed();
        Ok(())
    }

    fn vsock(&self) -> Result<MutexGuard<'_, MmioTransport<Vsock>>, BoardError> {
        Ok(lock(self.vsock.as_ref().ok_or(BoardError::Absent("vsock"))?))
    }

    /// Opens a stream to the guest.
    ///
    /// # Errors
    /// [`BoardError`] when there is no vsock device or it refuses.
    pub fn vsock_connect(&self, port: u32, stream: UnixStream) -> Result<(), BoardError> {
        Ok(self.vsock()?.device_mut().connect(port, stream)?)
    }

    /// Replaces the vsock device's listener and broker, where given.
    ///
    /// # Errors
    /// [`BoardError`] when there is no vsock device or it refuses.
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

/// The shared peripheral interrupts that a restored guest has to find pending: those of devices that had something to
/// tell it, which may have been on their way when the machine was saved, and that of the VM generation id, which is
/// another one now.
#[must_use]
pub fn raised_interrupts(saved: &SavedBoard) -> Vec<u32> {
    let slots = (0..).zip(&saved.virtio).filter(|(_, saved)| saved.interrupt_status != 0);
    slots.map(|(slot, _)| layout::virtio_spi(slot)).chain([spi::VMGENID]).collect()
}

/// Serves the devices' events, from the device thread.
pub struct Worker {
    events: EventLoop,
    slots: Vec<Shared<dyn Slot>>,
    serial: Shared<Serial>,
}

impl Worker {
    /// Serves until the gate is shut, waiting at it whenever woken while it is closed.
    pub fn run(mut self, gate: &Gate, end: &EndSignal) {
        while gate.pass() == Passage::Go {
            if let Err(error) = self.serve_until_woken() {
                end.report(End::MonitorError(format!("waiting for device events: {error}")));
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
