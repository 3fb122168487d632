//! The container's mounts (architecture §4; the same as Docker's, runtime-spec/config-linux.md "Default Filesystems").

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use hearth_proto::guest::v1::RootDisk;
use libc::{MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY};

use super::files;
use super::job::Prepare;
use crate::generation;
use crate::refusal::{Context as _, Refusal};
use crate::system::devices::Device;
use crate::system::{c_string, check, mounts, namespaces};

/// Where the agent mounts the disk, and the memory over it, in its own mount namespace: folders that `init` makes.
pub const FOLDER: &str = "/run/hearth";

/// Folder of the container with what the agent says to apps in files, read-only.
const SHARED: &str = "/run/hearth";
/// Folder through which it gets there.
const PASSAGE: &str = "dev/.hearth";

/// Devices that every container has: name, major and minor number (Linux, Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Devices that processes of a container without all capabilities may open: those, the console and terminals.
///
/// Such a container may make nodes, as Docker's may: without this list a node would open the machine's disks below their
/// file systems, or the kernel's log.
pub const ALLOWED: [Device; 9] = [
    Device { major: 1, minor: Some(3) },
    Device { major: 1, minor: Some(5) },
    Device { major: 1, minor: Some(7) },
    Device { major: 1, minor: Some(8) },
    Device { major: 1, minor: Some(9) },
    Device { major: 5, minor: Some(0) },
    Device { major: 5, minor: Some(1) },
    Device { major: 5, minor: Some(2) },
    Device { major: 136, minor: None },
];

/// The device of file systems in user space.
const FUSE: (&str, u32, u32) = ("fuse", 10, 229);

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
];

/// Paths of `/proc` and `/sys` that are hidden from a container without all capabilities (moby, oci/defaults.go).
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths of `/proc` that such a container can only read.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Makes namespaces and mounts everything but `/proc`, which belongs to a PID namespace. This process is in the container's control
/// group already.
///
/// # Errors
/// The disk cannot be mounted, or the kernel refused another step.
pub fn prepare(job: &Prepare) -> Result<(), Refusal> {
    let disk = job.root.as_ref().ok_or_else(|| Refusal::invalid("Configure has no root disk"))?;
    // This process's control group becomes the root of those that the container sees.
    namespaces::leave(libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP)
        .and_then(|()| mounts::make_private())
        .or_refuse(|| "making the container's namespaces")?;
    set_hostname(&job.hostname)?;
    // SAFETY: takes no pointer. Modes of files have to be applied unmasked.
    unsafe { libc::umask(0) };
    let root = mount_root(disk)?;
    mount_system(&root, job).or_refuse(|| "mounting the container's file systems")?;
    let devices = if job.all_capabilities { disks() } else { Ok(Vec::new()) };
    let shared = share_generation(&root);
    mounts::pivot_root(&root).or_refuse(|| "entering the container's root")?;
    // An image may have anything in the folder's place. Apps run without it, too.
    let _ = shared.and_then(|()| show_generation());
    make_devices(job.all_capabilities).or_refuse(|| "making the container's devices")?;
    for (name, device) in devices.or_refuse(|| "looking for disks")? {
        make_node(&format!("dev/{name}"), libc::S_IFBLK | 0o600, device).or_refuse(|| "making disks")?;
    }
    // Not before pivot_root: inside the container, its symbolic links cannot lead outside.
    files::write(Path::new("/"), &job.hostname, job.keep_etc)
        .or_refuse(|| "writing files to the container's /etc")
}

/// Mounts the generation's file system in the container's `/dev`, from where it can be moved once the container's own links
/// count.
fn share_generation(root: &Path) -> io::Result<()> {
    let passage = root.join(PASSAGE);
    fs::create_dir(&passage)?;
    mounts::bind(generation::FOLDER, &passage)?;
    mounts::make_read_only(&passage)
}

