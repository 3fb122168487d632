//! The system calls that each role may make.
//!
//! The groups nest so that the control thread's list contains everything that a thread it starts may need. No group
//! contains calls that take a path, create a socket, run a program, or act on another process.

use super::ThreadRole;
use super::rules::Allow::{self, Call, Refuse, When};
use super::rules::Arg::{Bits, Is, IsThisProcess};

/// Returns the list of `role`.
pub(super) fn of(role: ThreadRole) -> impl Iterator<Item = Allow> {
    let groups: &'static [&'static [Allow]] = match role {
        // Entering the guest is its most frequent call: its group comes first.
        ThreadRole::Vcpu => &[VCPU, RUNTIME, DEVICES],
        ThreadRole::Device => &[RUNTIME, DEVICES, EVENT_LOOP],
        ThreadRole::Memory => &[RUNTIME, MEMORY],
        ThreadRole::Control => &[VCPU, RUNTIME, DEVICES, EVENT_LOOP, MEMORY, CONTROL],
    };
    groups.iter().copied().flatten().copied()
}

/// `PROT_EXEC` as a 64-bit mask.
const EXECUTABLE: u64 = 4;
const _: () = assert!(libc::PROT_EXEC == 4);

/// The flags with which glibc starts a thread (sysdeps/unix/sysv/linux/createthread.c): `CLONE_VM`, `_FS`, `_FILES`,
/// `_SIGHAND`, `_THREAD`, `_SYSVSEM`, `_SETTLS`, `_PARENT_SETTID`, `_CHILD_CLEARTID`. With these flags `clone` cannot
/// create a process or a namespace.
const THREAD_FLAGS: u32 = 0x003d_0f00;

/// Calls of every thread: memory, locks, time, signals to the own process, descriptors that it holds, its exit.
const RUNTIME: &[Allow] = &[
    Call(libc::SYS_brk),
    Call(libc::SYS_clock_getres),
    Call(libc::SYS_clock_gettime),
    Call(libc::SYS_clock_nanosleep),
    Call(libc::SYS_close),
    Call(libc::SYS_exit),
    Call(libc::SYS_exit_group),
    Call(libc::SYS_futex),
    Call(libc::SYS_getpid),
    Call(libc::SYS_getrandom),
    Call(libc::SYS_gettid),
    Call(libc::SYS_gettimeofday),
    Call(libc::SYS_madvise),
    Call(libc::SYS_membarrier),
    When(libc::SYS_mmap, &[Bits(2, EXECUTABLE, 0)]),
    When(libc::SYS_mprotect, &[Bits(2, EXECUTABLE, 0)]),
    Call(libc::SYS_mremap),
    Call(libc::SYS_munmap),
    Call(libc::SYS_nanosleep),
    When(libc::SYS_prctl, &[Is(0, PR_SET_NAME)]),
    // Querying a limit, not setting one: the pointer to the new value is null.
    When(libc::SYS_prlimit64, &[Is(0, 0), Bits(2, u64::MAX, 0)]),
    Call(libc::SYS_read),
    Call(libc::SYS_readv),
    Call(libc::SYS_restart_syscall),
    Call(libc::SYS_rseq),
    // abort() resets the handler of its signal.
    When(libc::SYS_rt_sigaction, &[Is(0, SIGABRT)]),
    Call(libc::SYS_rt_sigprocmask),
    Call(libc::SYS_rt_sigreturn),
    Call(libc::SYS_sched_getaffinity),
    Call(libc::SYS_sched_yield),
    Call(libc::SYS_set_robust_list),
    Call(libc::SYS_sigaltstack),
    When(libc::SYS_tgkill, &[IsThisProcess(0)]),
    Call(libc::SYS_write),
    Call(libc::SYS_writev),
];

