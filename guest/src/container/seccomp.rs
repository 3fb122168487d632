//! The system call filter on everything in the container: no AF_VSOCK sockets. That address family has no namespaces, so such a
//! socket would reach the agent's side of it.
//!
//! A filter sees no system calls that io_uring makes (`IORING_OP_SOCKET`). A socket made so still reaches nothing: the agent
//! serves only the host's context id, its port is taken, and the host connects to no other.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::system::check_long;

#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;

/// Installs the filter on this thread and the programs that it executes. The thread must have CAP_SYS_ADMIN: `no_new_privs` stays
/// unset, so that set-user-ID programs work.
///
/// # Errors
/// The kernel refused the filter.
pub fn refuse_vsock() -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, 0);
    // SAFETY: the pointer is to a program whose instructions live until the call returns; the kernel only reads them.
    check_long(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) }).map(drop)
}

/// The filter's program. Processes of other architectures are killed, because their system calls have other numbers.
fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let family = u64::from(libc::AF_VSOCK.unsigned_abs());
    // The kernel takes the family as an `int` and ignores the upper half of the register.
    let vsock = || SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family);
    let mut rules = BTreeMap::new();
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![SeccompRule::new(vec![vsock()?])?]);
    }
    let refuse = SeccompAction::Errno(libc::EAFNOSUPPORT.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, ARCHITECTURE)?.try_into()
}
