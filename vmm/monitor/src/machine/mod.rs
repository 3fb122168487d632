//! A machine: guest memory, vCPUs, devices and the threads that run them, built from a
//! [`MachineConfig`](hearth_vmm_api::config::MachineConfig).
//!
//! * [`board`] – the devices on their bus
//! * [`end`] – why a machine stops, and how the control thread is notified
//! * [`gate`] – how threads are paused and resumed
//! * `kvm`, `restore` – the machine itself, booted or restored from a snapshot
//!
//! Threads: one per vCPU and one for all devices, each under its own seccomp filter. They wait at a
//! [`gate::Gate`] until the machine runs. To pause, the vCPUs are stopped first (a vCPU in the middle of an
//! MMIO access may be waiting for a device), then the device thread; then the requests that the devices have in
//! flight are finished. A machine whose guest restarts is torn down and built anew from the same files: KVM has no
//! other way to reset a GIC, and no state can leak from one boot into the next.

pub mod board;
pub mod gate;
#[cfg(target_arch = "aarch64")]
mod kvm;
#[cfg(target_arch = "aarch64")]
mod restore;
pub mod shutdown;
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
use hearth_vmm_api::config::MachineConfig;
use hearth_vmm_api::config::restore::RestoreClock;
use hearth_vmm_api::steps::Steps;
use hearth_vmm_jail::Filters;

use crate::arch::caches::Cache;
use crate::snapshot::working_set::Rest;

/// Host facts that the monitor collected before it was jailed, and the filters that a machine's threads install.
#[derive(Debug, Clone)]
pub struct Host {
    /// The CPU caches to describe to guests.
    pub caches: Vec<Cache>,
    /// The system call filters that each thread installs for itself when it starts.
    pub filters: Filters,
    /// `/proc/self/pagemap`, which shows the pages that a machine has written.
    pub pagemap: Arc<File>,
    /// How long each step of entering the jail took.
    pub start: Steps,
}

impl Host {
    /// A host without cache descriptions and without thread filters, for tests.
    ///
    /// # Errors
    /// When `/proc/self/pagemap` cannot be opened.
    pub fn plain() -> std::io::Result<Self> {
        let pagemap = Arc::new(File::open("/proc/self/pagemap")?);
        Ok(Self { caches: Vec::new(), filters: Filters::none(), pagemap, start: Steps::default() })
    }
}

/// State of a machine that a snapshot keeps in addition to its memory and its configuration.
#[derive(Debug)]
pub struct SavedParts {
    /// State of the vCPUs and of the interrupt controller.
    pub aarch64: SavedAarch64,
    /// Counter and wall-clock time at the snapshot.
    pub clock: SavedClock,
    /// State of the devices.
    pub board: SavedBoard,
}

/// A snapshot from which a machine is to be restored.
#[derive(Debug)]
pub struct Snapshot {
    /// The machine's saved state.
    pub state: SavedMachine,
    /// Configuration of the machine, with its devices' files.
    pub config: MachineConfig,
    /// The snapshot's file `memory`; for a snapshot that builds on another one, the file `memory` of that one.
    pub memory: File,
    /// The snapshot's own file `memory`, if the snapshot builds on another one.
    pub diff: Option<File>,
    /// The time that the guest's clock continues from.
    pub clock: RestoreClock,
    /// The working set to load before the guest runs.
    pub working_set: Option<File>,
    /// `/dev/userfaultfd`, if the working set is to be recorded.
    pub userfaultfd: Option<File>,
}

/// A machine that was restored.
#[derive(Debug)]
pub struct Restored {
    /// The machine, paused.
    pub machine: Machine,
    /// Numbers of pages, by how they were restored (such as `mapped`, `read` or `working_set`).
    pub pages: Vec<(&'static str, u64)>,
    /// The remaining work on the working set, if there is one.
    pub rest: Option<Rest>,
}

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Guest memory could not be set up.
    #[error(transparent)]
    Memory(#[from] crate::memory::MemoryError),
    /// A snapshot's memory files could not be loaded.
    #[error(transparent)]
    Load(#[from] crate::snapshot::load::LoadError),
    /// A snapshot's state is invalid.
    #[error(transparent)]
    State(#[from] hearth_vmm_api::snapshot::state_file::StateError),
    /// A working set could not be loaded.
    #[error(transparent)]
    WorkingSet(#[from] crate::snapshot::working_set::WorkingSetError),
    /// The recording of a working set failed.
    #[error(transparent)]
    Record(#[from] crate::snapshot::record::RecordError),
    /// A device could not be built or restored.
    #[error(transparent)]
    Board(#[from] board::BoardError),
    /// A KVM operation failed.
    #[cfg(target_arch = "aarch64")]
    #[error(transparent)]
    Vm(#[from] crate::arch::aarch64::error::VmError),
    /// The kernel or the initramfs could not be loaded.
    #[cfg(target_arch = "aarch64")]
    #[error(transparent)]
    Boot(#[from] crate::arch::aarch64::boot::LoadError),
    /// A restored machine restarts, but it has no kernel to boot.
    #[error(
        "there is no kernel to start: pass one along with the snapshot where guests may restart themselves"
    )]
    NoKernel,
    /// The DeviceTree could not be written.
    #[cfg(target_arch = "aarch64")]
    #[error("writing the DeviceTree: {0}")]
    Fdt(String),
    /// The host refused an operation.
    #[error("{what}: {source}")]
    Host {
        /// The operation that failed.
        what: &'static str,
        /// Error from the host.
        source: std::io::Error,
    },
    /// This build of the monitor does not support microVMs on its architecture.
    #[cfg(not(target_arch = "aarch64"))]
    #[error(
        "this program was built for {}: microVMs need an aarch64 build on an aarch64 host with KVM",
        std::env::consts::ARCH
    )]
    Architecture,
}

impl BuildError {
    /// For `map_err`: the host refused the operation `what`.
    pub(crate) fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}
