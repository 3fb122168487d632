//! aarch64 on KVM: the VM with its GICv3, its vCPUs, the boot image and the DeviceTree.
//!
//! The order of the steps matters: create and initialise the vCPUs; create the GIC (which needs to know all
//! redistributors); in a machine that is restored, set the counter's offset, then the GIC's and the vCPUs'
//! registers; then run the vCPUs. Memory slots are mapped before the first run.

pub mod boot;
pub mod counter;
pub mod error;
pub mod fdt;
pub mod gic;
pub mod registers;
pub mod vcpu;
pub mod vm;