/// Moves it to where apps look for it.
fn show_generation() -> io::Result<()> {
    let passage = Path::new("/").join(PASSAGE);
    let moved = DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(SHARED)
        .and_then(|()| mounts::move_mount(&passage, SHARED));
    if moved.is_err() {
        mounts::unmount(&passage, libc::MNT_DETACH)?;
    }
    fs::remove_dir(&passage).and(moved)
}

/// Sets the host name of this UTS namespace.
///
/// # Errors
/// The name is too long.
pub fn set_hostname(name: &str) -> Result<(), Refusal> {
    // SAFETY: the pointer and the length are those of a text that lives until the call returns.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })
        .map(drop)
        .or_refuse(|| format!("taking the host name {name:?}"))
}

/// Mounts the disk, with a file system in memory over it if the disk cannot be written.
fn mount_root(disk: &RootDisk) -> Result<PathBuf, Refusal> {
    let RootDisk { device, file_system, overlay_in_memory } = disk;
    if !Path::new(device).exists() {
        return Err(Refusal::not_found(format!("there is no root disk {device}; attach it to the microVM")));
    }
    // The background initialisation of inode tables is off: it would make every clone's disk differ from its base.
    let (flags, options) = match (file_system.as_str(), overlay_in_memory) {
        ("ext4", false) => (0, "noinit_itable"),
        ("ext4", true) => (MS_RDONLY, "noload"),
        ("erofs", true) => (MS_RDONLY, ""),
        ("erofs", false) => {
            let message = "erofs cannot be written: set overlay_in_memory";
            return Err(Refusal::invalid(message));
        }
        (other, _) => return Err(Refusal::invalid(format!("{other:?} is neither ext4 nor erofs"))),
    };
    let path = |name: &str| Path::new(FOLDER).join(name);
    let made = ["disk", "memory", "root"].iter().try_for_each(|name| fs::create_dir_all(path(name)));
    made.or_refuse(|| "making mount points")?;
    mounts::mount(device, path("disk"), file_system, flags, options)
        .or_refuse(|| format!("mounting {device} as {file_system}"))?;
    if !overlay_in_memory {
        return Ok(path("disk"));
    }
    let overlay = || {
        mounts::mount("tmpfs", path("memory"), "tmpfs", 0, "mode=755")?;
        fs::create_dir(path("memory/upper"))?;
        fs::create_dir(path("memory/work"))?;
        let layers = ("disk", "memory/upper", "memory/work");
        let (lower, upper, work) = (path(layers.0), path(layers.1), path(layers.2));
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        // Without this, the root folder would have the mode and owner of `upper`.
        let root = fs::metadata(&lower)?;
        fs::set_permissions(&upper, root.permissions())?;
        mounts::mount("overlay", path("root"), "overlay", 0, &options)
    };
    overlay().or_refuse(|| "laying memory over the root disk")?;
    Ok(path("root"))
}

fn mount_system(root: &Path, job: &Prepare) -> io::Result<()> {
    let all_capabilities = job.all_capabilities;
    let hardened = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    for folder in ["proc", "sys", "dev"] {
        make_folder(&root.join(folder), 0o755)?;
    }
    mounts::mount("tmpfs", root.join("dev"), "tmpfs", MS_NOSUID, "mode=755,size=65536k")?;
    for folder in ["dev/pts", "dev/shm", "dev/mqueue"] {
        make_folder(&root.join(folder), 0o755)?;
    }
    let terminals = "newinstance,ptmxmode=0666,mode=620,gid=5";
    mounts::mount("devpts", root.join("dev/pts"), "devpts", MS_NOSUID | MS_NOEXEC, terminals)?;
    let size = if job.shm_mib == 0 { "50%".to_owned() } else { format!("{}m", job.shm_mib) };
    mounts::mount("shm", root.join("dev/shm"), "tmpfs", hardened, &format!("mode=1777,size={size}"))?;
    mounts::mount("mqueue", root.join("dev/mqueue"), "mqueue", hardened, "")?;
    let read_only = if all_capabilities { 0 } else { MS_RDONLY };
    mounts::mount("sysfs", root.join("sys"), "sysfs", hardened | read_only, "")?;
    if all_capabilities {
        mounts::mount("cgroup2", root.join("sys/fs/cgroup"), "cgroup2", hardened, "")?;
    }
    Ok(())
}

