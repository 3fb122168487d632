//! Device models and the MMIO bus that reaches them.
//!
//! Each device has one folder or file. Devices do not depend on KVM: they use guest memory, an interrupt line and
//! a poller that watches descriptors, so all of them build and are tested on any host. Everything
//! that arrives from the guest – register writes, queue contents, descriptor chains – is hostile input.

pub mod bus;
pub mod random;
pub mod rtc;
pub mod serial;
pub mod virtio;
pub mod vmgenid;
