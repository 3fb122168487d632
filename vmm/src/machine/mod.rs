//! A machine: guest memory, vCPUs, devices and the threads that run them, built from a
//! [`MachineConfig`](crate::config::MachineConfig).
//!
//! * [`board`] – the devices on their bus
//! * [`end`] – how a machine ends, and who hears of it
//! * [`gate`] – how threads are stopped and let go
//! * `kvm`, `restore` – the machine itself, booted or made of a snapshot
//!
//! Threads: one per vCPU and one for all devices, each under its own seccomp filter. They are held at a
//! [`gate::Gate`] until the machine runs. To pause, the vCPUs are stopped first (a vCPU in the middle of an
//! MMIO access may be waiting for a device), then the device thread, then what the devices have in flight is
//! finished. A machine that restarts itself is torn down and built anew from the same files: KVM has no other
//! way to reset a GIC, and no state can leak from one boot into the next.

pub mod board;
pub mod end;
pub mod gate;
#[cfg(target_arch = "aarch64")]
mod kvm;
#[cfg(target_arch = "aarch64")]
mod restore;
#[cfg(target_arch = "aarch64")]
pub use kvm::Machine;
#[cfg(target_arch = "aarch64")]
pub use restore::Prepared;
#[cfg(not(target_arch = "aarch64"))]
mod unsupported;
#[cfg(not(target_arch = "aarch64"))]
pub use unsupported::{Machine, Prepared};

use std::fs::File;
use std::sync::Arc;

use hearth_proto::vmm::v1::{SavedAarch64, SavedBoard, SavedClock, SavedMachine};

use crate::arch::caches::Cache;
use crate::config::MachineConfig;
use crate::config::restore::RestoreClock;
use crate::jail::Filters;
use crate::snapshot::working_set::Rest;

/// What the monitor learned of its host before it was jailed, and what a machine's threads do first.
#[derive(Debug, Clone)]
pub struct Host {
    /// The CPU caches to describe to guests.
    pub caches: Vec<Cache>,
    /// The system call filters that each thread puts itself under.
    pub filters: Filters,
    /// `/proc/self/pagemap`: which pages a machine has written.
    pub pagemap: Arc<File>,
}

impl Host {
    /// A host that tells nothing, and threads without filters: for tests.
    ///
    /// # Errors
    /// When `/proc/self/pagemap` cannot be opened.
    pub fn plain() -> std::io::Result<Self> {
        let pagemap = Arc::new(File::open("/proc/self/pagemap")?);
        Ok(Self { caches: Vec::new(), filters: Filters::none(), pagemap })
    }
}

/// What a snapshot keeps of a machine beside its memory and what it is made of.
#[derive(Debug)]
pub struct SavedParts {
    /// CPUs and interrupt controller.
    pub aarch64: SavedAarch64,
    /// What time it was.
    pub clock: SavedClock,
    /// Devices.
    pub board: SavedBoard,
}

/// A snapshot about to become a machine.
#[derive(Debug)]
pub struct Snapshot {
    /// Its state.
    pub state: SavedMachine,
    /// The machine that it is, with its devices' files.
    pub config: MachineConfig,
    /// The file `memory`, or that of the snapshot that this one builds on.
    pub memory: File,
    /// The file `memory` of a snapshot that builds on another one.
    pub diff: Option<File>,
    /// Which time the guest wakes up to.
    pub clock: RestoreClock,
    /// The working set to bring in.
    pub working_set: Option<File>,
    /// `/dev/userfaultfd`, if the working set is to be recorded.
    pub userfaultfd: Option<File>,
}

/// A machine that was restored.
#[derive(Debug)]
pub struct Restored {
    /// The machine, paused.
    pub machine: Machine,
    /// Pages by what became of them.
    pub pages: Vec<(&'static str, u64)>,
    /// What is still to be done for its working set.
    pub rest: Option<Rest>,
}

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] crate::memory::MemoryError),
    /// A snapshot's files.
    #[error(transparent)]
    Load(#[from] crate::snapshot::load::LoadError),
    /// A snapshot's state.
    #[error(transparent)]
    State(#[from] crate::snapshot::state_file::StateError),
    /// A working set.
    #[error(transparent)]
    WorkingSet(#[from] crate::snapshot::working_set::WorkingSetError),
    /// Recording a working set.
    #[error(transparent)]
    Record(#[from] crate::snapshot::record::RecordError),
    /// A device.
    #[error(transparent)]
    Board(#[from] board::BoardError),
    /// KVM.
    #[cfg(target_arch = "aarch64")]
    #[error(transparent)]
    Vm(#[from] crate::arch::aarch64::vm::VmError),
    /// The kernel or the initramfs.
    #[cfg(target_arch = "aarch64")]
    #[error(transparent)]
    Boot(#[from] crate::arch::aarch64::boot::LoadError),
    /// A restored machine wants to start anew.
    #[error(
        "there is no kernel to start: pass one along with the snapshot where guests may restart themselves"
    )]
    NoKernel,
    /// The DeviceTree.
    #[cfg(target_arch = "aarch64")]
    #[error("writing the DeviceTree: {0}")]
    Fdt(String),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host answered.
        source: std::io::Error,
    },
    /// Not a machine for microVMs.
    #[cfg(not(target_arch = "aarch64"))]
    #[error(
        "this program was built for {}: microVMs need an aarch64 build on an aarch64 host with KVM",
        std::env::consts::ARCH
    )]
    Architecture,
}

impl BuildError {
    /// For `map_err`: the host refused `what`.
    pub(crate) fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}