/// Calls of the device models: I/O on descriptors that were passed to the process. A vCPU thread makes them too, since
/// a write to a device's registers activates, resets or configures the device in the vCPU's thread.
const DEVICES: &[Allow] = &[
    Call(libc::SYS_epoll_create1),
    Call(libc::SYS_epoll_ctl),
    Call(libc::SYS_eventfd2),
    Call(libc::SYS_fallocate),
    When(libc::SYS_fcntl, &[Is(1, F_DUPFD_CLOEXEC)]),
    When(libc::SYS_fcntl, &[Is(1, F_GETFD)]),
    When(libc::SYS_fcntl, &[Is(1, F_SETFD)]),
    When(libc::SYS_fcntl, &[Is(1, F_GETFL)]),
    When(libc::SYS_fcntl, &[Is(1, F_SETFL)]),
    Call(libc::SYS_fdatasync),
    Call(libc::SYS_fstat),
    Call(libc::SYS_fsync),
    Call(libc::SYS_ftruncate),
    // TcpStream::take_error() and its like. Nothing else is asked of a socket, and no option is set.
    When(libc::SYS_getsockopt, &[Is(1, SOL_SOCKET), Is(2, SO_ERROR)]),
    // Requests in a ring pass filters by, so only the control thread makes rings, when it makes a device, and restricts them then.
    Call(libc::SYS_io_uring_enter),
    When(libc::SYS_ioctl, &[Is(1, FIONBIO)]),
    When(libc::SYS_ioctl, &[Is(1, FIONREAD)]),
    When(libc::SYS_ioctl, &[Is(1, TUNSETOFFLOAD)]),
    When(libc::SYS_ioctl, &[Is(1, TUNSETVNETHDRSZ)]),
    Call(libc::SYS_lseek),
    // fstat() and File::metadata(): queries about a descriptor, not about a path.
    When(libc::SYS_newfstatat, &[Is(3, AT_EMPTY_PATH)]),
    When(libc::SYS_statx, &[Bits(2, EMPTY_PATH, EMPTY_PATH)]),
    #[cfg(target_arch = "x86_64")]
    Call(libc::SYS_poll),
    Call(libc::SYS_ppoll),
    Call(libc::SYS_pread64),
    Call(libc::SYS_preadv),
    Call(libc::SYS_preadv2),
    Call(libc::SYS_pwrite64),
    Call(libc::SYS_pwritev),
    Call(libc::SYS_pwritev2),
    Call(libc::SYS_recvfrom),
    Call(libc::SYS_recvmsg),
    Call(libc::SYS_sendmsg),
    Call(libc::SYS_sendto),
    Call(libc::SYS_shutdown),
    When(libc::SYS_socketpair, &[Is(0, AF_UNIX)]),
    Call(libc::SYS_timerfd_create),
    Call(libc::SYS_timerfd_gettime),
    Call(libc::SYS_timerfd_settime),
];

/// Calls for waiting for events, and for accepting connections.
const EVENT_LOOP: &[Allow] = &[
    Call(libc::SYS_accept4),
    Call(libc::SYS_copy_file_range),
    Call(libc::SYS_dup),
    Call(libc::SYS_dup3),
    Call(libc::SYS_epoll_pwait),
    Call(libc::SYS_epoll_pwait2),
    #[cfg(target_arch = "x86_64")]
    Call(libc::SYS_epoll_wait),
    Call(libc::SYS_sync_file_range),
];

/// Calls for running a vCPU, and for saving and restoring the state that only its own thread may access.
const VCPU: &[Allow] = &[
    When(libc::SYS_ioctl, &[Is(1, KVM_RUN)]),
    When(libc::SYS_ioctl, &[Is(1, KVM_GET_ONE_REG)]),
    When(libc::SYS_ioctl, &[Is(1, KVM_SET_ONE_REG)]),
    When(libc::SYS_ioctl, &[Is(1, KVM_GET_REG_LIST)]),
    When(libc::SYS_ioctl, &[Is(1, KVM_GET_MP_STATE)]),
    When(libc::SYS_ioctl, &[Is(1, KVM_SET_MP_STATE)]),
    When(libc::SYS_ioctl, &[Is(1, KVM_GET_VCPU_EVENTS)]),
    When(libc::SYS_ioctl, &[Is(1, KVM_SET_VCPU_EVENTS)]),
];

