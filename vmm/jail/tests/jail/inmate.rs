//! The jailed side of the tests: this program, started as `run --control-fd N …`, as the monitor is.

use std::fs::File;
use std::io;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::exit;
use std::sync::OnceLock;

use clap::{Args as _, FromArgMatches as _};
use hearth_vmm_jail::{JailConfig, ThreadRole, Walls, enter, enter_helper};
use vmm_sys_util::sock_ctrl_msg::ScmSocket as _;

use crate::harmless::{self, Ring};

/// Exit status of an inmate that could not enter the jail.
pub(crate) const NOT_INSIDE: i32 = 100;

/// The command that makes this program a helper instead of a monitor.
pub(crate) const HELP: &str = "help";

/// The test harness starts threads, but a process can enter the jail only while it has one thread. So inmates branch
/// off before `main`, where the C library calls the functions that this section lists.
// SAFETY: the section holds an array of function pointers; the function takes over the process or returns, and uses
// nothing that is set up later.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        let args: Vec<String> = std::env::args().collect();
        if let [_, run, control_fd, number, jail @ ..] = args.as_slice()
            && (run.as_str(), control_fd.as_str()) == ("run", "--control-fd")
        {
            serve(number.parse().unwrap(), jail);
        }
        if let [_, help, control_fd, number, jail @ ..] = args.as_slice()
            && (help.as_str(), control_fd.as_str()) == (HELP, "--control-fd")
        {
            help_out(number.parse().unwrap(), jail);
        }
    }
    before_main
};

/// Process id of the launcher, stored before the jail is entered: no list allows getppid.
static LAUNCHER: OnceLock<u32> = OnceLock::new();

fn serve(control_fd: RawFd, args: &[String]) -> ! {
    LAUNCHER.get_or_init(std::os::unix::process::parent_id);
    let command = JailConfig::augment_args(clap::Command::new("inmate").no_binary_name(true));
    let config = JailConfig::from_arg_matches(&command.get_matches_from(args)).unwrap();
    let walls = enter(&config, control_fd).unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(NOT_INSIDE)
    });
    let listener = UnixListener::from(walls.control.try_clone().unwrap());
    let (mut socket, _) = listener.accept().unwrap();
    loop {
        let mut buffer = [0; 4096];
        let (length, file) = socket.recv_with_fd(&mut buffer).unwrap();
        if length == 0 {
            exit(0);
        }
        let command = std::str::from_utf8(&buffer[..length]).unwrap();
        let answer = obey(command, file, &walls);
        socket.write_all(answer.as_bytes()).unwrap();
    }
}

/// Enters the jail as a helper, whose control socket is a connection, and executes what comes over it.
fn help_out(control_fd: RawFd, args: &[String]) -> ! {
    LAUNCHER.get_or_init(std::os::unix::process::parent_id);
    let command = JailConfig::augment_args(clap::Command::new("helper").no_binary_name(true));
    let config = JailConfig::from_arg_matches(&command.get_matches_from(args)).unwrap();
    let control = enter_helper(&config, control_fd).unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(NOT_INSIDE)
    });
    let mut socket = UnixStream::from(control);
    loop {
        let mut buffer = [0; 4096];
        let length = socket.read(&mut buffer).unwrap();
        if length == 0 {
            exit(0);
        }
        let answer = match std::str::from_utf8(&buffer[..length]).unwrap() {
            "hello" => "hello".to_owned(),
            command => act(command),
        };
        socket.write_all(answer.as_bytes()).unwrap();
    }
}

fn obey(command: &str, file: Option<File>, walls: &Walls) -> String {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    match verb {
        "hello" => "hello".into(),
        "walls" => format!("{:?} {:?}", walls.standing, walls.root),
        "page" => own_page(&walls.pagemap),
        "descriptors" => open_until_refused().to_string(),
        "fork" => fork_until_refused(rest.parse().unwrap()),
        "fill" => fill(rest.parse().unwrap()),
        "extend" => answer_io(file.unwrap().write_at(b"x", rest.parse().unwrap())),
        "host-socket" => answer_io(UnixStream::connect_addr(&abstract_address(rest))),
        "as" => {
            let (role, act) = rest.split_once(' ').unwrap();
            in_role(role_named(role), act, file, walls)
        }
        _ => act(command),
    }
}