fn make_devices(all_capabilities: bool) -> io::Result<()> {
    let fuse = all_capabilities.then_some(FUSE);
    for (name, major, minor) in DEVICES.into_iter().chain(fuse) {
        make_node(&format!("dev/{name}"), libc::S_IFCHR | 0o666, libc::makedev(major, minor))?;
    }
    LINKS.iter().try_for_each(|(target, link)| symlink(target, link))
}

/// The machine's virtio disks. A container with all capabilities could make their nodes itself, so it gets them.
fn disks() -> io::Result<Vec<(String, libc::dev_t)>> {
    let mut disks = Vec::new();
    let entries = match fs::read_dir("/sys/class/block") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(disks),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("vd") {
            continue;
        }
        let number = fs::read_to_string(format!("/sys/class/block/{name}/dev"))?;
        let number = number
            .trim()
            .split_once(':')
            .and_then(|(major, minor)| Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?)));
        disks.extend(number.map(|number| (name, number)));
    }
    Ok(disks)
}

fn make_node(path: &str, mode: libc::mode_t, device: libc::dev_t) -> io::Result<()> {
    let path: CString = c_string(path)?;
    // SAFETY: the pointer is to a string that lives until the call returns.
    check(unsafe { libc::mknod(path.as_ptr(), mode, device) }).map(drop)
}

/// Makes a folder where there is none. The disk may hold anything in its place: anything but a folder is an error, also a
/// symbolic link, which would lead out of the container.
fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => {
            Err(io::Error::other(format!("/{} is no folder", path.file_name().unwrap_or_default().display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => DirBuilder::new().mode(mode).create(path),
        Err(error) => Err(error),
    }
}

/// Mounts `/proc` of this process's PID namespace, and hides or write-protects the paths that a container must not access.
///
/// # Errors
/// The kernel refused a mount.
pub fn mount_proc(unrestricted: bool) -> io::Result<()> {
    let hardened = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mounts::mount("proc", "/proc", "proc", hardened, "")?;
    if unrestricted {
        return Ok(());
    }
    for path in READ_ONLY.map(Path::new).into_iter().filter(|path| path.exists()) {
        mounts::bind(path, path).and_then(|()| mounts::make_read_only(path))?;
    }
    for path in MASKED.map(Path::new) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => mounts::mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0k")?,
            Ok(_) => mounts::bind("/dev/null", path)?,
            Err(_) => {} // this kernel does not have it
        }
    }
    Ok(())
}

/// Unmounts everything in the container, last first, so that all data has reached its devices. The root, which cannot be
/// unmounted, becomes read-only. No process may be left in the container.
///
/// # Errors
/// The container cannot be entered, or its root is still busy.
pub fn release(enter: impl FnOnce() -> Result<(), Refusal>) -> Result<(), Refusal> {
    // The container's own /proc may be gone with the app's PID namespace.
    let agents_proc = File::open("/proc").or_refuse(|| "opening /proc")?;
    enter()?;
    let table = read_mounts(&agents_proc).or_refuse(|| "reading the container's mounts")?;
    for point in mounts::points(&table).iter().rev().filter(|point| *point != Path::new("/")) {
        let _ = mounts::unmount(point, 0); // a mount below another one is unmounted in its turn, or keeps the root busy
    }
    mounts::remount_read_only("/").or_refuse(|| "making the container's root read-only")
}

fn read_mounts(proc: &File) -> io::Result<String> {
    use std::os::fd::AsRawFd as _;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path is a constant string.
    let file =
        crate::system::descriptor(unsafe { libc::openat(proc.as_raw_fd(), c"self/mounts".as_ptr(), flags) })?;
    let mut file = File::from(file);
    let mut table = String::new();
    file.rewind()?;
    file.read_to_string(&mut table)?;
    Ok(table)
}
