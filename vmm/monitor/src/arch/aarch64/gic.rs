//! The in-kernel GICv3 (Linux, Documentation/virt/kvm/devices/arm-vgic-v3.rst): how it is created, saved and restored.
//!
//! Registers that are zero after a reset and zero when they are saved are left out of a snapshot: most are, and each
//! would cost a system call when it is restored.

use hearth_proto::vmm::v1::{GicRegisters, SavedGic, SavedGicVcpu};
use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::error::VmError;
use crate::arch::layout;

/// Number of private interrupt ids of each vCPU.
const PRIVATE: u32 = 32;
/// Number of shared interrupt ids.
const SHARED: u32 = layout::GIC_INTERRUPTS - PRIVATE;

// Registers of the distributor and of a redistributor's SGI frame (Arm IHI 0069, 12.9 and 12.11).
const CTLR: u32 = 0;
const IIDR: u32 = 0x8;
const IGROUPR: u32 = 0x80;
const ISENABLER: u32 = 0x100;
const ICENABLER: u32 = 0x180;
const ISPENDR: u32 = 0x200;
const ISACTIVER: u32 = 0x300;
const IPRIORITYR: u32 = 0x400;
const ICFGR: u32 = 0xc00;
const IROUTER: u32 = 0x6000;
const WAKER: u32 = 0x14;
const SGI_FRAME: u32 = 0x1_0000;

/// Number of a register of the CPU interface as KVM encodes it: op0 (3), op1 (0), CRn, CRm, op2.
const fn icc(crn: u32, crm: u32, op2: u32) -> u32 {
    3 << 14 | crn << 7 | crm << 3 | op2
}
const ICC_SRE: u32 = icc(12, 12, 5);
const ICC_CTLR: u32 = icc(12, 12, 4);
const ICC_IGRPEN0: u32 = icc(12, 12, 6);
const ICC_IGRPEN1: u32 = icc(12, 12, 7);
const ICC_PMR: u32 = icc(4, 6, 0);
const ICC_BPR0: u32 = icc(12, 8, 3);
const ICC_BPR1: u32 = icc(12, 12, 3);
const ICC_AP0R0: u32 = icc(12, 8, 4);
const ICC_AP1R0: u32 = icc(12, 9, 0);

/// The interrupt controller of one VM.
#[derive(Debug)]
pub struct Gic {
    device: DeviceFd,
}

