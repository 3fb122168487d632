//! Hearth's virtual machine monitor: one process per microVM on Linux KVM.
//!
//! The library contains the monitor itself. The `hearth-vmm` binary wires it together with its jail
//! ([`hearth_vmm_jail`]) and with the client that drives it ([`hearth_vmm_client`]). Code that depends on KVM or on the
//! guest's architecture is built on aarch64 only; the devices, the control protocol and their tests build everywhere.
//!
//! * [`arch`] – the architecture-specific parts: address space, vCPUs, GIC, DeviceTree
//! * [`control`] – answers the requests of controllers
//! * [`machine`] – assembles memory, vCPUs and devices, and runs their threads
//! * [`memory`] – guest memory and the guest-physical address space
//! * [`devices`] – the MMIO bus, virtio-mmio and every device model
//! * [`event_loop`] – the device thread's epoll loop
//! * [`rate_limiter`] – token buckets for block and net devices
//! * [`snapshot`] – saves a machine to files and restores it from them

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "tests cast small numbers that they chose themselves"
    )
)]

pub mod arch;
pub mod control;
pub mod devices;
pub mod event_loop;
mod files;
pub mod machine;
pub mod memory;
pub mod rate_limiter;
pub mod snapshot;
