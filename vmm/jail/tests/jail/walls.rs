//! Tests of each wall except the control group and the filters: each attempts what the wall must prevent, with the
//! filters off if they would prevent it first.

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use hearth_vmm_jail::config::{DEFAULT_ID, DEFAULT_NOFILE};
use hearth_vmm_jail::{CONTROL_FD, JailConfig, Wall, spawn};

use crate::cell::{Cell, can_jail, skip, without};
use crate::inmate::{NOT_INSIDE, abstract_address};

#[test]
fn every_wall_stands_by_default() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&JailConfig::default());
    let walls = cell.ask("walls");
    let standing: Vec<Wall> = JailConfig::default().walls().collect();
    if walls == format!("{standing:?} Some(Pivoted)") {
        return;
    }
    let rest: Vec<Wall> = standing.into_iter().filter(|wall| *wall != Wall::Landlock).collect();
    assert_eq!(walls, format!("{rest:?} Some(Pivoted)"));
    skip("Landlock", "this kernel does not have it, or not among its active security modules");
}

#[test]
fn user_and_group_change_and_root_cannot_be_regained() {
    if !can_jail() {
        return;
    }
    let config = JailConfig { uid: 1_900_000_007, gid: 1_900_000_008, ..without(&[Wall::Seccomp]) };
    let mut cell = Cell::inside(&config);
    assert_eq!(cell.status("Uid"), ["1900000007"; 4].join(" "));
    assert_eq!(cell.status("Gid"), ["1900000008"; 4].join(" "));
    assert_eq!(cell.status("Groups"), "");
    cell.ask_refused("setuid", libc::EPERM);
    cell.ask_refused("setgid", libc::EPERM);
}

#[test]
fn no_capability_is_left_and_none_can_be_gained() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&without(&[Wall::Seccomp]));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(cell.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(cell.status("NoNewPrivs"), "1");
    cell.ask_refused("ptrace", libc::EPERM);
    cell.ask_refused("kill", libc::EPERM);
    cell.ask_refused("chroot /", libc::EPERM);
    cell.ask_refused("sethostname x", libc::EPERM);
}

#[test]
fn the_process_is_not_traceable_by_its_own_user() {
    if !can_jail() {
        return;
    }
    // The `/proc` files of a process that may not be traced belong to root, whatever its user is (proc(5)).
    let cell = Cell::inside(&JailConfig::default());
    assert_eq!(fs::metadata(cell.proc_path("mem")).unwrap().uid(), 0);
    assert!(cell.status("Uid").starts_with(&DEFAULT_ID.to_string()));
}

#[test]
fn the_root_is_an_empty_folder_that_cannot_be_left_or_written_to() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&without(&[Wall::Seccomp, Wall::Landlock]));
    assert_eq!(fs::read_dir(cell.proc_path("root")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(cell.proc_path("cwd")).unwrap().count(), 0);
    let mounts = cell.proc_text("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        let options = mounts.split_whitespace().nth(5).unwrap();
        assert!(options.split(',').any(|set| set == option), "{mounts}");
    }
    assert!(!cell.shares("mnt"));
    for path in ["/etc/passwd", "../etc/passwd", "../../../../../etc/passwd", "/proc/self/mem", "/dev/kvm"] {
        cell.ask_refused(&format!("open {path}"), libc::ENOENT);
    }
    cell.ask("chdir ..");
    cell.ask_refused("open etc/passwd", libc::ENOENT);
    // The read-only mount is checked first; without it, the folder's owner and mode would prevent these calls.
    cell.ask_refused("create /x", libc::EROFS);
    cell.ask_refused("mkdir /x", libc::EROFS);
    assert!(fs::read_dir(cell.config().chroot.as_ref().unwrap()).unwrap().next().is_none());
}

#[test]
fn the_root_is_read_only_for_root_too() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&without(&[Wall::Seccomp, Wall::Landlock, Wall::Privileges]));
    cell.ask_refused("create /x", libc::EROFS);
    cell.ask_refused("open ../etc/passwd", libc::ENOENT);
}

#[test]
fn a_root_that_cannot_be_pivoted_away_from_is_mounted_over() {
    if !can_jail() {
        return;
    }
    // As on an initramfs, pivot_root returns EINVAL; here because of a filter that outlives the exec.
    let config = without(&[Wall::Seccomp, Wall::Landlock]);
    let mut cell = Cell::start_with(&config, |config, listener| {
        let (mut command, _listener) = command(config, listener);
        // SAFETY: the closure allocates, which is sound in a child whose parent's allocator locks are reset
        // by fork (glibc does that).
        unsafe { command.pre_exec(refuse_pivot_root) };
        command.spawn().unwrap()
    });
    assert!(cell.ask("walls").ends_with("Some(MovedOver)"));
    assert_eq!(fs::read_dir(cell.proc_path("root")).unwrap().count(), 0);
    for path in ["/etc/passwd", "../etc/passwd"] {
        cell.ask_refused(&format!("open {path}"), libc::ENOENT);
    }
    cell.ask_refused("create /x", libc::EROFS);
}

