//! The machine on KVM: its threads, how they are run, paused and saved, and how a kernel is booted.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_proto::vmm::v1::{SavedAarch64, SavedClock};
use hearth_vmm_api::config::MachineConfig;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_jail::{Filters, ThreadRole};
use vm_memory::{Bytes as _, GuestAddress};

use super::board::{Board, BoardError};
use super::gate::{Gate, Passage};
use super::shutdown::{ShutdownReason, ShutdownSignal};
use super::{BuildError, Host, SavedParts};
use crate::arch::aarch64::error::VmError;
use crate::arch::aarch64::registers::{MPIDR, Registers, TIMER_COUNT, saved_value};
use crate::arch::aarch64::vcpu::{Exit, ImmediateExit, Vcpu, affinity_of};
use crate::arch::aarch64::vm::Vm;
use crate::arch::aarch64::{boot, counter, fdt};
use crate::arch::layout;
use crate::devices::bus::Bus;
use crate::devices::random;
use crate::event_loop::EventLoop;
use crate::memory::{self, GuestMemory, MIB};
use crate::snapshot::load::Backing;
use crate::snapshot::record::Recorder;

/// Stack size of a vCPU or device thread in bytes. Neither thread recurses or keeps buffers on its stack.
const STACK: usize = 256 << 10;

/// Numbers of exits of one vCPU from the guest, by reason.
#[derive(Debug, Default)]
struct ExitCounters {
    mmio_reads: AtomicU64,
    mmio_writes: AtomicU64,
    interrupted: AtomicU64,
    system_events: AtomicU64,
    fatal: AtomicU64,
}

impl ExitCounters {
    fn count(&self, exit: &Exit) {
        let counter = match exit {
            Exit::MmioRead => &self.mmio_reads,
            Exit::MmioWrite => &self.mmio_writes,
            Exit::Interrupted => &self.interrupted,
            Exit::PowerOff | Exit::Reset => &self.system_events,
            Exit::Fatal(_) => &self.fatal,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Vec<(&'static str, u64)> {
        [
            ("exits_mmio_read", &self.mmio_reads),
            ("exits_mmio_write", &self.mmio_writes),
            ("exits_interrupted", &self.interrupted),
            ("exits_system_event", &self.system_events),
            ("exits_fatal", &self.fatal),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
        .into()
    }
}

/// A vCPU's thread. The thread returns its [`Vcpu`], so that the page into which `immediate_exit` points stays
/// mapped until the thread is joined, which consumes this structure.
#[derive(Debug)]
struct VcpuThread {
    thread: JoinHandle<Vcpu>,
    immediate_exit: ImmediateExit,
    /// The vCPU's descriptor, which is open until the thread is joined.
    fd: RawFd,
    counters: Arc<ExitCounters>,
}

impl VcpuThread {
    /// Makes the vCPU leave the guest, or not enter it, until [`Self::may_enter`] is called.
    fn kick(&self) {
        // SAFETY: the vCPU lives at least as long as `self.thread` has not been joined.
        unsafe { self.immediate_exit.set(true) };
        // SAFETY: the thread has not been joined, so its id is valid; the signal has a handler.
        unsafe { libc::pthread_kill(self.thread.as_pthread_t(), kick_signal()) };
    }

    fn may_enter(&self) {
        // SAFETY: as in `kick`.
        unsafe { self.immediate_exit.set(false) };
    }
}

/// The signal that makes a vCPU thread leave `KVM_RUN`. Its handler does nothing: the interruption is the purpose.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

pub(super) fn handle_kick_signal() {
    extern "C" fn nothing(_: libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all-zero is a valid `sigaction`, the handler is async-signal-safe, and without SA_RESTART
        // the interrupted call returns EINTR, which is intended.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut());
        }
    });
}

/// A machine with its threads. Dropping it stops the threads and finishes the requests in flight of its devices.
#[derive(Debug)]
pub struct Machine {
    vcpu_gate: Arc<Gate>,
    device_gate: Arc<Gate>,
    vcpus: Vec<VcpuThread>,
    devices: Option<JoinHandle<()>>,
    /// Dropped before the board and the memory, into which its memory slots point.
    vm: Vm,
    board: Board,
    memory: GuestMemory,
    /// Files of the snapshot that back the memory of a restored machine.
    backing: Option<Arc<Backing>>,
    /// Recorder of the pages that a restored machine needs. Dropped after the threads have terminated.
    recorder: Option<Recorder>,
}

/// The parts of a machine that has no threads yet.
pub(super) struct Parts {
    pub(super) vm: Vm,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) board: Board,
    pub(super) events: EventLoop,
    pub(super) memory: GuestMemory,
    pub(super) backing: Option<Arc<Backing>>,
    pub(super) recorder: Option<Recorder>,
}

