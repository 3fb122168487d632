//! Stands in for the machine where there is no KVM for aarch64, so that everything around it – the protocol,
//! the jail, the client – builds and is tested on any host. It can not be built, hence never exists.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use super::board::BoardError;
use super::end::EndSignal;
use super::{BuildError, Host};
use crate::config::MachineConfig;

/// A machine that can not exist on this architecture.
#[derive(Debug)]
pub struct Machine(Infallible);

#[expect(missing_docs, clippy::missing_errors_doc, reason = "documented where it exists, in kvm.rs")]
impl Machine {
    pub fn build(
        _: MachineConfig,
        _: BorrowedFd<'_>,
        _: &Host,
        _: Arc<EndSignal>,
    ) -> Result<Self, BuildError> {
        Err(BuildError::Architecture)
    }
    pub fn run(&self) {
        match self.0 {}
    }
    pub fn pause(&self) {
        match self.0 {}
    }
    pub fn counters(&self) -> Vec<(String, Vec<(&'static str, u64)>)> {
        match self.0 {}
    }
    pub fn set_balloon(&self, _: u32) -> Result<(), BoardError> {
        match self.0 {}
    }
    pub fn vsock_connect(&self, _: u32, _: UnixStream) -> Result<(), BoardError> {
        match self.0 {}
    }
    pub fn attach_vsock(&self, _: Option<UnixListener>, _: Option<OwnedFd>) -> Result<(), BoardError> {
        match self.0 {}
    }
}