fn refuse_pivot_root() -> std::io::Result<()> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let rules = [(libc::SYS_pivot_root, Vec::new())].into_iter().collect();
    let einval = SeccompAction::Errno(libc::EINVAL.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, einval, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&filter).map_err(std::io::Error::other)
}

/// Returns the command of an inmate, for launching it in ways that a launcher does not use. The listener is inherited.
fn command(config: &JailConfig, listener: UnixListener) -> (Command, UnixListener) {
    let control_fd = listener.as_raw_fd();
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::fcntl(control_fd, libc::F_SETFD, 0) }, 0);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["run", "--control-fd", &control_fd.to_string()]).args(config.to_args());
    command.stderr(Stdio::piped());
    (command, listener)
}

#[test]
fn the_network_namespace_is_its_own_and_has_nothing_but_a_loopback_that_is_down() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&without(&[Wall::Seccomp, Wall::Landlock]));
    assert!(!cell.shares("net"));
    let interfaces = cell.proc_text("net/dev");
    let names: Vec<&str> =
        interfaces.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(names, ["lo"]);
    cell.ask_refused("connect-loopback", libc::ENETUNREACH);
    let name = format!("hearth-test-{}", cell.pid());
    let _listener = UnixListener::bind_addr(&abstract_address(&name)).unwrap();
    cell.ask_refused(&format!("host-socket {name}"), libc::ECONNREFUSED);
}

#[test]
fn ipc_and_host_name_are_its_own() {
    if !can_jail() {
        return;
    }
    let cell = Cell::inside(&JailConfig::default());
    assert!(!cell.shares("ipc") && !cell.shares("uts"));
}

#[test]
fn it_leads_a_session_of_its_own_and_outlives_its_launcher() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&without(&[Wall::Seccomp]));
    let stat = cell.proc_text("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let pid = cell.pid().to_string();
    // The fields are: state, parent, group, session, terminal (proc_pid_stat(5)).
    assert_eq!(fields[2..5], [pid.as_str(), pid.as_str(), "0"]);
    assert_eq!(cell.status("Umask"), "0077");
    assert_eq!(cell.ask("pdeathsig"), "ok 0");
}

#[test]
fn no_descriptor_is_inherited_but_the_ones_given() {
    if !can_jail() {
        return;
    }
    let leak = |path: &str| {
        let fd = File::open(path).unwrap().into_raw_fd();
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }, 0);
        fd
    };
    let leaked = [leak("/etc/passwd"), leak("/")];
    let mut cell = Cell::inside(&JailConfig::default());
    let open = |cell: &Cell| {
        let entries = fs::read_dir(cell.proc_path("fd")).unwrap().map(|entry| entry.unwrap());
        let mut open: Vec<(i32, String)> = entries
            .map(|entry| {
                let target = fs::read_link(entry.path()).unwrap();
                (entry.file_name().to_str().unwrap().parse().unwrap(), target.to_str().unwrap().to_owned())
            })
            .collect();
        open.sort();
        open
    };
    let inside = open(&cell);
    // Descriptor 4 is the page map. 5 and 6 are sockets: the inmate has accepted a connection on a duplicate of the
    // listener.
    let numbers: Vec<i32> = inside.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 2, CONTROL_FD, 4, 5, 6], "{inside:?}");
    assert_eq!(inside[0].1, "/dev/null");
    assert!(inside[2].1.starts_with("pipe:"), "{inside:?}");
    assert!(inside[3].1.starts_with("socket:"), "{inside:?}");
    assert!(inside[4].1.ends_with("/pagemap"), "{inside:?}");
    assert!(inside[5..].iter().all(|(_, target)| target.starts_with("socket:")), "{inside:?}");
    assert_eq!(cell.ask("hello"), "hello");

    let bare = Cell::inside(&without(&[Wall::Descriptors]));
    assert!(open(&bare).iter().any(|(_, target)| target == "/etc/passwd"), "the test leaks nothing");
    for fd in leaked {
        // SAFETY: opened above, and owned by nothing else.
        unsafe { libc::close(fd) };
    }
}

