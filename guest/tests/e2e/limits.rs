//! Limits and settings that apps expect: those of a container of Docker, and those that Configure sets instead.

use std::net::TcpListener;

use hearth_proto::guest::v1::Process;

use super::probe;
use super::support::{Guest, Machine, Metal, shell};

/// The output of a script that must succeed, run by root and by another user.
fn by_both(guest: &Guest, script: &str) -> [String; 2] {
    ["", "web"].map(|user| guest.run(Process { user: user.to_string(), ..shell(script) }).success(script))
}

#[test]
fn limits_are_those_of_dockers_containers() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    guest.start_idle();
    for (script, expected) in [
        ("ulimit -n; ulimit -Hn; ulimit -n 200000; ulimit -n", "1024\n1048576\n200000\n"),
        ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0\n"),
        ("cat /proc/sys/net/ipv4/ping_group_range", "0\t2147483647\n"),
        ("cat /proc/sys/vm/max_map_count", "1048576\n"),
        // The machine has 256 MiB.
        (
            "cat /proc/sys/fs/inotify/max_user_watches /proc/sys/fs/inotify/max_user_instances",
            "65536\n1024\n",
        ),
        (
            "awk '/MemTotal/ { print int($2 / 8) }' /proc/meminfo > /tmp/half$$
            df -k /dev/shm | awk -v half=$(cat /tmp/half$$) 'END { d = $2 / 4 - half; print (d > -2 && d < 2) }'",
            "1\n",
        ),
    ] {
        assert_eq!(by_both(&guest, script), [expected, expected], "{script}");
    }
    probe::copy_to(&guest);
    for test in ["limits::port_80_and_pings_are_anybodys", "limits::the_kernel_has_what_apps_look_for"] {
        for user in ["web", ""] {
            let said = guest.run(Process { user: user.to_string(), ..probe::command_of(test) }).success(test);
            assert!(said.contains("1 passed"), "{said}");
        }
    }
    guest.power_off();
}

#[test]
fn limits_are_what_configure_says() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    (machine.configure.nofile_hard, machine.configure.shm_mib) = (1024, 64);
    let mut guest = machine.boot();
    guest.start_idle();
    assert_eq!(by_both(&guest, "ulimit -n; ulimit -Hn"), ["1024\n1024\n"; 2]);
    let raised = guest.run(Process { user: "web".to_string(), ..shell("ulimit -n 1025") });
    assert_ne!(raised.result.unwrap().code, 0);
    assert_eq!(guest.sh("df -k /dev/shm | awk 'END { print $2 }'"), "65536\n");
    guest.power_off();
}

#[test]
fn the_microvms_files_replace_the_images_unless_it_keeps_them() {
    let Some(metal) = Metal::find() else { return };
    for (keep, hosts) in [(false, "127.0.0.1\tlocalhost\n"), (true, "10.0.0.1 of-the-image\n")] {
        let mut machine = Machine::new(&metal);
        machine.configure.keep_etc = keep;
        let mut guest = machine.boot();
        guest.start_idle();
        assert_eq!(guest.sh("head -n 1 /etc/hosts"), hosts, "keep: {keep}");
        assert_eq!(guest.sh("cat /etc/resolv.conf"), "nameserver 169.254.53.53\n");
        guest.power_off();
    }
}

#[test]
#[ignore = "runs in a container"]
fn port_80_and_pings_are_anybodys() {
    TcpListener::bind(("127.0.0.1", 80)).unwrap();
    // SAFETY: takes no pointer.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP) };
    assert!(socket >= 0, "{}", std::io::Error::last_os_error());
}

#[test]
#[ignore = "runs in a container"]
fn the_kernel_has_what_apps_look_for() {
    let succeeds = |what: &str, value: libc::c_long| {
        assert!(value >= 0, "{what}: {}", std::io::Error::last_os_error());
        value
    };
    /// Asks for the version instead of making a set of rules.
    const VERSION: u32 = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with no attribute and this flag the kernel only answers with a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    assert!(succeeds("Landlock", version) >= 6);

    let (from, mut to) = ([7_u8; 64], [0_u8; 64]);
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    // SAFETY: both buffers live until the call returns, and are as long as is said.
    let copied =
        unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    assert_eq!((copied, to), (64, from));

    /// Faults in the kernel are none of its matter: anybody may have that.
    const UFFD_USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: takes no pointer.
    succeeds("userfaultfd", unsafe { libc::syscall(libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY) });

    // `struct perf_event_attr` of the first version: a software event (type 1), the clock of the task (1), user mode alone.
    let mut attribute = [0_u64; 8];
    attribute[0] = 1 | 64 << 32;
    attribute[1] = 1;
    attribute[5] = 1 << 5 | 1 << 6;
    // SAFETY: the attribute is as long as it says, and lives until the call returns.
    let event = unsafe { libc::syscall(libc::SYS_perf_event_open, attribute.as_ptr(), 0, -1, -1, 0_u64) };
    succeeds("perf_event_open", event);

    // SAFETY: takes no pointer: the number of the session's keyring.
    succeeds("keyctl", unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 1) });

    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(text("/proc/self/io").contains("read_bytes: "));
    assert!(text("/proc/pressure/memory").starts_with("some avg10="));
    let controllers = text("/proc/cgroups");
    for name in
        ["cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "perf_event", "hugetlb", "pids"]
    {
        assert!(
            controllers.lines().any(|line| line.starts_with(&format!("{name}\t"))),
            "{name} in {controllers}"
        );
    }
}