impl Gic {
    /// Creates and initialises the GIC; every vCPU must exist and be initialised.
    ///
    /// # Errors
    /// [`VmError::Kvm`], which names the step that KVM refused.
    pub fn new(vm: &VmFd) -> Result<Self, VmError> {
        let mut create =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
        let gic = Self { device: vm.create_device(&mut create).map_err(VmError::kvm("creating a GICv3"))? };
        let address = KVM_DEV_ARM_VGIC_GRP_ADDR;
        let distributor = layout::GIC_DISTRIBUTOR;
        gic.set(address, KVM_VGIC_V3_ADDR_TYPE_DIST.into(), distributor, "placing the GIC distributor")?;
        let redistributor = layout::GIC_REDISTRIBUTOR;
        gic.set(
            address,
            KVM_VGIC_V3_ADDR_TYPE_REDIST.into(),
            redistributor,
            "placing the GIC redistributors",
        )?;
        // The kernel reads a u32 here: the low half of a little-endian u64.
        let interrupts = u64::from(layout::GIC_INTERRUPTS);
        gic.set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, interrupts, "setting the number of interrupts")?;
        let initialise = u64::from(KVM_DEV_ARM_VGIC_CTRL_INIT);
        gic.set(KVM_DEV_ARM_VGIC_GRP_CTRL, initialise, 0, "initialising the GIC")?;
        Ok(gic)
    }

    /// Sets an attribute of the device. KVM takes the low half of `value` for an attribute that is 32 bits wide.
    fn set(&self, group: u32, attr: u64, value: u64, what: &'static str) -> Result<(), VmError> {
        let attribute = kvm_device_attr { group, attr, addr: std::ptr::from_ref(&value) as u64, flags: 0 };
        self.device.set_device_attr(&attribute).map_err(VmError::kvm(what))
    }

    fn get(&self, group: u32, attr: u64) -> Result<u64, VmError> {
        let mut value = 0_u64;
        let addr = std::ptr::from_mut(&mut value) as u64;
        let mut attribute = kvm_device_attr { group, attr, addr, flags: 0 };
        // SAFETY: KVM writes 4 or 8 bytes, for which there is room.
        unsafe { self.device.get_device_attr(&mut attribute) }
            .map_err(VmError::kvm("reading a register of the GIC"))?;
        Ok(value)
    }

    /// Reads registers; leaves out those that are zero and marked [`Zero::IsReset`].
    fn read(
        &self,
        group: u32,
        affinity: u64,
        registers: impl Iterator<Item = (u32, Zero)>,
    ) -> Result<GicRegisters, VmError> {
        let mut saved = GicRegisters::default();
        for (register, zero) in registers {
            let value = self.get(group, affinity << 32 | u64::from(register))?;
            if value != 0 || zero == Zero::Counts {
                saved.registers.push(register);
                saved.values.push(value);
            }
        }
        Ok(saved)
    }

    fn write(
        &self,
        group: u32,
        affinity: u64,
        saved: &GicRegisters,
        what: &'static str,
    ) -> Result<(), VmError> {
        for (&register, &value) in saved.registers.iter().zip(&saved.values) {
            self.set(group, affinity << 32 | u64::from(register), value, what)?;
        }
        Ok(())
    }

    /// Reads the complete state of the GIC; `affinities` are those of the vCPUs. No vCPU may run.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn save(&self, affinities: &[u64]) -> Result<SavedGic, VmError> {
        let distributor = self.read(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0, distributor_registers())?;
        let lines = (PRIVATE..layout::GIC_INTERRUPTS).step_by(32).map(|first| (first, Zero::IsReset));
        let shared_lines = self.read(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, 0, lines)?;
        let vcpu = |&affinity: &u64| {
            let affinity = packed(affinity);
            let private = std::iter::once((0, Zero::IsReset));
            Ok(SavedGicVcpu {
                affinity,
                redistributor: Some(self.read(
                    KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
                    affinity,
                    redistributor_registers(),
                )?),
                cpu_interface: Some(self.save_cpu_interface(affinity)?),
                private_lines: Some(self.read(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, affinity, private)?),
            })
        };
        let vcpus = affinities.iter().map(vcpu).collect::<Result<_, VmError>>()?;
        Ok(SavedGic { distributor: Some(distributor), shared_lines: Some(shared_lines), vcpus })
    }

    fn save_cpu_interface(&self, affinity: u64) -> Result<GicRegisters, VmError> {
        let group = KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS;
        let priorities = (self.get(group, affinity << 32 | u64::from(ICC_CTLR))? >> 8 & 7) + 1;
        // There is one active-priorities register for 5 bits of priority, two for 6, four for 7 (Arm IHI 0069, 12.2.1).
        let active = match priorities {
            7.. => 4,
            6 => 2,
            _ => 1,
        };
        let fixed = [ICC_SRE, ICC_CTLR, ICC_IGRPEN0, ICC_IGRPEN1, ICC_PMR, ICC_BPR0, ICC_BPR1];
        let active = (0..active).flat_map(|number| [ICC_AP0R0 + number, ICC_AP1R0 + number]);
        let registers = fixed.into_iter().chain(active).map(|register| (register, Zero::Counts));
        self.read(group, affinity, registers)
    }

    /// Restores the state that [`Self::save`] read into a new GIC. `raised` lists shared interrupts that are to be
    /// pending in addition to those that were pending.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn restore(&self, saved: &SavedGic, raised: &[u32]) -> Result<(), VmError> {
        let what = "putting back the GIC distributor";
        let mut pending = [0_u64; (SHARED / 32) as usize];
        for &spi in raised {
            if let Some(word) = usize::try_from(spi / 32).ok().and_then(|word| pending.get_mut(word)) {
                *word |= 1 << (spi % 32);
            }
        }
        if let Some(distributor) = &saved.distributor {
            self.write(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0, distributor, what)?;
            for (word, raised) in (1..).zip(pending) {
                let register = ISPENDR + 4 * word;
                let place = distributor.registers.iter().position(|&other| other == register);
                let was = place.and_then(|place| distributor.values.get(place)).copied().unwrap_or(0);
                if raised & !was != 0 {
                    self.set(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, register.into(), was | raised, what)?;
                }
            }
        }
        for vcpu in &saved.vcpus {
            if let Some(redistributor) = &vcpu.redistributor {
                let what = "putting back a GIC redistributor";
                let group = KVM_DEV_ARM_VGIC_GRP_REDIST_REGS;
                // A reset enables some private interrupts, and a write to ISENABLER can only enable interrupts.
                let disable = vcpu.affinity << 32 | u64::from(SGI_FRAME + ICENABLER);
                self.set(group, disable, u64::from(u32::MAX), what)?;
                self.write(group, vcpu.affinity, redistributor, what)?;
            }
            if let Some(interface) = &vcpu.cpu_interface {
                let what = "putting back a GIC CPU interface";
                self.write(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, vcpu.affinity, interface, what)?;
            }
        }
        let what = "putting back the levels of interrupt lines";
        let lines = saved.vcpus.iter().filter_map(|vcpu| Some((vcpu.affinity, vcpu.private_lines.as_ref()?)));
        for (affinity, lines) in saved.shared_lines.iter().map(|lines| (0, lines)).chain(lines) {
            self.write(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, affinity, lines, what)?;
        }
        Ok(())
    }
}