#[test]
fn limits_are_set_and_cannot_be_raised() {
    if !can_jail() {
        return;
    }
    let config = JailConfig { nofile: 64, fsize: Some(1 << 20), ..without(&[Wall::Seccomp]) };
    let mut cell = Cell::inside(&config);
    let limits = cell.proc_text("limits");
    let limit = |name: &str| -> Vec<String> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(String::from).collect()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max open files"), ["64", "64"]);
    assert_eq!(limit("Max file size"), ["1048576", "1048576"]);
    assert!(limit("Max locked memory")[1].parse::<u64>().unwrap() <= 8 << 20);
    assert_eq!(cell.ask("descriptors"), "63");
    // A write past the limit fails, and does not kill the monitor.
    let file = tempfile::tempfile().unwrap();
    assert_eq!(cell.tell("extend 1048575", Some(&file)).unwrap(), "ok");
    assert_eq!(cell.tell("extend 1048576", Some(&file)).unwrap(), format!("errno {}", libc::EFBIG));
}

#[test]
fn the_default_limit_of_descriptors_is_what_the_documentation_says() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&without(&[Wall::Seccomp]));
    assert_eq!(cell.ask("descriptors"), (DEFAULT_NOFILE - 1).to_string());
}

#[test]
fn landlock_alone_keeps_every_file_shut() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&without(&[Wall::Root, Wall::Seccomp, Wall::Privileges]));
    if !cell.ask("walls").contains("Landlock") {
        return skip("Landlock", "this kernel does not have it, or not among its active security modules");
    }
    cell.ask_refused("open /etc/passwd", libc::EACCES);
    cell.ask_refused("create /tmp/hearth-test", libc::EACCES);
}

#[test]
fn the_page_map_shows_presence_but_no_frames() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&JailConfig::default());
    assert_eq!(cell.ask("page"), "present 1 frame 0");
}

#[test]
fn without_a_jail_nothing_changes() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&JailConfig::disabled());
    assert_eq!(cell.ask("walls"), "[] None");
    assert!(["mnt", "net", "ipc", "uts"].iter().all(|namespace| cell.shares(namespace)));
    assert_eq!(cell.status("Uid"), "0 0 0 0");
    assert_eq!(cell.status("Seccomp"), "0");
}

/// Starts an inmate that cannot enter the jail; returns its error message.
fn refusal(config: &JailConfig, launch: impl FnOnce(&JailConfig, UnixListener) -> Child) -> String {
    let mut cell = Cell::start_with(config, launch);
    let (status, message) = cell.end();
    if let Some(folder) = &cell.config().chroot {
        // The test may have put files into the folder on purpose; remove them, so that it can be cleaned up.
        for entry in fs::read_dir(folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    assert_eq!(status.code(), Some(NOT_INSIDE), "{message}");
    message
}

fn launch(config: &JailConfig, listener: UnixListener) -> Child {
    spawn(
        &std::env::current_exe().unwrap(),
        config,
        listener.into(),
        Stdio::piped(),
        tempfile::tempfile().unwrap(),
    )
    .unwrap()
}

#[test]
fn what_keeps_a_wall_from_standing_is_said_with_its_remedy() {
    if !can_jail() {
        return;
    }
    let root = JailConfig { uid: 0, ..JailConfig::default() };
    let message = refusal(&root, launch);
    assert!(message.contains("`privileges`") && message.contains("--jail-uid"), "{message}");

    let message = refusal(&JailConfig::default(), |config, listener| {
        launch(&JailConfig { chroot: None, ..config.clone() }, listener)
    });
    assert!(message.contains("`root`") && message.contains("--jail-root"), "{message}");

    let message = refusal(&JailConfig::default(), |config, listener| {
        fs::write(config.chroot.as_ref().unwrap().join("file"), "").unwrap();
        launch(config, listener)
    });
    assert!(message.contains("not empty: file"), "{message}");

    let message = refusal(&JailConfig::default(), |config, listener| {
        let everybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(config.chroot.as_ref().unwrap(), everybody).unwrap();
        launch(config, listener)
    });
    assert!(message.contains("mode 777"), "{message}");

    let message = refusal(&JailConfig::default(), |config, listener| {
        let (command, _listener) = command(config, listener);
        // The program may lie where only root has access; this link leads to it for every user.
        let mut unprivileged = Command::new("/proc/self/exe");
        unprivileged.args(command.get_args()).uid(DEFAULT_ID).gid(DEFAULT_ID);
        unprivileged.stderr(Stdio::piped()).spawn().unwrap()
    });
    assert!(message.contains("needs root") && message.contains("--jail=off"), "{message}");

    let message = refusal(&JailConfig::default(), |config, listener| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["run", "--control-fd", "999"]).args(config.to_args()).stderr(Stdio::piped());
        drop(listener);
        command.spawn().unwrap()
    });
    assert!(message.contains("descriptor 999") && message.contains("--control-fd"), "{message}");
}
