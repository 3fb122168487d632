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
//!
//! # Threads and what they share
//!
//! Each thread installs a system call filter of its own ([`hearth_vmm_jail`]). The control thread does nothing for the guest, so
//! that no vCPU and no device holds it up.
//!
//! | Thread | How many | Owner | Waits for | Gives |
//! |---|---|---|---|---|
//! | control (the process's first) | 1 | [`control::server::Server`] | one epoll: controllers (packets over Unix sockets), the machine's end, a save that is done (eventfds) | answers; opens and closes the gates |
//! | `vcpuN` | one per vCPU | [`machine::Machine`] | the guest (`KVM_RUN`), its gate, a signal that interrupts it | accesses to the bus of [`devices`]; the machine's end |
//! | `devices` | 1 | [`machine::Machine`] | [`event_loop`], one epoll: notifications of queues (ioeventfds), descriptors of taps, sockets, rings and timers; its gate | guest memory, interrupts (irqfds); the machine's end |
//! | `save` | one while a save is under way | [`snapshot::saver::Saver`] | files; a flag that cancels it | snapshot files; its outcome behind a lock, then an eventfd for control |
//! | `record` | 1 where a working set is recorded | [`snapshot::record`] | pages that the guest misses (userfaultfd), an eventfd that stops it | the pages; the order in which they were touched, behind a lock |
//! | `working-set` | one for a moment after a restore | nobody: it ends by itself | files | mapped pages |
//!
//! * A [`machine::gate::Gate`] stops and starts workers: one for the vCPUs, one for the device thread. Only control opens
//!   and closes them, in the order that [`machine`] describes.
//! * A device is behind a lock on its bus: vCPUs reach its registers, the device thread its queues.
//! * The machine's end is [`machine::shutdown::ShutdownSignal`]: the first thread that sees one reports it, control acts on it.
//! * Guest memory belongs to the guest: all threads reach it through [`memory`], and none trusts what it reads.

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