impl Machine {
    /// Builds the machine: memory, devices, VM, vCPUs, the loaded guest and all threads, which wait at their gates.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is left behind.
    pub fn build(
        mut config: MachineConfig,
        kvm: BorrowedFd<'_>,
        host: &Host,
        shutdown: Arc<ShutdownSignal>,
    ) -> Result<Self, BuildError> {
        handle_kick_signal();
        let memory = memory::map_anonymous(config.memory_mib)?;
        let console = config.console_output.is_some() || config.console_input.is_some();
        let (board, event_loop) = Board::new(&mut config, &memory)?;
        let mut vm = Vm::new(kvm, config.memory_mib)?;
        vm.map_memory(&memory)?;
        let vcpus = vm.create_vcpus(config.vcpus)?;
        connect(&vm, &board)?;
        load(&config, console, host, &memory, &board, &vcpus)?;
        let parts = Parts { vm, vcpus, board, events: event_loop, memory, backing: None, recorder: None };
        Self::assemble(parts, host, shutdown)
    }

    /// Starts the threads, which wait at their gates.
    pub(super) fn assemble(
        parts: Parts,
        host: &Host,
        shutdown: Arc<ShutdownSignal>,
    ) -> Result<Self, BuildError> {
        let Parts { vm, vcpus, board, events, memory, backing, recorder } = parts;
        let vcpu_gate = Arc::new(Gate::new(vcpus.len()));
        let device_gate = Arc::new(Gate::new(1));
        let mut machine = Self {
            vcpu_gate,
            device_gate,
            vcpus: Vec::with_capacity(vcpus.len()),
            devices: None,
            vm,
            board,
            memory,
            backing,
            recorder,
        };
        let gate = Arc::clone(&machine.device_gate);
        let worker = machine.board.worker(events);
        let (filters, signal) = (host.filters.clone(), Arc::clone(&shutdown));
        let run = move || {
            if enter(&filters, ThreadRole::Device, &signal) {
                worker.run(&gate, &signal);
            }
            gate.resign();
        };
        let spawned = thread::Builder::new().name("devices".into()).stack_size(STACK).spawn(run);
        machine.devices = Some(spawned.map_err(BuildError::host("starting the device thread"))?);
        for vcpu in vcpus {
            let thread = machine.spawn_vcpu(vcpu, host.filters.clone(), Arc::clone(&shutdown))?;
            machine.vcpus.push(thread);
        }
        Ok(machine)
    }

    fn spawn_vcpu(
        &self,
        mut vcpu: Vcpu,
        filters: Filters,
        shutdown: Arc<ShutdownSignal>,
    ) -> Result<VcpuThread, BuildError> {
        let counters = Arc::new(ExitCounters::default());
        let (immediate_exit, fd) = (vcpu.immediate_exit(), vcpu.raw_fd());
        let (gate, bus) = (Arc::clone(&self.vcpu_gate), Arc::clone(self.board.bus()));
        let counted = Arc::clone(&counters);
        let run = move || {
            if enter(&filters, ThreadRole::Vcpu, &shutdown) {
                run_vcpu(&mut vcpu, &gate, &bus, &counted, &shutdown);
            }
            gate.resign();
            vcpu
        };
        let name = format!("vcpu{}", self.vcpus.len());
        let spawned = thread::Builder::new().name(name).stack_size(STACK).spawn(run);
        let thread = spawned.map_err(BuildError::host("starting a vCPU thread"))?;
        Ok(VcpuThread { thread, immediate_exit, fd, counters })
    }

