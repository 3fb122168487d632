//! The in-kernel GICv3 (Linux, Documentation/virt/kvm/devices/arm-vgic-v3.rst).

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::vm::VmError;
use crate::arch::layout;

/// The interrupt controller of one VM.
#[derive(Debug)]
pub struct Gic {
    /// Kept open for as long as the VM lives: its state is read and written through it.
    _device: DeviceFd,
}

impl Gic {
    /// Creates and initialises the GIC; every vCPU must exist and be initialised.
    ///
    /// # Errors
    /// [`VmError::Kvm`] naming the step that KVM refused.
    pub fn new(vm: &VmFd) -> Result<Self, VmError> {
        let mut create =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
        let device = vm.create_device(&mut create).map_err(VmError::kvm("creating a GICv3"))?;
        let set = |group: u32, attr: u32, value: Option<u64>, what| {
            let addr = value.as_ref().map_or(0, |value| std::ptr::from_ref(value) as u64);
            let attribute = kvm_device_attr { group, attr: u64::from(attr), addr, flags: 0 };
            device.set_device_attr(&attribute).map_err(VmError::kvm(what))
        };
        let address = KVM_DEV_ARM_VGIC_GRP_ADDR;
        let distributor = Some(layout::GIC_DISTRIBUTOR);
        set(address, KVM_VGIC_V3_ADDR_TYPE_DIST, distributor, "placing the GIC distributor")?;
        let redistributor = Some(layout::GIC_REDISTRIBUTOR);
        set(address, KVM_VGIC_V3_ADDR_TYPE_REDIST, redistributor, "placing the GIC redistributors")?;
        // The kernel reads a u32 here: the low half of a little-endian u64.
        let interrupts = Some(u64::from(layout::GIC_INTERRUPTS));
        set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, interrupts, "setting the number of interrupts")?;
        set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, None, "initialising the GIC")?;
        Ok(Self { _device: device })
    }
}
