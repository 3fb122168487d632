//! A KVM virtual machine: its address space, memory slots and vCPUs.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::{io, mem};

use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::gic::Gic;
use super::vcpu::Vcpu;
use crate::memory::{DRAM_BASE, GuestMemory};

/// Memory slot of the VM generation id's page.
const VMGENID_SLOT: u32 = 31;
/// Smallest address space that KVM takes, in bits (`KVM_VM_TYPE_ARM_IPA_SIZE`).
const MIN_IPA_BITS: u32 = 32;

/// Why a virtual machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// KVM refused a step.
    #[error("{what}: {source}")]
    Kvm {
        /// What was being done.
        what: &'static str,
        /// What KVM answered.
        source: io::Error,
    },
    /// The descriptor is not KVM, or one that is too old.
    #[error(
        "the descriptor passed as KVM speaks API version {found}, not {KVM_API_VERSION}: pass /dev/kvm, opened read-write"
    )]
    NotKvm {
        /// What `KVM_GET_API_VERSION` answered.
        found: i32,
    },
    /// The host's KVM lacks something.
    #[error(
        "this host's KVM lacks {0}, which Hearth needs: run Linux 6.7 or later on a machine with a GICv3"
    )]
    Missing(&'static str),
}

impl VmError {
    /// For `map_err`: KVM refused `what`.
    pub fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { what, source: error.into() }
    }
}

/// The virtual machine.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    gic: Option<Gic>,
    has_sve: bool,
    has_pointer_auth: bool,
}

impl Vm {
    /// Creates a VM on `kvm` (`/dev/kvm`) whose address space just holds `memory`, and maps that.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn new(kvm: BorrowedFd<'_>, memory: &GuestMemory) -> Result<Self, VmError> {
        let owned = kvm
            .try_clone_to_owned()
            .map_err(|source| VmError::Kvm { what: "duplicating /dev/kvm", source })?;
        // SAFETY: the descriptor is ours, and ownership moves into the `Kvm`.
        let kvm = unsafe { Kvm::from_raw_fd(owned.as_raw_fd()) };
        mem::forget(owned);
        let found = kvm.get_api_version();
        if u32::try_from(found) != Ok(KVM_API_VERSION) {
            return Err(VmError::NotKvm { found });
        }
        for (cap, name) in [
            (Cap::OneReg, "one-reg access"),
            (Cap::ArmPsci02, "PSCI 0.2"),
            (Cap::Irqfd, "irqfd"),
            (Cap::Ioeventfd, "ioeventfd"),
            (Cap::ImmediateExit, "immediate exit"),
            (Cap::DeviceCtrl, "device control"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(VmError::Missing(name));
            }
        }
        let end = memory.last_addr().raw_value();
        let bits = (u64::BITS - end.leading_zeros()).max(MIN_IPA_BITS);
        // A small address space has fewer levels of stage-2 tables to walk and to allocate.
        let fd = kvm.create_vm_with_ipa_size(bits).map_err(VmError::kvm("creating a virtual machine"))?;
        let mut vm = Self { fd, gic: None, has_sve: false, has_pointer_auth: false };
        vm.has_sve = vm.fd.check_extension(Cap::ArmSve);
        vm.has_pointer_auth =
            vm.fd.check_extension(Cap::ArmPtrAuthAddress) && vm.fd.check_extension(Cap::ArmPtrAuthGeneric);
        for (slot, region) in (0..).zip(memory.iter()) {
            let host = region.as_ptr() as u64;
            vm.map(slot, region.start_addr().raw_value(), region.len(), host, "mapping guest memory")?;
        }
        debug_assert!(
            memory.iter().next().is_some_and(|region| region.start_addr().raw_value() == DRAM_BASE)
        );
        Ok(vm)
    }

    fn map(&self, slot: u32, guest: u64, size: u64, host: u64, what: &'static str) -> Result<(), VmError> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: guest,
            memory_size: size,
            userspace_addr: host,
        };
        // SAFETY: the caller keeps `host..host + size` mapped for as long as the VM lives (`Machine` drops the
        // VM before its memory and its devices).
        unsafe { self.fd.set_user_memory_region(region) }.map_err(VmError::kvm(what))
    }

    /// Maps the page at host address `host` as the VM generation id. The page must outlive the VM.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn map_vmgenid(&self, guest: u64, host: u64, size: u64) -> Result<(), VmError> {
        self.map(VMGENID_SLOT, guest, size, host, "mapping the VM generation id")
    }

    /// Creates and initialises vCPUs `0..count`, then the GIC that they need.
    ///
    /// # Errors
    /// [`VmError`] naming the step.
    pub fn create_vcpus(&mut self, count: u32) -> Result<Vec<Vcpu>, VmError> {
        let vcpus = (0..count)
            .map(|index| Vcpu::new(&self.fd, index, self.has_sve, self.has_pointer_auth))
            .collect::<Result<Vec<_>, _>>()?;
        self.gic = Some(Gic::new(&self.fd)?);
        Ok(vcpus)
    }

    /// Raises shared peripheral interrupt `spi` whenever `event` is signalled.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn connect_interrupt(&self, event: &EventFd, spi: u32) -> Result<(), VmError> {
        self.fd.register_irqfd(event, spi).map_err(VmError::kvm("connecting an interrupt (irqfd)"))
    }

    /// Signals `event` whenever the guest writes the 32-bit `value` at guest address `address`.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn connect_notification(&self, event: &EventFd, address: u64, value: u32) -> Result<(), VmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(VmError::kvm("connecting a queue notification (ioeventfd)"))
    }
}