/// Whether a register that was zero must be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zero {
    /// No: the register is zero after a reset.
    IsReset,
    /// Yes: the register may not be zero after a reset.
    Counts,
}

/// The 32-bit words of a register bank that has `bits` bits for each shared interrupt.
fn shared_bank(base: u32, bits: u32, zero: Zero) -> impl Iterator<Item = (u32, Zero)> {
    let first = PRIVATE * bits / 8;
    (0..SHARED * bits / 32).map(move |word| (base + first + 4 * word, zero))
}

fn distributor_registers() -> impl Iterator<Item = (u32, Zero)> {
    [(IIDR, Zero::Counts), (CTLR, Zero::Counts)]
        .into_iter()
        .chain(shared_bank(IGROUPR, 1, Zero::Counts))
        .chain(shared_bank(IROUTER, 64, Zero::IsReset))
        .chain(shared_bank(IPRIORITYR, 8, Zero::IsReset))
        .chain(shared_bank(ICFGR, 2, Zero::IsReset))
        .chain(shared_bank(ISENABLER, 1, Zero::IsReset))
        .chain(shared_bank(ISPENDR, 1, Zero::IsReset))
        .chain(shared_bank(ISACTIVER, 1, Zero::IsReset))
}

fn redistributor_registers() -> impl Iterator<Item = (u32, Zero)> {
    let frame = |register| SGI_FRAME + register;
    let priorities = (0..PRIVATE / 4).map(move |word| (frame(IPRIORITYR + 4 * word), Zero::IsReset));
    [
        (CTLR, Zero::IsReset),
        (WAKER, Zero::Counts),
        (frame(IGROUPR), Zero::Counts),
        (frame(ICFGR), Zero::Counts),
        (frame(ICFGR + 4), Zero::Counts),
        (frame(ISENABLER), Zero::IsReset),
        (frame(ISPENDR), Zero::IsReset),
        (frame(ISACTIVER), Zero::IsReset),
    ]
    .into_iter()
    .chain(priorities)
}

/// The affinity fields of an `MPIDR_EL1`, packed into 32 bits: Aff3, Aff2, Aff1, Aff0.
fn packed(affinity: u64) -> u64 {
    affinity & 0xff_ffff | affinity >> 8 & 0xff00_0000
}
