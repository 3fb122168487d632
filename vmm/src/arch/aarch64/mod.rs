//! aarch64 on KVM: the VM with its GICv3, its vCPUs, the boot image and the DeviceTree.
//!
//! Order matters and is fixed here: memory slots, vCPUs created and initialised, then the GIC (which wants
//! to know all redistributors), then – in a machine that is restored – the counter's offset, the GIC's and the
//! vCPUs' registers, then the first run.

pub mod boot;
pub mod counter;
pub mod fdt;
pub mod gic;
pub mod registers;
pub mod vcpu;
pub mod vm;
