//! Tests of the system call filters: for each kind of thread, the calls of its normal work are allowed, and the first
//! steps of an intruder are not.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use hearth_vmm_jail::{JailConfig, OnViolation, Wall};

use crate::cell::{Cell, can_jail};

/// Returns a configuration with no wall but the filters, which do not rely on other walls.
fn filters_alone() -> JailConfig {
    let walls = JailConfig::default();
    JailConfig { off: walls.walls().filter(|wall| *wall != Wall::Seccomp).collect(), ..walls.clone() }
}

const ROLES: [&str; 4] = ["control", "device", "vcpu", "memory"];

#[test]
fn the_daily_work_of_every_kind_of_thread_passes() {
    if !can_jail() {
        return;
    }
    for role in ROLES {
        let mut cell = Cell::inside(&JailConfig::default());
        assert_eq!(cell.status("Seccomp"), "2");
        let disk = tempfile::tempfile().unwrap();
        let answer = cell.tell(&format!("as {role} harmless"), Some(&disk));
        if answer.as_deref() != Some("fine") {
            panic!("{role}: {answer:?}: {:?}", cell.end());
        }
        // The process continues to work afterwards.
        assert_eq!(cell.ask("hello"), "hello");
    }
}

#[test]
fn an_intruders_first_step_ends_the_process_whatever_thread_takes_it() {
    if !can_jail() {
        return;
    }
    let steps = [
        "open /etc/passwd",
        "open /",
        "create x",
        "mkdir x",
        "chdir ..",
        "execve /bin/sh",
        "socket",
        "inet-pair",
        "ptrace",
        "kill",
        "tgkill",
        "setuid",
        "unshare",
        "fork-once",
        "tiocsti",
        "map-code",
        "make-code",
        "memfd",
        "set-limit",
        "alien",
        "set-option",
        "peer",
    ];
    for role in ROLES {
        // Check first that entering the role alone does not kill the process.
        assert_eq!(Cell::inside(&filters_alone()).ask(&format!("as {role} nothing")), "ok 0");
        for step in steps {
            Cell::inside(&filters_alone()).ask_fatal(&format!("as {role} {step}"), libc::SIGSYS);
        }
    }
}

#[test]
fn only_the_control_thread_makes_rings() {
    if !can_jail() {
        return;
    }
    let mut control = Cell::inside(&filters_alone());
    for step in ["ring", "change-ring"] {
        // The kernel refuses what is asked for, so the filter has let it pass.
        assert!(control.ask(&format!("as control {step}")).starts_with("errno "));
        for role in ["device", "vcpu", "memory"] {
            Cell::inside(&filters_alone()).ask_fatal(&format!("as {role} {step}"), libc::SIGSYS);
        }
    }
}

#[test]
fn only_the_control_thread_starts_threads_and_sets_kvm_up_and_only_vcpu_threads_run_vcpus() {
    if !can_jail() {
        return;
    }
    let not_for_null = format!("errno {}", libc::ENOTTY);
    let mut control = Cell::inside(&filters_alone());
    assert_eq!(control.ask("as control thread"), "ok 0");
    assert_eq!(control.ask("as control kvm-create-vm"), not_for_null);
    // The filter cannot check the flags of clone3, so the C library must manage without it.
    assert_eq!(control.ask("as control clone3"), format!("errno {}", libc::ENOSYS));
    assert_eq!(control.ask("as vcpu kvm-run"), not_for_null);
    for step in
        ["vcpu thread", "vcpu kvm-create-vm", "device thread", "device kvm-create-vm", "device kvm-run"]
    {
        Cell::inside(&filters_alone()).ask_fatal(&format!("as {step}"), libc::SIGSYS);
    }
}

#[test]
fn the_main_thread_is_filtered_before_its_first_command() {
    if !can_jail() {
        return;
    }
    Cell::inside(&JailConfig::default()).ask_fatal("open /etc/passwd", libc::SIGSYS);
}

#[test]
fn while_violations_are_only_logged_the_other_walls_still_hold() {
    if !can_jail() {
        return;
    }
    let config = JailConfig { on_violation: OnViolation::Log, ..JailConfig::default() };
    let mut cell = Cell::inside(&config);
    for role in ROLES {
        let answer = cell.ask(&format!("as {role} open /etc/passwd"));
        let refused = [libc::ENOENT, libc::EACCES].map(|errno| format!("errno {errno}"));
        assert!(refused.contains(&answer), "{answer}");
    }
}

#[test]
fn a_bug_of_the_monitors_own_is_still_told_from_a_violation() {
    if !can_jail() {
        return;
    }
    let mut cell = Cell::inside(&JailConfig::default());
    cell.ask_fatal("as device abort", libc::SIGABRT);
    // A backtrace would open files, for which the process would be killed.
    let mut cell = Cell::start_with(&JailConfig::default(), |config, listener| {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }, 0);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["run", "--control-fd", &fd.to_string()]).args(config.to_args());
        command.env("RUST_BACKTRACE", "full").stderr(Stdio::piped()).spawn().unwrap()
    });
    assert_eq!(cell.ask("as vcpu panic"), "panicked");
    assert_eq!(cell.ask("hello"), "hello");
    cell.ask("as control panic");
    let socket_closed = cell.tell("open /", None);
    assert_eq!(socket_closed, None);
    let (status, stderr) = cell.end();
    assert_eq!(status.signal(), Some(libc::SIGSYS));
    assert_eq!(stderr.matches("the inmate panics").count(), 2, "{stderr}");
}
