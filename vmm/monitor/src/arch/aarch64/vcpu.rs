//! One vCPU: its features, its registers at boot, and how it runs.

use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use hearth_proto::vmm::v1::SavedAarch64;
use kvm_bindings::{
    KVM_ARM_VCPU_HAS_EL2, KVM_ARM_VCPU_HAS_EL2_E2H0, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2,
    KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_SVE, KVM_REG_ARM_CORE,
    KVM_REG_ARM64, KVM_REG_SIZE_U64, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_regs,
    kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::error::VmError;
use super::registers::{MPIDR, Registers, SVE_LENGTHS, saved_value};
use crate::devices::bus::Bus;

/// EL1 with its own stack pointer, all interrupts masked: the state that the boot protocol requires of the
/// first CPU (Linux, Documentation/arch/arm64/booting.rst).
const BOOT_PSTATE: u64 = 0x3c5;

/// The one-reg id of the 64-bit core register at `offset` bytes into `struct kvm_regs`.
const fn core_register(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / size_of::<u32>()) as u64
}

/// Why a vCPU left the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest read a device register; the read has been served.
    MmioRead,
    /// The guest wrote a device register; the write has been carried out.
    MmioWrite,
    /// A signal or a request for an immediate exit interrupted the run.
    Interrupted,
    /// The guest called PSCI `SYSTEM_OFF`.
    PowerOff,
    /// The guest called PSCI `SYSTEM_RESET`.
    Reset,
    /// The guest cannot continue; the text gives the reason.
    Fatal(String),
}

const PSCI: u32 = 1 << KVM_ARM_VCPU_PSCI_0_2;
const SVE: u32 = 1 << KVM_ARM_VCPU_SVE;
const POINTER_AUTH: u32 = 1 << KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << KVM_ARM_VCPU_PTRAUTH_GENERIC;
const NESTED: u32 = 1 << KVM_ARM_VCPU_HAS_EL2 | 1 << KVM_ARM_VCPU_HAS_EL2_E2H0;

/// The CPU features with which vCPUs are initialised: those of the host that Hearth passes on, or some of them.
///
/// No guest gets EL2 (nested virtualisation), whatever the host has and whatever a snapshot says: it is a large part of
/// KVM that guests do not need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    bits: u32,
    vector_lengths: Option<Vec<u8>>,
}

impl Features {
    /// All features of the host that Hearth passes on to guests.
    #[must_use]
    pub fn of_host(sve: bool, pointer_auth: bool) -> Self {
        let bits = PSCI | if sve { SVE } else { 0 } | if pointer_auth { POINTER_AUTH } else { 0 };
        Self { bits, vector_lengths: None }
    }

    /// Of these features, those with which the vCPUs of a snapshot's guest were initialised.
    ///
    /// # Errors
    /// [`VmError::Features`], which names the features that the guest had beyond these.
    pub fn of_guest(&self, saved: &SavedAarch64) -> Result<Self, VmError> {
        let missing = saved.vcpu_features & !self.bits;
        let named = [
            (SVE, "SVE"),
            (POINTER_AUTH, "pointer authentication"),
            (NESTED, "EL2, which no guest gets"),
            (!(SVE | POINTER_AUTH | NESTED), "another feature"),
        ];
        let names: Vec<_> =
            named.iter().filter(|(bits, _)| missing & bits != 0).map(|(_, name)| *name).collect();
        if !names.is_empty() {
            return Err(VmError::Features(names.join(", ")));
        }
        Ok(Self { bits: saved.vcpu_features, vector_lengths: vector_lengths_of(saved).map(<[u8]>::to_vec) })
    }

    /// Feature bits of `KVM_ARM_VCPU_INIT`, without `KVM_ARM_VCPU_POWER_OFF`.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }
}

/// SVE vector lengths of a snapshot's guest; `None` means all lengths that the host has.
#[must_use]
pub fn vector_lengths_of(saved: &SavedAarch64) -> Option<&[u8]> {
    saved.vcpus.first().and_then(|vcpu| saved_value(vcpu, SVE_LENGTHS))
}

/// A vCPU of a KVM virtual machine.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    index: u32,
}

/// Handle to the `immediate_exit` byte of a vCPU, which makes it leave the guest, or not enter it.
#[derive(Debug, Clone, Copy)]
pub struct ImmediateExit(*mut u8);

// SAFETY: the pointer refers to a byte in the shared `kvm_run` page that is made to be written from other threads
// while the vCPU runs; each holder of a handle is joined with, or outlived by, the thread that owns the vCPU.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above; all accesses are single volatile byte writes.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// Requests an immediate exit, or withdraws the request when `wanted` is `false`.
    ///
    /// # Safety
    /// The [`Vcpu`] from which this handle was made must still exist.
    pub unsafe fn set(self, wanted: bool) {
        // SAFETY: the caller guarantees that the page is mapped; the kernel reads this byte racily by design.
        unsafe { self.0.write_volatile(u8::from(wanted)) }
    }
}

