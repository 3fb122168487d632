//! A KVM virtual machine: its address space, memory slots and vCPUs.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::{io, mem};

use hearth_proto::vmm::v1::SavedAarch64;
use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::counter;
use super::error::VmError;
use super::gic::Gic;
use super::vcpu::{Features, Vcpu};
use crate::memory::{DRAM_BASE, GuestMemory, MIB};

/// Request number of the ioctl `KVM_ARM_SET_COUNTER_OFFSET`.
const SET_COUNTER_OFFSET: u64 = 0x4010_aeb5;

/// Memory slot of the VM generation id's page.
const VMGENID_SLOT: u32 = 31;
/// Smallest guest-physical address space that KVM accepts, in bits (`KVM_VM_TYPE_ARM_IPA_SIZE`).
const MIN_IPA_BITS: u32 = 32;

/// A KVM virtual machine.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    gic: Option<Gic>,
    features: Features,
}

impl Vm {
    /// Creates a VM on `kvm` (`/dev/kvm`) with the smallest address space that holds `memory_mib` MiB of memory.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn new(kvm: BorrowedFd<'_>, memory_mib: u64) -> Result<Self, VmError> {
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
        let end = DRAM_BASE + memory_mib * MIB - 1;
        let bits = (u64::BITS - end.leading_zeros()).max(MIN_IPA_BITS);
        // A small address space has fewer levels of stage-2 tables to walk and to allocate.
        let fd = kvm.create_vm_with_ipa_size(bits).map_err(VmError::kvm("creating a virtual machine"))?;
        let sve = fd.check_extension(Cap::ArmSve);
        let pointer_auth =
            fd.check_extension(Cap::ArmPtrAuthAddress) && fd.check_extension(Cap::ArmPtrAuthGeneric);
        Ok(Self { fd, gic: None, features: Features::of_host(sve, pointer_auth) })
    }

    /// Maps the guest's memory into the VM. The mapping must outlive the VM.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn map_memory(&self, memory: &GuestMemory) -> Result<(), VmError> {
        for (slot, region) in (0..).zip(memory.iter()) {
            let host = region.as_ptr() as u64;
            self.map(slot, region.start_addr().raw_value(), region.len(), host, "mapping guest memory")?;
        }
        Ok(())
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

    /// The CPU features of the vCPUs that exist or will be created.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Restricts the vCPUs that will be created to the CPU features of a snapshot's guest, instead of all features of
    /// the host.
    ///
    /// # Errors
    /// [`VmError::Features`], which names the features that the host lacks.
    pub fn restrict(&mut self, saved: &SavedAarch64) -> Result<(), VmError> {
        self.features = self.features.of_guest(saved)?;
        Ok(())
    }

    /// Makes the guest's counter continue at `count` plus `advance_ns` nanoseconds. Must be called before any register
    /// is set.
    ///
    /// # Errors
    /// [`VmError::Frequency`] when this host's counter runs at another frequency than `saved_hz`, [`VmError::Kvm`].
    pub fn set_counter(&self, count: u64, saved_hz: u64, advance_ns: u64) -> Result<(), VmError> {
        let host = counter::frequency();
        if saved_hz != host {
            return Err(VmError::Frequency { saved: saved_hz, host });
        }
        // `struct kvm_arm_counter_offset`: the offset and a reserved word.
        let mut argument = [counter::offset_for(count, advance_ns), 0];
        // SAFETY: the argument is the structure that the request takes.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), SET_COUNTER_OFFSET, argument.as_mut_ptr()) };
        if result == 0 {
            return Ok(());
        }
        Err(VmError::Kvm { what: "setting the counter's offset", source: io::Error::last_os_error() })
    }

    /// The interrupt controller; `None` before [`Self::create_vcpus`].
    #[must_use]
    pub fn gic(&self) -> Option<&Gic> {
        self.gic.as_ref()
    }

    /// Creates and initialises vCPUs `0..count`, then the GIC that they need.
    ///
    /// # Errors
    /// [`VmError`], which names the step.
    pub fn create_vcpus(&mut self, count: u32) -> Result<Vec<Vcpu>, VmError> {
        let vcpus = (0..count)
            .map(|index| Vcpu::new(&self.fd, index, &self.features))
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
