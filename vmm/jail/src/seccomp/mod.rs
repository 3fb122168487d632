//! System call filters: every thread may make only the calls that its role needs.
//!
//! [`tables`] lists the calls in terms of [`rules`], and [`program`] compiles the lists into BPF programs. [`Filters`]
//! holds the programs, compiled once per process, and installs them with `seccompiler`. The control thread's filter is
//! installed when the process enters the jail. Threads inherit it when they start and add the filter of their own role,
//! so a call must pass both. The lists nest: the control thread's list contains every call of every role.
//!
//! A call that is not listed kills the whole process with `SIGSYS` ([`OnViolation::Kill`]). The parent sees that signal
//! in the exit status; the kernel's audit log contains the call (`type=1326 … syscall=…`).
//!
//! The filters have two limits. They cannot check what a pointer points to, so `clone3` returns `ENOSYS` (glibc then
//! uses `clone`, whose flags can be checked). And an io_uring request is not a system call: the other walls restrict it
//! – an empty root, an empty network namespace, no capability, and Landlock, which checks such requests too.
//!
//! Helpers ([`super::enter_helper`]) have a list of the opposite kind ([`dangerous`]): what is listed kills, all else is allowed.

mod dangerous;
mod program;
mod rules;
mod tables;

use std::sync::{Arc, OnceLock};

use program::Actions;
pub use program::ProgramError;
use seccompiler::BpfProgram;

use super::config::OnViolation;

/// The purpose of a thread, which determines the system calls that it may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadRole {
    /// The main thread: sets the board up, serves the control socket, writes snapshots, starts threads.
    Control,
    /// The thread of the devices' event loop.
    Device,
    /// A thread that runs a vCPU, and handles its accesses to the devices' registers.
    Vcpu,
    /// A thread that moves guest memory from or to files: that of the saver, of the recorder, or of a working set.
    Memory,
}

/// The reason for which the system call filters could not be compiled or installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// A list cannot be compiled into a filter.
    #[error("cannot compile the {role:?} filter: {source}")]
    Compile {
        /// The role whose list it is.
        role: ThreadRole,
        /// The error in the list.
        source: ProgramError,
    },
    /// The list of dangerous calls cannot be compiled into a filter.
    #[error("cannot compile the filter of dangerous system calls: {0}")]
    CompileDangerous(ProgramError),
    /// The kernel refused the filter of dangerous calls.
    #[error(
        "cannot install the filter of dangerous system calls: {0}; the host kernel needs CONFIG_SECCOMP_FILTER"
    )]
    InstallDangerous(seccompiler::Error),
    /// The kernel refused the filter.
    #[error("cannot install the {role:?} filter: {source}; the host kernel needs CONFIG_SECCOMP_FILTER")]
    Install {
        /// The role whose filter it is.
        role: ThreadRole,
        /// The error that the kernel returned.
        source: seccompiler::Error,
    },
}

#[derive(Debug)]
struct Programs {
    control: BpfProgram,
    device: BpfProgram,
    vcpu: BpfProgram,
    /// Compiled when it is first needed, because most microVMs are neither saved nor recorded.
    memory: OnceLock<BpfProgram>,
    on_violation: OnViolation,
}

impl Programs {
    fn memory(&self) -> Result<&BpfProgram, SeccompError> {
        if let Some(program) = self.memory.get() {
            return Ok(program);
        }
        let program = compile(ThreadRole::Memory, self.on_violation)?;
        Ok(self.memory.get_or_init(|| program))
    }
}

fn compile(role: ThreadRole, on_violation: OnViolation) -> Result<BpfProgram, SeccompError> {
    let otherwise = match on_violation {
        OnViolation::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        OnViolation::Log => libc::SECCOMP_RET_LOG,
    };
    let listed: Vec<rules::Allow> = tables::of(role).collect();
    program::build(&listed, Actions { listed: libc::SECCOMP_RET_ALLOW, otherwise })
        .map_err(|source| SeccompError::Compile { role, source })
}

/// The compiled filters of this process. Cheap to clone; every thread that is started receives a clone.
#[derive(Debug, Clone)]
pub struct Filters(Option<Arc<Programs>>);

impl Filters {
    /// Compiles the filters of all roles for the calling process.
    ///
    /// # Errors
    /// [`SeccompError::Compile`], which cannot occur with the current tables: the tests compile them.
    pub fn compile(on_violation: OnViolation) -> Result<Self, SeccompError> {
        let compile = |role| compile(role, on_violation);
        Ok(Self(Some(Arc::new(Programs {
            control: compile(ThreadRole::Control)?,
            device: compile(ThreadRole::Device)?,
            vcpu: compile(ThreadRole::Vcpu)?,
            memory: OnceLock::new(),
            on_violation,
        }))))
    }

    /// Creates filters that allow everything, for a process whose seccomp wall is switched off.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Permanently installs the filter of `role` on the calling thread. The filter of [`ThreadRole::Control`] is the
    /// first, on the main thread ([`super::enter`] installs it); other threads call this before they do anything else.
    ///
    /// # Errors
    /// [`SeccompError::Install`] when the kernel refuses the filter; the thread must not continue then.
    pub fn install(&self, role: ThreadRole) -> Result<(), SeccompError> {
        let Some(programs) = &self.0 else { return Ok(()) };
        let apply = |program: &BpfProgram| {
            seccompiler::apply_filter(program).map_err(|source| SeccompError::Install { role, source })
        };
        match role {
            ThreadRole::Control => apply(&programs.control),
            ThreadRole::Device => apply(&programs.device),
            ThreadRole::Vcpu => apply(&programs.vcpu),
            ThreadRole::Memory => apply(programs.memory()?),
        }
    }
}

/// Permanently denies the calling thread, and all that it starts, the calls of [`dangerous`].
pub(super) fn deny_dangerous(on_violation: OnViolation) -> Result<(), SeccompError> {
    let program = dangerous::program(on_violation).map_err(SeccompError::CompileDangerous)?;
    seccompiler::apply_filter(&program).map_err(SeccompError::InstallDangerous)
}

/// Keeps the C and Rust runtimes from opening files implicitly, for which the filters would kill the process. Must be
/// called before a second thread exists.
pub(super) fn prepare_process() {
    // glibc opens /proc/sys/vm/overcommit_memory when it first shrinks the heap of a thread. With one arena
    // for all threads there is no such heap. (malloc/arena.c, sysdeps/unix/sysv/linux/malloc-sysdep.h)
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number before any other thread could allocate.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
    for variable in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // A backtrace opens the program's file, so the process would be killed right after its panic message.
        // SAFETY: there is no other thread that could read the environment.
        unsafe { std::env::remove_var(variable) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_of_every_role_compile_within_the_kernels_limit() {
        for on_violation in [OnViolation::Kill, OnViolation::Log] {
            let filters = Filters::compile(on_violation).unwrap();
            let programs = filters.0.unwrap();
            // BPF_MAXINSNS (linux/bpf_common.h)
            for program in [&programs.control, &programs.device, &programs.vcpu, programs.memory().unwrap()] {
                assert!((50..4096).contains(&program.len()), "{}", program.len());
            }
        }
    }
}