impl Vcpu {
    /// Creates vCPU `index` and initialises it with `features`; all but the first wait for PSCI `CPU_ON`.
    ///
    /// # Errors
    /// [`VmError::Kvm`], which names the step.
    pub fn new(vm: &VmFd, index: u32, features: &Features) -> Result<Self, VmError> {
        let fd = vm.create_vcpu(u64::from(index)).map_err(VmError::kvm("creating a vCPU"))?;
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init).map_err(VmError::kvm("asking for the host's CPU type"))?;
        let [wanted, ..] = &mut init.features;
        *wanted |= features.bits | u32::from(index > 0) << KVM_ARM_VCPU_POWER_OFF;
        fd.vcpu_init(&init).map_err(VmError::kvm("initialising a vCPU"))?;
        let vcpu = Self { fd, index };
        if features.bits & SVE != 0 {
            if let Some(lengths) = &features.vector_lengths {
                vcpu.registers().set_vector_lengths(lengths)?;
            }
            let feature = i32::try_from(KVM_ARM_VCPU_SVE).unwrap_or(i32::MAX);
            vcpu.fd.vcpu_finalize(&feature).map_err(VmError::kvm("finalising SVE"))?;
        }
        Ok(vcpu)
    }

    /// Access to the vCPU's registers. The vCPU must not run meanwhile.
    #[must_use]
    pub fn registers(&self) -> Registers<'_> {
        // SAFETY: the descriptor belongs to `fd`, which the borrow keeps alive.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) };
        Registers { fd, vcpu: usize::try_from(self.index).unwrap_or(usize::MAX) }
    }

    /// Number of the vCPU's file descriptor.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Number of the vCPU, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The affinity bits of the vCPU's `MPIDR_EL1`, by which the DeviceTree names the vCPU.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn affinity(&self) -> Result<u64, VmError> {
        let mut bytes = [0; 8];
        self.fd.get_one_reg(MPIDR, &mut bytes).map_err(VmError::kvm("reading MPIDR_EL1"))?;
        Ok(affinity_of(&bytes))
    }

    /// Sets the boot registers of the first vCPU: it enters the guest at `entry` with `fdt`, the DeviceTree's address,
    /// in x0.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn set_boot_registers(&self, entry: u64, fdt: u64) -> Result<(), VmError> {
        let regs = std::mem::offset_of!(kvm_regs, regs);
        let registers = [
            (regs + std::mem::offset_of!(user_pt_regs, pstate), BOOT_PSTATE),
            (regs + std::mem::offset_of!(user_pt_regs, pc), entry),
            (regs + std::mem::offset_of!(user_pt_regs, regs), fdt),
        ];
        for (offset, value) in registers {
            let result = self.fd.set_one_reg(core_register(offset), &value.to_le_bytes());
            result.map_err(VmError::kvm("setting a boot register"))?;
        }
        Ok(())
    }

    /// A handle through which other threads request an immediate exit of this vCPU.
    pub fn immediate_exit(&mut self) -> ImmediateExit {
        ImmediateExit(&raw mut self.fd.get_kvm_run().immediate_exit)
    }

    /// Runs the guest until it exits, and serves an MMIO access through `bus`.
    pub fn run(&mut self, bus: &Bus) -> Exit {
        match self.fd.run() {
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.read(address, data);
                Exit::MmioRead
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.write(address, data);
                Exit::MmioWrite
            }
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Exit::PowerOff,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Exit::Reset,
            Ok(VcpuExit::SystemEvent(event, _)) => Exit::Fatal(format!("KVM system event {event}")),
            Ok(VcpuExit::FailEntry(reason, cpu)) => Exit::Fatal(format!(
                "the hardware refused to enter the guest (reason {reason:#x} on CPU {cpu})"
            )),
            Ok(other) => Exit::Fatal(format!("unexpected exit from the guest: {other:?}")),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                // KVM returns ENOSYS when the guest accesses a device or a hole with an instruction that no syndrome
                // describes (Linux, Documentation/virt/kvm/api.rst, KVM_EXIT_ARM_NISV).
                libc::ENOSYS => Exit::Fatal(
                    "the guest accessed a device with an instruction that cannot be emulated".into(),
                ),
                _ => Exit::Fatal(format!("KVM_RUN failed: {error}")),
            },
        }
    }
}

/// The affinity bits of an `MPIDR_EL1` that is given as little-endian bytes.
#[must_use]
pub fn affinity_of(mpidr: &[u8]) -> u64 {
    mpidr.try_into().map_or(0, u64::from_le_bytes) & 0xff_00ff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_and_no_snapshot_gives_a_guest_el2() {
        for (sve, pointer_auth) in [(false, false), (true, false), (false, true), (true, true)] {
            let host = Features::of_host(sve, pointer_auth);
            assert_eq!(host.bits() & !(PSCI | SVE | POINTER_AUTH), 0, "{host:?}");
            for (feature, name) in [
                (KVM_ARM_VCPU_HAS_EL2, "EL2, which no guest gets"),
                (KVM_ARM_VCPU_HAS_EL2_E2H0, "EL2, which no guest gets"),
                (KVM_ARM_VCPU_POWER_OFF, "another feature"),
                (31, "another feature"),
            ] {
                let vcpu_features = host.bits() | 1 << feature;
                let error = host.of_guest(&SavedAarch64 { vcpu_features, ..Default::default() }).unwrap_err();
                assert!(error.to_string().contains(name), "{error}");
            }
            let same = SavedAarch64 { vcpu_features: host.bits(), ..Default::default() };
            assert_eq!(host.of_guest(&same).unwrap(), host);
        }
    }
}