    /// Runs a new or paused machine.
    pub fn run(&self) {
        self.board.kick();
        self.device_gate.open();
        for vcpu in &self.vcpus {
            vcpu.may_enter();
        }
        self.vcpu_gate.open();
    }

    /// Stops the vCPUs, then the devices, and finishes all requests in flight.
    pub fn pause(&self) {
        self.vcpu_gate.close();
        self.vcpus.iter().for_each(VcpuThread::kick);
        self.vcpu_gate.wait_all_stopped();
        self.device_gate.close();
        self.board.wake_worker();
        self.device_gate.wait_all_stopped();
        self.board.quiesce();
    }

    /// The machine's guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Files of the snapshot that back the memory of a restored machine.
    #[must_use]
    pub fn backing(&self) -> Option<&Arc<Backing>> {
        self.backing.as_ref()
    }

    /// Recorder of the pages that the machine needs, if a recording was requested.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// State of the vCPUs, the clock and the devices for a snapshot. The machine must be paused.
    ///
    /// # Errors
    /// The KVM operation that failed.
    pub fn save(&self) -> Result<SavedParts, BuildError> {
        let vcpu = |(index, thread): (usize, &VcpuThread)| {
            // SAFETY: the descriptor is open for as long as the thread has not been joined.
            let fd = unsafe { BorrowedFd::borrow_raw(thread.fd) };
            Registers { fd, vcpu: index }
        };
        let registers: Vec<Registers<'_>> = self.vcpus.iter().enumerate().map(vcpu).collect();
        let vcpus =
            registers.iter().map(Registers::save).collect::<Result<Vec<_>, _>>().map_err(VmError::from)?;
        let mut counter = 0;
        if let Some(first) = registers.first() {
            counter = first.get_u64(TIMER_COUNT, "reading the counter").map_err(VmError::from)?;
        }
        let affinities: Vec<u64> =
            vcpus.iter().filter_map(|vcpu| saved_value(vcpu, MPIDR)).map(affinity_of).collect();
        let gic = self.vm.gic().map(|gic| gic.save(&affinities)).transpose()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(SavedParts {
            aarch64: SavedAarch64 { vcpus, gic, vcpu_features: self.vm.features().bits() },
            clock: SavedClock {
                counter,
                counter_hz: counter::frequency(),
                realtime_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            },
            board: self.board.save(),
        })
    }

    /// All counters, grouped by vCPU and device.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, Vec<(&'static str, u64)>)> {
        let vcpu = |(index, vcpu): (usize, &VcpuThread)| (format!("vcpu{index}"), vcpu.counters.read());
        self.vcpus.iter().enumerate().map(vcpu).chain(self.board.counters()).collect()
    }

    /// Sets the balloon's target size in MiB.
    ///
    /// # Errors
    /// [`BoardError`] when there is no balloon or the target exceeds the guest's memory.
    pub fn set_balloon(&self, target_mib: u32) -> Result<(), BoardError> {
        self.board.set_balloon(target_mib)
    }

    /// Changes the rate limits of disks and network cards.
    ///
    /// # Errors
    /// [`BoardError`] when a limit is out of range.
    pub fn set_limits(&self, limits: DeviceLimits) -> Result<(), BoardError> {
        self.board.set_limits(limits)
    }

    /// Connects `stream` to vsock port `port` of the guest.
    ///
    /// # Errors
    /// [`BoardError`] when there is no vsock device or the device refuses.
    pub fn vsock_connect(&self, port: u32, stream: UnixStream) -> Result<(), BoardError> {
        self.board.vsock_connect(port, stream)
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
        self.board.attach_vsock(listener, broker)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vcpu_gate.shut();
        self.vcpus.iter().for_each(VcpuThread::kick);
        for vcpu in self.vcpus.drain(..) {
            drop(vcpu.thread.join()); // a thread does not panic; if one did, there is nothing to save
        }
        self.device_gate.shut();
        self.board.wake_worker();
        if let Some(devices) = self.devices.take() {
            drop(devices.join());
        }
        self.board.quiesce();
        self.recorder = None;
    }
}

