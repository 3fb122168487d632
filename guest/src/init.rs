//! Initialises the machine after the kernel's boot: mounts, modules, loopback. All of it happens before a second thread exists.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use libc::{MS_NODEV, MS_NOEXEC, MS_NOSUID};

use crate::container::prepare;
use crate::system::{cgroup, check_long, mounts, netlink, sysctl};

/// File with the paths of kernel modules, one per line, in the order of loading. It exists only with a kernel that has drivers as
/// modules.
const MODULES: &str = "/modules.list";

/// `MODULE_INIT_COMPRESSED_FILE` (linux/module.h): the kernel decompresses the module.
const COMPRESSED: libc::c_int = 4;

/// Line that the agent writes to the console when it listens.
pub const READY_LINE: &str = "hearth-guest: ready";

/// Limit of the agent's open descriptors: several for each connection.
const DESCRIPTORS: libc::rlim_t = 1 << 16;

/// Initialises the machine that the kernel has booted.
///
/// # Errors
/// A step failed that the agent cannot do without. Failures that affect only some apps are logged to the console.
pub fn set_up() -> io::Result<()> {
    return_freed_memory();
    let root = movable_root();
    let hardened = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    for (kind, folder, flags, options) in [
        ("devtmpfs", "/dev", MS_NOSUID, "mode=755"),
        ("proc", "/proc", hardened, ""),
        ("sysfs", "/sys", hardened, ""),
        ("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755"),
    ] {
        fs::create_dir_all(folder)?;
        mounts::mount(kind, folder, kind, flags, options)?;
    }
    // Without cgroup2, there can be no container; Configure reports the reason to the host.
    if let Err(error) = mounts::mount("cgroup2", cgroup::FOLDER, "cgroup2", hardened, "") {
        console(&format!("hearth-guest: cgroup2: {error}"));
    }
    fs::create_dir_all(prepare::FOLDER)?;
    if let Err(error) = root {
        console(&format!("hearth-guest: the root cannot be moved: {error}"));
    }
    if let Err(error) = load_modules() {
        console(&format!("hearth-guest: {error}"));
    }
    raise_limit_of_files()?;
    for (name, value) in sysctl::values(sysctl::memory()?) {
        if let Err(error) = sysctl::set(name, &value) {
            console(&format!("hearth-guest: {name}: {error}"));
        }
    }
    // Without IPv4, there is no loopback device. Hooks cannot be called then, but an app can run.
    let up = netlink::device("lo").and_then(|lo| netlink::Routes::open()?.bring_up(lo, 0));
    if let Err(error) = up {
        console(&format!("hearth-guest: loopback: {error}"));
    }
    Ok(())
}

/// Writes a line to the console, if there is one.
pub fn console(line: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(format!("{line}\n").as_bytes());
    }
}

/// Mounts the initial file system over itself: the root mount that the kernel makes for it cannot be left by `pivot_root`
/// (pivot_root(2), "the current root … rootfs").
fn movable_root() -> io::Result<()> {
    let folder = Path::new("/root");
    fs::create_dir_all(folder)?;
    mounts::bind("/", folder)?;
    std::env::set_current_dir(folder)?;
    mounts::move_mount(".", "/")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Has malloc return large blocks of memory to the kernel whenever they are freed, and use one heap for all threads: the agent's
/// memory is in every snapshot.
fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

fn load_modules() -> io::Result<()> {
    let list = match fs::read_to_string(MODULES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        list => list?,
    };
    for path in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let load = || -> io::Result<()> {
            let file = File::open(Path::new("/").join(path))?;
            let plain = path.ends_with(".ko");
            let (parameters, flags) = (c"".as_ptr(), if plain { 0 } else { COMPRESSED });
            // SAFETY: the pointer is to a constant string.
            let loaded =
                unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters, flags) };
            check_long(loaded).map(drop)
        };
        match load() {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                console(&format!("hearth-guest: module {path}: {error}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn raise_limit_of_files() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: DESCRIPTORS, rlim_max: DESCRIPTORS };
    // SAFETY: the pointer is to a limit that lives until the call returns.
    crate::system::check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}