fn role_named(name: &str) -> ThreadRole {
    match name {
        "control" => ThreadRole::Control,
        "device" => ThreadRole::Device,
        "vcpu" => ThreadRole::Vcpu,
        "memory" => ThreadRole::Memory,
        _ => panic!("no role `{name}`"),
    }
}

/// Runs `command` in a new thread with the filter of `role`.
fn in_role(role: ThreadRole, command: &str, file: Option<File>, walls: &Walls) -> String {
    // The control thread makes the rings of all devices.
    let harmless =
        (command == "harmless").then(|| (Ring::make(file.as_ref().unwrap()), file.as_ref().unwrap()));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(format!("{role:?}")).spawn_scoped(scope, || {
            if role != ThreadRole::Control {
                walls.filters.install(role).unwrap();
            }
            match harmless {
                Some((ring, disk)) => harmless::work(role, disk, ring, walls),
                None => act(command),
            }
        });
        thread.unwrap().join().unwrap_or_else(|_| "panicked".into())
    })
}

/// Makes one system call that a monitor never needs, without the C library's help.
fn act(command: &str) -> String {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let path = std::ffi::CString::new(rest).unwrap();
    let path = path.as_ptr();
    let null = std::ptr::null::<libc::c_char>();
    let at = libc::AT_FDCWD;
    let parent = *LAUNCHER.get().unwrap();
    // SAFETY: every pointer is null, or a string that outlives the call; every mapping is a new one; a child that was
    // forked only exits.
    let result = unsafe {
        match verb {
            "nothing" => 0,
            "open" => libc::syscall(libc::SYS_openat, at, path, libc::O_RDONLY),
            "create" => libc::syscall(libc::SYS_openat, at, path, libc::O_CREAT | libc::O_WRONLY, 0o600),
            "mkdir" => libc::syscall(libc::SYS_mkdirat, at, path, 0o700),
            "chdir" => libc::syscall(libc::SYS_chdir, path),
            "chroot" => libc::syscall(libc::SYS_chroot, path),
            "execve" => libc::syscall(libc::SYS_execve, path, [path, null].as_ptr(), [null].as_ptr()),
            "ring" => libc::syscall(libc::SYS_io_uring_setup, 0, null),
            "change-ring" => libc::syscall(libc::SYS_io_uring_register, 0, 0, null, 0),
            "set-option" => {
                let size: libc::c_int = 1 << 20;
                let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVBUF);
                libc::syscall(libc::SYS_setsockopt, 0, level, option, &raw const size, size_of_val(&size))
            }
            "peer" => libc::syscall(libc::SYS_getsockopt, 0, libc::SOL_SOCKET, libc::SO_PEERCRED, null, null),
            "socket" => libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
            "inet-pair" => libc::syscall(libc::SYS_socketpair, libc::AF_INET, libc::SOCK_STREAM, 0, null),
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, parent, 0, 0),
            "kill" => libc::syscall(libc::SYS_kill, parent, 0),
            "tgkill" => libc::syscall(libc::SYS_tgkill, parent, parent, 0),
            "setuid" => libc::syscall(libc::SYS_setresuid, 0, 0, 0),
            "setgid" => libc::syscall(libc::SYS_setresgid, 0, 0, 0),
            "unshare" => libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            "fork-once" => end_child(libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
            "clone3" => libc::syscall(libc::SYS_clone3, null, 0),
            "thread" => std::thread::Builder::new().spawn(|| ()).map_or(-1, |thread| {
                thread.join().unwrap();
                0
            }),
            "pdeathsig" => {
                let mut signal: libc::c_int = -1;
                libc::syscall(libc::SYS_prctl, libc::PR_GET_PDEATHSIG, &raw mut signal);
                libc::c_long::from(signal)
            }
            "sethostname" => libc::syscall(libc::SYS_sethostname, path, 1),
            "tiocsti" => libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSTI, c"x".as_ptr()),
            "kvm-create-vm" => libc::syscall(libc::SYS_ioctl, 0, 0xae01, 0),
            "kvm-run" => libc::syscall(libc::SYS_ioctl, 0, 0xae80, 0),
            "map-code" => map(libc::PROT_READ | libc::PROT_EXEC),
            "make-code" => {
                let page = map(libc::PROT_READ);
                libc::syscall(libc::SYS_mprotect, page, 4096, libc::PROT_READ | libc::PROT_EXEC)
            }
            "memfd" => libc::syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0),
            "set-limit" => {
                let limit = libc::rlimit { rlim_cur: 16, rlim_max: 16 };
                let none = std::ptr::null_mut::<libc::rlimit>();
                libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, &raw const limit, none)
            }
            "connect-loopback" => connect_loopback(),
            "abort" => std::process::abort(),
            "panic" => panic!("the inmate panics"),
            "alien" => libc::syscall(4000),
            _ => panic!("no such command: {command}"),
        }
    };
    if result == -1 { refused(&io::Error::last_os_error()) } else { format!("ok {result}") }
}

