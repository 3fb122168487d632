//! Helpers: what parses what strangers made, in the same jail, with a list of calls that are denied.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use hearth_vmm_jail::{JailConfig, Wall};

use crate::cell::{Cell, can_jail, without};
use crate::inmate::HELP;

fn launch(config: &JailConfig, listener: UnixListener) -> Child {
    let (connection, _) = listener.accept().unwrap();
    let number = connection.as_raw_fd();
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }, 0);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([HELP, "--control-fd", &number.to_string()]).args(config.to_args());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn helper(config: &JailConfig) -> Cell {
    let mut cell = Cell::start_with(config, launch);
    assert_eq!(cell.ask("hello"), "hello");
    cell
}

/// A file that every user may read, and that the daemon's configuration stands in for.
const FILE: &str = "/etc/passwd";

#[test]
fn a_helper_has_no_files_and_no_way_to_others() {
    if !can_jail() {
        return;
    }
    let mut cell = helper(&JailConfig::default());
    assert_eq!(cell.ask("thread"), "ok 0", "its runtime starts threads");
    assert_eq!(cell.ask("clone3"), format!("errno {}", libc::ENOSYS));
    let refused = [libc::ENOENT, libc::EACCES, libc::EROFS].map(|errno| format!("errno {errno}"));
    for step in [&format!("open {FILE}"), "open /proc/self/environ", "create /file", "mkdir /folder"] {
        let answer = cell.ask(step);
        assert!(refused.contains(&answer), "{step}: {answer}");
    }
    assert!(!cell.shares("net") && !cell.shares("mnt"));
    assert_eq!((cell.status("Seccomp").as_str(), cell.status("CapEff").as_str()), ("2", "0000000000000000"));
    for step in ["socket", "execve /bin/true", "ptrace", "kill", "unshare", "fork-once", "ring", "chroot /"] {
        helper(&JailConfig::default()).ask_fatal(step, libc::SIGSYS);
    }
}

#[test]
fn the_other_walls_hold_a_helper_without_the_list() {
    if !can_jail() {
        return;
    }
    let mut cell = helper(&without(&[Wall::Seccomp]));
    for (step, errno) in [
        ("execve /bin/true", libc::ENOENT),
        ("connect-loopback", libc::ENETUNREACH),
        ("kill", libc::EPERM),
        ("chroot /", libc::EPERM),
        ("setuid", libc::EPERM),
    ] {
        let answer = cell.ask(step);
        // Landlock refuses files before the root does.
        let landlock = format!("errno {}", libc::EACCES);
        assert!(answer == format!("errno {errno}") || answer == landlock, "{step}: {answer}");
    }
}
