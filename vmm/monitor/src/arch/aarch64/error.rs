//! Why a virtual machine could not be built.

use std::io;

use kvm_bindings::KVM_API_VERSION;

use super::registers::RegisterError;

/// Why a virtual machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// KVM refused a step.
    #[error("{what}: {source}")]
    Kvm {
        /// The operation that failed.
        what: &'static str,
        /// Error from KVM.
        source: io::Error,
    },
    /// The descriptor does not refer to `/dev/kvm`, or KVM is too old.
    #[error(
        "the descriptor passed as KVM speaks API version {found}, not {KVM_API_VERSION}: pass /dev/kvm, opened read-write"
    )]
    NotKvm {
        /// The version that `KVM_GET_API_VERSION` returned.
        found: i32,
    },
    /// A register could not be saved or restored.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The snapshot's guest uses CPU features that this host lacks.
    #[error(
        "the snapshot's guest uses CPU features that this host lacks: {0}; restore it on a host with the same CPU"
    )]
    Features(String),
    /// The snapshot's counter has another frequency.
    #[error(
        "the snapshot's guest counts time at {saved} Hz, this host's counter runs at {host} Hz: restore it on a host with the same CPU"
    )]
    Frequency {
        /// The snapshot's frequency in Hz.
        saved: u64,
        /// This host's frequency in Hz.
        host: u64,
    },
    /// The host's KVM lacks a capability that Hearth needs.
    #[error(
        "this host's KVM lacks {0}, which Hearth needs: run Linux 6.7 or later on a machine with a GICv3"
    )]
    Missing(&'static str),
}

impl VmError {
    /// For `map_err`: KVM refused the operation `what`.
    pub fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { what, source: error.into() }
    }
}
