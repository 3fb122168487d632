//! aarch64 on KVM: the VM with its GICv3, its vCPUs, the boot image and the DeviceTree.
//!
//! Order matters and is fixed here: memory slots, vCPUs created and initialised, then the GIC (which wants
//! to know all redistributors), then the first run.

pub mod boot;
pub mod fdt;
pub mod gic;
pub mod vcpu;
pub mod vm;
