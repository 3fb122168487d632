//! Code that depends on the guest's architecture, behind one narrow interface: [`layout`] defines the addresses,
//! and the architecture's module builds a VM, describes it to the guest and runs its vCPUs.
//!
//! Only aarch64 is supported. The layout and the host's cache description build on every architecture, so that the
//! board and its tests do too.

pub mod caches;
pub mod layout;

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
