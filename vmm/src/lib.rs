//! Hearth's virtual machine monitor: one process per microVM on Linux KVM.
//!
//! The library holds the monitor itself and the client that drives it; the `hearth-vmm` binary only wires
//! them together. What depends on KVM or on the guest's architecture is built on aarch64 only; the devices,
//! the control protocol and their tests build everywhere.
//!
//! * [`memory`] – guest memory and the guest-physical address space
//! * [`devices`] – the MMIO bus, virtio-mmio and every device model
//! * [`event_loop`] – the device thread's epoll loop

pub mod devices;
pub mod event_loop;
pub mod memory;