/// Calls for moving guest memory from and to files: reading which pages changed, copying by reference, providing pages
/// for which threads wait.
const MEMORY: &[Allow] = &[
    Call(libc::SYS_copy_file_range),
    Call(libc::SYS_fadvise64),
    Call(libc::SYS_fallocate),
    When(libc::SYS_fcntl, &[Is(1, F_DUPFD_CLOEXEC)]),
    // In debug builds the standard library makes this call for descriptors that it closes.
    When(libc::SYS_fcntl, &[Is(1, F_GETFD)]),
    When(libc::SYS_fcntl, &[Is(1, F_GETFL)]),
    Call(libc::SYS_fdatasync),
    Call(libc::SYS_fstat),
    Call(libc::SYS_fsync),
    Call(libc::SYS_ftruncate),
    When(libc::SYS_ioctl, &[Is(1, FICLONE)]),
    When(libc::SYS_ioctl, &[Is(1, FICLONERANGE)]),
    When(libc::SYS_ioctl, &[Is(1, PAGEMAP_SCAN)]),
    When(libc::SYS_ioctl, &[Is(1, UFFDIO_COPY)]),
    When(libc::SYS_ioctl, &[Is(1, UFFDIO_WAKE)]),
    When(libc::SYS_ioctl, &[Is(1, UFFDIO_ZEROPAGE)]),
    Call(libc::SYS_lseek),
    When(libc::SYS_newfstatat, &[Is(3, AT_EMPTY_PATH)]),
    When(libc::SYS_statx, &[Bits(2, EMPTY_PATH, EMPTY_PATH)]),
    Call(libc::SYS_ppoll),
    Call(libc::SYS_pread64),
    Call(libc::SYS_preadv),
    Call(libc::SYS_pwrite64),
    Call(libc::SYS_sync_file_range),
];

/// Further calls of the control thread: setting up KVM and the rings of disks, starting threads.
const CONTROL: &[Allow] = &[
    Call(libc::SYS_io_uring_register),
    Call(libc::SYS_io_uring_setup),
    When(libc::SYS_clone, &[Is(0, THREAD_FLAGS)]),
    // glibc then uses clone, whose flags can be checked.
    Refuse(libc::SYS_clone3, libc::ENOSYS),
    Call(libc::SYS_getpeername),
    Call(libc::SYS_getrusage),
    Call(libc::SYS_getsockname),
    // Every KVM request has this type byte: /dev/kvm, the microVM, its vCPUs and devices.
    When(libc::SYS_ioctl, &[Bits(1, 0xff00, KVM_TYPE)]),
    When(libc::SYS_ioctl, &[Is(1, BLKGETSIZE64)]),
    When(libc::SYS_ioctl, &[Is(1, UFFDIO_API)]),
    When(libc::SYS_ioctl, &[Is(1, UFFDIO_REGISTER)]),
    When(libc::SYS_ioctl, &[Is(1, USERFAULTFD_IOC_NEW)]),
    Call(libc::SYS_mincore),
    Call(libc::SYS_msync),
    When(libc::SYS_prctl, &[Is(0, PR_SET_NO_NEW_PRIVS), Is(1, 1)]),
    Call(libc::SYS_rt_sigaction),
    Call(libc::SYS_rt_sigtimedwait),
    // For a thread's own filter on top of this one; a further filter can only restrict the thread.
    When(libc::SYS_seccomp, &[Is(0, SECCOMP_SET_MODE_FILTER), Is(1, 0)]),
    Call(libc::SYS_signalfd4),
];