fn refused(error: &io::Error) -> String {
    format!("errno {}", error.raw_os_error().unwrap_or_default())
}

fn answer_io<T>(result: io::Result<T>) -> String {
    result.map_or_else(|error| refused(&error), |_| "ok".into())
}

fn map(protection: libc::c_int) -> libc::c_long {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, at an address that the kernel chooses.
    unsafe { libc::syscall(libc::SYS_mmap, std::ptr::null::<u8>(), 4096, protection, flags, -1, 0) }
}

/// Exits the process if it is the child of a fork.
fn end_child(forked: libc::c_long) -> libc::c_long {
    if forked == 0 {
        // SAFETY: exits the child, which shares nothing with this process.
        unsafe { libc::_exit(0) }
    }
    forked
}

fn connect_loopback() -> libc::c_long {
    let address = libc::sockaddr_in {
        sin_family: 2,
        sin_port: 80_u16.to_be(),
        sin_addr: libc::in_addr { s_addr: 0x7f00_0001_u32.to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: the address outlives the call and has the length given.
    unsafe {
        let socket = libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0);
        libc::syscall(libc::SYS_connect, socket, &raw const address, size_of_val(&address))
    }
}

/// Returns the abstract socket address `name`, which belongs to a network namespace, not to a file system.
pub(crate) fn abstract_address(name: &str) -> std::os::unix::net::SocketAddr {
    use std::os::linux::net::SocketAddrExt as _;
    std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap()
}

/// Returns what the page map contains for a page that was just written to: whether it is present, and its frame.
fn own_page(pagemap: &File) -> String {
    const PAGE_SIZE: usize = 4096;
    let memory = vec![1_u8; 2 * PAGE_SIZE];
    let page = memory.as_ptr().addr().div_ceil(PAGE_SIZE);
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, page as u64 * 8).unwrap();
    let entry = u64::from_ne_bytes(entry);
    format!("present {} frame {}", entry >> 63, entry & ((1 << 55) - 1))
}

/// Opens descriptors until the kernel refuses; returns the highest number that was assigned.
fn open_until_refused() -> RawFd {
    let mut opened: Vec<_> =
        std::iter::from_fn(|| File::try_clone(&opened_null()).ok()).take(100_000).collect();
    opened.pop().map_or(-1, |file| file.as_raw_fd())
}

fn opened_null() -> std::mem::ManuallyDrop<File> {
    use std::os::fd::FromRawFd as _;
    // SAFETY: stdin is open for the life of the process, and is not closed here.
    std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDIN_FILENO) })
}

/// Forks children that wait, until the kernel refuses or `limit` is reached; kills them; returns their number.
fn fork_until_refused(limit: usize) -> String {
    let mut children = Vec::new();
    while children.len() < limit {
        // SAFETY: the process has one thread; the child only waits until it is killed.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            },
            -1 => break,
            pid => children.push(pid),
        }
    }
    for pid in &children {
        // SAFETY: signals and reaps the children that were forked above.
        unsafe {
            libc::kill(*pid, libc::SIGKILL);
            libc::waitpid(*pid, std::ptr::null_mut(), 0);
        }
    }
    children.len().to_string()
}

/// Writes to `bytes` of newly allocated memory.
fn fill(bytes: usize) -> String {
    let memory = vec![1_u8; bytes];
    format!("ok {}", memory.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>())
}
