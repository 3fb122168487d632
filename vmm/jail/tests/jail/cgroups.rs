//! Tests of the control group: a microVM can use the host's resources up to its limits, and no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hearth_vmm_jail::cgroup::CpuMax;
use hearth_vmm_jail::{Cgroup, CgroupConfig, CgroupError, JailConfig, Wall};

use crate::cell::{Cell, can_jail, skip, without};

/// Timeout. It is long enough for any machine; only a failure reaches it.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the root of the version 2 hierarchy, if this machine has one.
fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let path = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
    });
    if path.is_none() {
        skip("the control group", "no cgroup version 2 hierarchy is mounted");
    }
    path
}

/// Returns a name that no other test uses.
fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("hearth-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn has_controllers(root: &Path, wanted: &[&str]) -> bool {
    let enabled = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap();
    let missing: Vec<_> =
        wanted.iter().filter(|name| !enabled.split_whitespace().any(|set| set == **name)).collect();
    if !missing.is_empty() {
        skip("limits of the control group", &format!("{missing:?} are not in cgroup.subtree_control"));
    }
    missing.is_empty()
}

fn jailed_in(cgroup: CgroupConfig) -> JailConfig {
    JailConfig { cgroup: Some(cgroup), ..without(&[Wall::Seccomp]) }
}

#[test]
fn the_monitor_starts_inside_its_group_and_the_group_goes_when_it_ends() {
    let (true, Some(root)) = (can_jail(), hierarchy()) else { return };
    let config = CgroupConfig::unlimited(&root, name());
    let mut cell = Cell::inside(&jailed_in(config.clone()));
    let groups = cell.proc_text("cgroup");
    assert!(groups.lines().any(|line| line == format!("0::/{}", config.name)), "{groups}");
    let cgroup = Cgroup::of(&config).unwrap();
    let error = cgroup.remove().unwrap_err();
    assert!(matches!(error, CgroupError::Populated(_)), "{error}");
    assert!(!cgroup.wait_empty(Duration::ZERO).unwrap());
    cgroup.kill().unwrap();
    let (status, _) = cell.end();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    assert!(cgroup.wait_empty(TEST_TIMEOUT).unwrap());
    drop(cell);
    assert!(!config.path().exists());
    cgroup.remove().unwrap();
}

#[test]
fn waiting_for_a_group_to_empty_ends_when_its_last_process_does() {
    let (true, Some(root)) = (can_jail(), hierarchy()) else { return };
    let config = CgroupConfig::unlimited(&root, name());
    let mut cell = Cell::inside(&jailed_in(config.clone()));
    let cgroup = Cgroup::of(&config).unwrap();
    let waiter = std::thread::spawn(move || Cgroup::of(&config).unwrap().wait_empty(TEST_TIMEOUT));
    cgroup.kill().unwrap();
    cell.end();
    assert!(waiter.join().unwrap().unwrap());
}

#[test]
fn a_name_that_is_taken_and_a_controller_that_is_missing_are_said() {
    let (true, Some(root)) = (can_jail(), hierarchy()) else { return };
    let config = CgroupConfig::unlimited(&root, name());
    let parent = Cgroup::create(&config).unwrap();
    let error = Cgroup::create(&config).unwrap_err();
    assert!(matches!(error, CgroupError::Exists(_)), "{error}");
    // The new group enables no controllers for its children, whatever the machine has.
    let below = CgroupConfig::for_guest(config.path(), "vm", 1 << 30);
    let message = Cgroup::create(&below).unwrap_err().to_string();
    assert!(message.contains("`memory`") && message.contains("cgroup.subtree_control"), "{message}");
    assert!(!below.path().exists());
    parent.remove().unwrap();
}

#[test]
fn limits_are_in_place() {
    let (true, Some(root)) = (can_jail(), hierarchy()) else { return };
    if !has_controllers(&root, &["cpu", "memory", "pids"]) {
        return;
    }
    let config = CgroupConfig {
        cpu_weight: Some(50),
        cpu_max: Some(CpuMax { quota_us: 150_000, period_us: 100_000 }),
        ..CgroupConfig::for_guest(&root, name(), 256 << 20)
    };
    let cell = Cell::inside(&jailed_in(config.clone()));
    let setting = |file: &str| fs::read_to_string(config.path().join(file)).unwrap().trim().to_owned();
    assert_eq!(setting("cpu.weight"), "50");
    assert_eq!(setting("cpu.max"), "150000 100000");
    assert_eq!(setting("memory.max"), (256_u64 + 48 + 2).strict_mul(1 << 20).to_string());
    assert_eq!(setting("memory.oom.group"), "1");
    assert_eq!(setting("pids.max"), "256");
    assert_eq!(setting("cgroup.procs"), cell.pid().to_string());
}

#[test]
fn a_fork_bomb_goes_out_at_the_limit() {
    let (true, Some(root)) = (can_jail(), hierarchy()) else { return };
    if !has_controllers(&root, &["pids"]) {
        return;
    }
    let cgroup = CgroupConfig { pids_max: Some(10), ..CgroupConfig::unlimited(&root, name()) };
    let mut cell = Cell::inside(&jailed_in(cgroup));
    assert_eq!(cell.ask("fork 500"), "9");
    assert_eq!(cell.ask("hello"), "hello");
}

#[test]
fn memory_beyond_the_limit_ends_the_monitor_and_nobody_else() {
    let (true, Some(root)) = (can_jail(), hierarchy()) else { return };
    if !has_controllers(&root, &["memory"]) {
        return;
    }
    let limits = CgroupConfig { memory_max: Some(48 << 20), ..CgroupConfig::unlimited(&root, name()) };
    let swapless = CgroupConfig { memory_swap_max: Some(0), ..limits.clone() };
    let has_swap = root.join("memory.swap.max").exists()
        || fs::read_to_string("/proc/swaps").unwrap().lines().count() > 1;
    let mut cell = Cell::inside(&jailed_in(if has_swap { swapless } else { limits }));
    assert_eq!(cell.ask(&format!("fill {}", 16 << 20)), "ok 4096");
    cell.ask_fatal(&format!("fill {}", 256 << 20), libc::SIGKILL);
}