// Requests of ioctl(2): linux/kvm.h, linux/if_tun.h, linux/fs.h, asm-generic/ioctls.h. They are the same on
// aarch64 and x86_64, where the structures in them have the same size.
const KVM_TYPE: u64 = 0xae00;
const KVM_RUN: u32 = 0xae80;
const KVM_GET_MP_STATE: u32 = 0x8004_ae98;
const KVM_SET_MP_STATE: u32 = 0x4004_ae99;
const KVM_GET_VCPU_EVENTS: u32 = 0x8040_ae9f;
const KVM_SET_VCPU_EVENTS: u32 = 0x4040_aea0;
const KVM_GET_ONE_REG: u32 = 0x4010_aeab;
const KVM_SET_ONE_REG: u32 = 0x4010_aeac;
const KVM_GET_REG_LIST: u32 = 0xc008_aeb0;
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
const FIONBIO: u32 = 0x5421;
const FIONREAD: u32 = 0x541b;
const BLKGETSIZE64: u32 = 0x8008_1272;
const FICLONE: u32 = 0x4004_9409;
const FICLONERANGE: u32 = 0x4020_940d;
const PAGEMAP_SCAN: u32 = 0xc060_6610;
// linux/userfaultfd.h
const USERFAULTFD_IOC_NEW: u32 = 0xaa00;
const UFFDIO_API: u32 = 0xc018_aa3f;
const UFFDIO_REGISTER: u32 = 0xc020_aa00;
const UFFDIO_WAKE: u32 = 0x8010_aa02;
const UFFDIO_COPY: u32 = 0xc028_aa03;
const UFFDIO_ZEROPAGE: u32 = 0xc020_aa04;

// The kernel takes these as `int`; the tables compare unsigned values.
const PR_SET_NAME: u32 = libc::PR_SET_NAME.unsigned_abs();
const PR_SET_NO_NEW_PRIVS: u32 = libc::PR_SET_NO_NEW_PRIVS.unsigned_abs();
const SIGABRT: u32 = libc::SIGABRT.unsigned_abs();
const F_DUPFD_CLOEXEC: u32 = libc::F_DUPFD_CLOEXEC.unsigned_abs();
const F_GETFD: u32 = libc::F_GETFD.unsigned_abs();
const F_SETFD: u32 = libc::F_SETFD.unsigned_abs();
const F_GETFL: u32 = libc::F_GETFL.unsigned_abs();
const F_SETFL: u32 = libc::F_SETFL.unsigned_abs();
const SOL_SOCKET: u32 = libc::SOL_SOCKET.unsigned_abs();
const SO_ERROR: u32 = libc::SO_ERROR.unsigned_abs();
const AF_UNIX: u32 = libc::AF_UNIX.unsigned_abs();
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.unsigned_abs();
/// `AT_EMPTY_PATH` as a 64-bit mask.
const EMPTY_PATH: u64 = 0x1000;
const _: () = assert!(libc::AT_EMPTY_PATH == 0x1000);
const SECCOMP_SET_MODE_FILTER: u32 = libc::SECCOMP_SET_MODE_FILTER;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn calls(role: ThreadRole) -> HashSet<libc::c_long> {
        let number = |allow| match allow {
            Call(number) | When(number, _) | Refuse(number, _) => number,
        };
        of(role).map(number).collect()
    }

    #[test]
    fn the_control_list_has_all_that_the_others_have() {
        let control = calls(ThreadRole::Control);
        for role in [ThreadRole::Device, ThreadRole::Vcpu, ThreadRole::Memory] {
            assert!(calls(role).is_subset(&control), "{role:?}");
            assert!(!calls(role).contains(&libc::SYS_clone), "{role:?} starts no thread");
            assert!(!calls(role).contains(&libc::SYS_seccomp), "{role:?} is done with filters");
        }
    }

    #[test]
    fn nobody_opens_a_path_makes_a_socket_runs_a_program_or_touches_another_process() {
        let forbidden = [
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_open_by_handle_at,
            libc::SYS_unlinkat,
            libc::SYS_mkdirat,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_chdir,
            libc::SYS_fchdir,
            libc::SYS_chroot,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_open_tree,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_setresuid,
            libc::SYS_capset,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_memfd_create,
        ];
        for role in [ThreadRole::Control, ThreadRole::Device, ThreadRole::Vcpu, ThreadRole::Memory] {
            let allowed = calls(role);
            for number in forbidden {
                assert!(!allowed.contains(&number), "{role:?} may make system call {number}");
            }
        }
    }
}
