//! The system calls that a helper may not make.
//!
//! A helper is a program with an asynchronous runtime, TLS and the C library of the host: which calls they make differs with their
//! versions, and a list of what is allowed would end helpers that do nothing wrong. So this is a list of what is denied: what starts or
//! looks into processes, makes sockets, changes namespaces and mounts, and the parts of the kernel in which flaws are found most often. It
//! makes the kernel's surface smaller; files, networks and privileges are kept away by the other walls.

use seccompiler::BpfProgram;

use super::program::{self, Actions, JUMP_IF_AT_LEAST, ProgramError, RETURN, instruction};
use super::rules::Allow::{self, Call, Refuse, When};
use super::rules::Arg::Bits;
use crate::config::OnViolation;

/// `CLONE_THREAD` as a 64-bit mask.
const THREAD: u64 = 0x0001_0000;
const _: () = assert!(libc::CLONE_THREAD == 0x0001_0000);

/// Numbers from here on are those of x86-64's x32, which the list does not name.
const FOREIGN_NUMBERS: u32 = 0x4000_0000;

/// Position behind the load of the call's number.
const NUMBER_LOADED: usize = 4;

/// The list, in the words of the other lists: each entry is *denied*, and under a condition only where it holds.
const DANGEROUS: &[Allow] = &[
    // Processes: to start any, or to touch others. The C library tries clone3 first, whose flags cannot be checked.
    When(libc::SYS_clone, &[Bits(0, THREAD, 0)]),
    Refuse(libc::SYS_clone3, libc::ENOSYS),
    Call(libc::SYS_execve),
    Call(libc::SYS_execveat),
    Call(libc::SYS_kcmp),
    Call(libc::SYS_kill),
    Call(libc::SYS_personality),
    Call(libc::SYS_pidfd_getfd),
    Call(libc::SYS_pidfd_open),
    Call(libc::SYS_pidfd_send_signal),
    Call(libc::SYS_process_madvise),
    Call(libc::SYS_process_vm_readv),
    Call(libc::SYS_process_vm_writev),
    Call(libc::SYS_ptrace),
    Call(libc::SYS_rt_sigqueueinfo),
    Call(libc::SYS_rt_tgsigqueueinfo),
    #[cfg(target_arch = "x86_64")]
    Call(libc::SYS_fork),
    #[cfg(target_arch = "x86_64")]
    Call(libc::SYS_vfork),
    // Sockets: a helper is given those that it may use. (A pair of its own leads nowhere.)
    Call(libc::SYS_accept),
    Call(libc::SYS_accept4),
    Call(libc::SYS_bind),
    Call(libc::SYS_connect),
    Call(libc::SYS_listen),
    Call(libc::SYS_socket),
    // Namespaces and mounts.
    Call(libc::SYS_chroot),
    Call(libc::SYS_fsconfig),
    Call(libc::SYS_fsmount),
    Call(libc::SYS_fsopen),
    Call(libc::SYS_fspick),
    Call(libc::SYS_mount),
    Call(libc::SYS_mount_setattr),
    Call(libc::SYS_move_mount),
    Call(libc::SYS_name_to_handle_at),
    Call(libc::SYS_open_by_handle_at),
    Call(libc::SYS_open_tree),
    Call(libc::SYS_pivot_root),
    Call(libc::SYS_setns),
    Call(libc::SYS_umount2),
    Call(libc::SYS_unshare),
    // Interfaces of the kernel that no helper has a use for.
    Call(libc::SYS_acct),
    Call(libc::SYS_add_key),
    Call(libc::SYS_adjtimex),
    Call(libc::SYS_bpf),
    Call(libc::SYS_clock_adjtime),
    Call(libc::SYS_clock_settime),
    Call(libc::SYS_delete_module),
    Call(libc::SYS_fanotify_init),
    Call(libc::SYS_finit_module),
    Call(libc::SYS_init_module),
    Call(libc::SYS_io_uring_enter),
    Call(libc::SYS_io_uring_register),
    Call(libc::SYS_io_uring_setup),
    Call(libc::SYS_kexec_load),
    Call(libc::SYS_keyctl),
    Call(libc::SYS_mbind),
    Call(libc::SYS_migrate_pages),
    Call(libc::SYS_move_pages),
    Call(libc::SYS_perf_event_open),
    Call(libc::SYS_quotactl),
    Call(libc::SYS_reboot),
    Call(libc::SYS_request_key),
    Call(libc::SYS_set_mempolicy),
    Call(libc::SYS_sethostname),
    Call(libc::SYS_setdomainname),
    Call(libc::SYS_settimeofday),
    Call(libc::SYS_swapoff),
    Call(libc::SYS_swapon),
    Call(libc::SYS_syslog),
    Call(libc::SYS_userfaultfd),
    Call(libc::SYS_vhangup),
    #[cfg(target_arch = "x86_64")]
    Call(libc::SYS_ioperm),
    #[cfg(target_arch = "x86_64")]
    Call(libc::SYS_iopl),
    #[cfg(target_arch = "x86_64")]
    Call(libc::SYS_modify_ldt),
];

/// Compiles the list.
pub(super) fn program(on_violation: OnViolation) -> Result<BpfProgram, ProgramError> {
    let listed = match on_violation {
        OnViolation::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        OnViolation::Log => libc::SECCOMP_RET_LOG,
    };
    let mut program = program::build(DANGEROUS, Actions { listed, otherwise: libc::SECCOMP_RET_ALLOW })?;
    let foreign = [instruction(JUMP_IF_AT_LEAST, 0, 1, FOREIGN_NUMBERS), instruction(RETURN, 0, 0, listed)];
    program.splice(NUMBER_LOADED..NUMBER_LOADED, foreign);
    Ok(program)
}
