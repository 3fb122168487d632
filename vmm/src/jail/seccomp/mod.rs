//! System call filters: every thread may make the calls that its role needs, and no other.
//!
//! [`tables`] lists the calls in terms of [`rules`], [`program`] turns the lists into BPF programs, and
//! [`Filters`] holds the programs, made once per process, and installs them with `seccompiler`. The control thread's filter
//! goes up with the jail; threads inherit it when they start and add their role's own, so a call must pass
//! both. The lists nest: what any role may do, the control thread's list has.
//!
//! A call that is not listed kills the whole process with `SIGSYS` ([`OnViolation::Kill`]). The parent sees
//! that signal in the exit status; the kernel's audit log names the call (`type=1326 … syscall=…`).
//!
//! Two limits are worth knowing. What a pointer points to cannot be checked, so `clone3` is answered with
//! `ENOSYS` (glibc then uses `clone`, whose flags can be). And an io_uring request is not a system call:
//! what it may do is bounded by the other walls – an empty root, an empty network namespace, no capability,
//! and Landlock, which checks such requests too.

mod program;
mod rules;
mod tables;

use std::sync::{Arc, OnceLock};

use program::Actions;
pub use program::ProgramError;
use seccompiler::BpfProgram;

use super::config::OnViolation;

/// What a thread is for, and so which system calls it may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadRole {
    /// The main thread: sets the board up, serves the control socket, writes snapshots, starts threads.
    Control,
    /// The thread of the devices' event loop.
    Device,
    /// A thread that runs a vCPU, and in its exits the devices' registers.
    Vcpu,
    /// A thread that moves guest memory from or to files: the saver, the recorder, the working set's.
    Memory,
}

/// Why the system call filters could not be made or installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The tables do not make a filter.
    #[error("cannot compile the {role:?} filter: {source}")]
    Compile {
        /// Whose filter.
        role: ThreadRole,
        /// What is wrong with its list.
        source: ProgramError,
    },
    /// The kernel refused the filter.
    #[error("cannot install the {role:?} filter: {source}; the host kernel needs CONFIG_SECCOMP_FILTER")]
    Install {
        /// Whose filter.
        role: ThreadRole,
        /// What the kernel answered.
        source: seccompiler::Error,
    },
}

#[derive(Debug)]
struct Programs {
    no_clone3: BpfProgram,
    control: BpfProgram,
    device: BpfProgram,
    vcpu: BpfProgram,
    /// Compiled when it is first needed: most microVMs are neither saved nor recorded.
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

/// The filters of this process, compiled. Cheap to clone, to be handed to every thread that is started.
#[derive(Debug, Clone)]
pub struct Filters(Option<Arc<Programs>>);

impl Filters {
    /// Compiles the filters of all roles for the calling process.
    ///
    /// # Errors
    /// [`SeccompError::Compile`], which the tests rule out for the tables as they are.
    pub fn compile(on_violation: OnViolation) -> Result<Self, SeccompError> {
        let compile = |role| compile(role, on_violation);
        let errno = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        let refuse = Actions { listed: errno, otherwise: libc::SECCOMP_RET_ALLOW };
        let no_clone3 = program::build(&[rules::Allow::Call(libc::SYS_clone3)], refuse)
            .map_err(|source| SeccompError::Compile { role: ThreadRole::Control, source })?;
        Ok(Self(Some(Arc::new(Programs {
            no_clone3,
            control: compile(ThreadRole::Control)?,
            device: compile(ThreadRole::Device)?,
            vcpu: compile(ThreadRole::Vcpu)?,
            memory: OnceLock::new(),
            on_violation,
        }))))
    }

    /// Filters that let everything through, for a process whose seccomp wall is switched off.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Installs the filter of `role` on the calling thread, for good. [`ThreadRole::Control`] comes first,
    /// on the main thread ([`super::enter`] does it); other threads call this as the first thing they do.
    ///
    /// # Errors
    /// [`SeccompError::Install`] when the kernel refuses it; the thread must not go on then.
    pub fn install(&self, role: ThreadRole) -> Result<(), SeccompError> {
        let Some(programs) = &self.0 else { return Ok(()) };
        let apply = |program: &BpfProgram| {
            seccompiler::apply_filter(program).map_err(|source| SeccompError::Install { role, source })
        };
        match role {
            ThreadRole::Control => {
                apply(&programs.no_clone3)?;
                apply(&programs.control)
            }
            ThreadRole::Device => apply(&programs.device),
            ThreadRole::Vcpu => apply(&programs.vcpu),
            ThreadRole::Memory => apply(programs.memory()?),
        }
    }
}

/// Keeps the C and Rust runtimes from opening files behind the program's back, which the filters would
/// punish with death. To be called before a second thread exists.
pub(super) fn prepare_process() {
    // glibc opens /proc/sys/vm/overcommit_memory when it first shrinks the heap of a thread. With one arena
    // for all threads there is no such heap. (malloc/arena.c, sysdeps/unix/sysv/linux/malloc-sysdep.h)
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number before any other thread could allocate.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
    for variable in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // A backtrace opens the program's file, and its panic message would be the last thing heard.
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
