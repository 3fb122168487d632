//! Stands in for the machine on hosts that are not aarch64, so that everything around it – the protocol,
//! the jail, the client – builds and is tested on any host. Its values can never be constructed.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use hearth_vmm_api::config::MachineConfig;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::steps::Steps;

use super::board::BoardError;
use super::shutdown::ShutdownSignal;
use super::{BuildError, Host, Restored, SavedParts, Snapshot};
use crate::memory::GuestMemory;
use crate::snapshot::load::Backing;
use crate::snapshot::record::Recorder;

/// A machine, which cannot exist on this architecture.
#[derive(Debug)]
pub struct Machine(Infallible);

/// A prepared VM, which cannot exist on this architecture.
#[derive(Debug)]
pub struct Prepared(Infallible);

#[expect(missing_docs, clippy::missing_errors_doc, reason = "documented where it exists, in restore.rs")]
impl Prepared {
    pub fn new(_: BorrowedFd<'_>, _: u32, _: u64) -> Result<Self, BuildError> {
        Err(BuildError::Architecture)
    }
}

#[expect(missing_docs, clippy::missing_errors_doc, reason = "documented where it exists, in kvm.rs")]
impl Machine {
    pub fn build(
        _: MachineConfig,
        _: BorrowedFd<'_>,
        _: &Host,
        _: Arc<ShutdownSignal>,
    ) -> Result<Self, BuildError> {
        Err(BuildError::Architecture)
    }
    pub fn restore(
        _: Snapshot,
        _: BorrowedFd<'_>,
        _: Option<Prepared>,
        _: &Host,
        _: Arc<ShutdownSignal>,
        _: &mut Steps,
    ) -> Result<Restored, BuildError> {
        Err(BuildError::Architecture)
    }
    pub fn run(&self) {
        match self.0 {}
    }
    pub fn pause(&self) {
        match self.0 {}
    }
    pub fn save(&self) -> Result<SavedParts, BuildError> {
        match self.0 {}
    }
    pub fn memory(&self) -> &GuestMemory {
        match self.0 {}
    }
    pub fn backing(&self) -> Option<&Arc<Backing>> {
        match self.0 {}
    }
    pub fn recorder(&self) -> Option<&Recorder> {
        match self.0 {}
    }
    pub fn counters(&self) -> Vec<(String, Vec<(&'static str, u64)>)> {
        match self.0 {}
    }
    pub fn set_balloon(&self, _: u32) -> Result<(), BoardError> {
        match self.0 {}
    }
    pub fn set_limits(&self, _: DeviceLimits) -> Result<(), BoardError> {
        match self.0 {}
    }
    pub fn vsock_connect(&self, _: u32, _: UnixStream) -> Result<(), BoardError> {
        match self.0 {}
    }
    pub fn attach_vsock(&self, _: Option<UnixListener>, _: Option<OwnedFd>) -> Result<(), BoardError> {
        match self.0 {}
    }
}
