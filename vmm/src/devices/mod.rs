//! Device models and the MMIO bus that reaches them.
//!
//! One folder or file per device. Devices know nothing of KVM: they see guest memory, an interrupt line to
//! raise and a poller to watch descriptors with, so all of them build and are tested on any host. Everything
//! that arrives from the guest – register writes, queue contents, descriptor chains – is hostile input.

pub mod bus;
pub mod random;
pub mod rtc;
pub mod serial;
pub mod virtio;
pub mod vmgenid;