/// Puts a new thread under its system call filter; returns `false` when that fails and the thread must not continue.
fn enter(filters: &Filters, role: ThreadRole, shutdown: &ShutdownSignal) -> bool {
    let installed = filters.install(role);
    if let Err(error) = &installed {
        shutdown.report(ShutdownReason::MonitorError(format!("a thread could not be jailed: {error}")));
    }
    installed.is_ok()
}

fn run_vcpu(vcpu: &mut Vcpu, gate: &Gate, bus: &Bus, counters: &ExitCounters, shutdown: &ShutdownSignal) {
    while gate.pass() == Passage::Go {
        // The loop is left only when interrupted: then the kernel has completed any MMIO access.
        loop {
            let exit = vcpu.run(bus);
            counters.count(&exit);
            match exit {
                Exit::MmioRead | Exit::MmioWrite => {}
                Exit::Interrupted => break,
                Exit::PowerOff => return shutdown.report(ShutdownReason::PowerOff),
                Exit::Reset => return shutdown.report(ShutdownReason::Restart),
                Exit::Fatal(why) => {
                    return shutdown
                        .report(ShutdownReason::GuestError(format!("vCPU {}: {why}", vcpu.index())));
                }
            }
        }
    }
}

/// Connects every interrupt line and queue notification of the board to the VM, and maps the VM generation id.
pub(super) fn connect(vm: &Vm, board: &Board) -> Result<(), BuildError> {
    for (event, spi) in board.interrupts() {
        vm.connect_interrupt(event, *spi)?;
    }
    for (event, address, value) in board.notifications() {
        vm.connect_notification(event, *address, *value)?;
    }
    let vmgenid = board.vmgenid();
    vm.map_vmgenid(layout::VMGENID, vmgenid.host_address(), vmgenid.size())?;
    Ok(())
}

/// Loads the kernel, the initramfs and the DeviceTree, which describes the board, and sets the boot registers.
fn load(
    config: &MachineConfig,
    console: bool,
    host: &Host,
    memory: &GuestMemory,
    board: &Board,
    vcpus: &[Vcpu],
) -> Result<(), BuildError> {
    let kernel = config.kernel.as_ref().ok_or(BuildError::NoKernel)?;
    let loaded = boot::load(memory, kernel, config.initramfs.as_ref())?;
    let mut rng_seed = [0; 64];
    random::fill(&mut rng_seed).map_err(BuildError::host("reading random bytes"))?;
    let affinities = vcpus.iter().map(Vcpu::affinity).collect::<Result<Vec<_>, _>>()?;
    let tree = fdt::build(&fdt::Description {
        memory: config.memory_mib * MIB,
        affinities: &affinities,
        caches: &host.caches,
        command_line: &config.command_line,
        console,
        initramfs: loaded.initramfs,
        virtio_devices: board.virtio_devices(),
        vmgenid: Some(board.vmgenid().size()),
        rng_seed: &rng_seed,
    })
    .map_err(|error| BuildError::Fdt(error.to_string()))?;
    if tree.len() as u64 > layout::FDT_SIZE {
        return Err(BuildError::Fdt(format!("{} bytes are more than its {}", tree.len(), layout::FDT_SIZE)));
    }
    memory
        .write_slice(&tree, GuestAddress(loaded.fdt))
        .map_err(|error| BuildError::Fdt(error.to_string()))?;
    match vcpus.first() {
        Some(first) => Ok(first.set_boot_registers(loaded.entry, loaded.fdt)?),
        None => Ok(()),
    }
}
