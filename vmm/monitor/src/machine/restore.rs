//! Restores a machine from a snapshot.
//!
//! The order is fixed: memory, VM and vCPUs, the counter's offset, the GIC, the vCPUs' registers with their
//! timers (the architecture requires this order), then the devices. Every error in the snapshot is found before any
//! vCPU thread or device thread exists.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_proto::vmm::v1::SavedClock;
use hearth_vmm_api::config::restore::RestoreClock;
use hearth_vmm_api::snapshot::state_file::StateError;
use hearth_vmm_api::steps::Steps;

use super::board::{self, Board};
use super::kvm::{Machine, Parts, connect, handle_kick_signal};
use super::shutdown::ShutdownSignal;
use super::{BuildError, Host, Restored, Snapshot};
use crate::arch::aarch64::error::VmError;
use crate::arch::aarch64::vcpu::{Vcpu, vector_lengths_of};
use crate::arch::aarch64::vm::Vm;
use crate::snapshot::load::{self, LoadMode};
use crate::snapshot::record::Recorder;
use crate::snapshot::working_set;

/// A VM with vCPUs, created in advance for a snapshot that will be restored.
#[derive(Debug)]
pub struct Prepared {
    vm: Vm,
    vcpus: Vec<Vcpu>,
    memory_mib: u64,
}

impl Prepared {
    /// Creates a VM with `count` vCPUs that have the features of this host.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is left behind.
    pub fn new(kvm: BorrowedFd<'_>, count: u32, memory_mib: u64) -> Result<Self, BuildError> {
        let mut vm = Vm::new(kvm, memory_mib)?;
        let vcpus = vm.create_vcpus(count)?;
        Ok(Self { vm, vcpus, memory_mib })
    }

    /// Whether this VM has the vCPUs, the memory size and the features that the machine of `snapshot` needs.
    fn fits(&self, snapshot: &Snapshot) -> bool {
        let Some(aarch64) = &snapshot.state.aarch64 else { return false };
        let lengths = self.vcpus.first().and_then(|vcpu| vcpu.registers().vector_lengths().ok());
        self.vcpus.len() == aarch64.vcpus.len()
            && self.memory_mib == snapshot.config.memory_mib
            && self.vm.features().bits() == aarch64.vcpu_features
            && vector_lengths_of(aarch64).is_none_or(|wanted| lengths.is_some_and(|own| own == wanted))
    }
}

/// Nanoseconds that pass for the guest between the snapshot and now.
fn advance(clock: RestoreClock, saved: &SavedClock) -> u64 {
    match clock {
        RestoreClock::Continue => 0,
        RestoreClock::Advance => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // If the host's clock was set back, the guest's clock is not: no time passes then.
            u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).saturating_sub(saved.realtime_ns)
        }
        RestoreClock::AdvanceBy(time) => u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
    }
}

impl Machine {
    /// Builds the machine of `snapshot` with all its threads, which wait at their gates.
    ///
    /// # Errors
    /// [`BuildError`], which names the fault of the snapshot or of this host; nothing is left behind.
    pub fn restore(
        snapshot: Snapshot,
        kvm: BorrowedFd<'_>,
        prepared: Option<Prepared>,
        host: &Host,
        shutdown: Arc<ShutdownSignal>,
        steps: &mut Steps,
    ) -> Result<Restored, BuildError> {
        handle_kick_signal();
        let prepared = prepared.filter(|prepared| prepared.fits(&snapshot));
        let Snapshot { state, mut config, memory, diff, clock, working_set, userfaultfd } = snapshot;
        let missing = |part: &str| StateError::content(format!("its {part} is missing"));
        let (Some(aarch64), Some(saved_clock), Some(saved_board)) =
            (&state.aarch64, &state.clock, &state.board)
        else {
            return Err(missing("machine").into());
        };
        if usize::try_from(config.vcpus) != Ok(aarch64.vcpus.len()) {
            return Err(StateError::content("it has another number of vCPUs than its configuration").into());
        }
        let gic = aarch64.gic.as_ref().ok_or_else(|| missing("interrupt controller"))?;
        let mode = if userfaultfd.is_some() { LoadMode::Record } else { LoadMode::Map };
        let loaded = load::load(&state, memory, diff, mode)?;
        if loaded.memory_mib() != config.memory_mib {
            return Err(StateError::content("it has another memory size than its configuration").into());
        }
        let backing = Arc::new(loaded.backing);
        let memory = loaded.memory;
        let recorder = userfaultfd
            .map(|device| Recorder::start(&device, &memory, Arc::clone(&backing), &host.filters))
            .transpose()?;
        steps.done("memory");
        let mut pages = vec![("mapped", loaded.mapped_pages), ("read", loaded.read_pages)];
        let mut rest = None;
        if let Some(file) = working_set.filter(|_| recorder.is_none()) {
            let (later, [listed, copied]) = working_set::bring_in(&file, &backing, &memory)?;
            pages.extend([("working_set", listed), ("working_set_copied", copied)]);
            rest = Some(later);
            steps.done("working set");
        }
        let (vm, vcpus) = match prepared {
            Some(prepared) => (prepared.vm, prepared.vcpus),
            None => {
                let mut vm = Vm::new(kvm, config.memory_mib)?;
                vm.restrict(aarch64)?;
                let vcpus = vm.create_vcpus(config.vcpus)?;
                (vm, vcpus)
            }
        };
        vm.map_memory(&memory)?;
        steps.done("virtual machine");
        if let (Some(vcpu), Some(saved)) = (vcpus.first(), aarch64.vcpus.first()) {
            vcpu.registers().check_cpu(saved).map_err(VmError::from)?;
        }
        vm.set_counter(saved_clock.counter, saved_clock.counter_hz, advance(clock, saved_clock))?;
        if let Some(new) = vm.gic() {
            new.restore(gic, &board::raised_interrupts(saved_board))?;
        }
        for (vcpu, saved) in vcpus.iter().zip(&aarch64.vcpus) {
            vcpu.registers().restore(saved).map_err(VmError::from)?;
        }
        steps.done("CPUs");
        let (board, events) = Board::restore(&mut config, &memory, saved_board)?;
        connect(&vm, &board)?;
        steps.done("devices");
        let parts = Parts { vm, vcpus, board, events, memory, backing: Some(backing), recorder };
        let machine = Self::assemble(parts, host, shutdown)?;
        steps.done("threads");
        Ok(Restored { machine, pages, rest })
    }
}
