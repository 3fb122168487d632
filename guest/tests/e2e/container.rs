//! Properties of a container, as the kernel reports them inside.

use hearth_proto::guest::v1::request::Operation;
use hearth_proto::guest::v1::{AppState, FailureCode, Process, StartApp};

use super::probe;
use super::support::{Guest, Machine, Metal, process, shell};

/// A field of `/proc/…/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
        .unwrap_or_else(|| panic!("there is no {name} in {status}"))
}

fn idle(all_capabilities: bool) -> Option<Guest> {
    let mut machine = Machine::new(&Metal::find()?);
    machine.configure.all_capabilities = all_capabilities;
    let mut guest = machine.boot();
    guest.start_idle();
    Some(guest)
}

#[test]
fn a_container_has_what_dockers_have_and_no_more() {
    let Some(guest) = idle(false) else { return };
    let status = guest.sh("cat /proc/1/status");
    for (set, expected) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "00000000a80425fb"),
        ("CapEff", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "2"),
        ("SigIgn", "0000000000000000"),
        ("SigBlk", "0000000000000000"),
        ("Umask", "0022"),
        ("Uid", "0\t0\t0\t0"),
    ] {
        assert_eq!(field(&status, set), expected, "{set}");
    }
    assert_eq!(guest.sh("cat /proc/1/cmdline | tr '\\0' ' '"), "sleep 1000000 ", "the app is PID 1");
    assert_eq!(
        guest.sh("cat /proc/1/limits | grep 'open files' | tr -s ' '"),
        "Max open files 1024 1048576 files \n"
    );
    assert_eq!(
        guest.sh("ls /dev | tr '\\n' ' '"),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "
    );
    assert_eq!(guest.sh("stat -c '%a %t,%T' /dev/null /dev/pts/ptmx"), "666 1,3\n666 5,2\n");
    assert_eq!(guest.sh("hostname; cat /etc/hostname"), "localhost\nlocalhost\n");
    assert_eq!(guest.sh("cat /etc/resolv.conf"), "nameserver 169.254.53.53\n");
    assert_eq!(guest.sh("mount | awk '{ print $3 }' | head -1; ls / | grep -c -e '^init$'; true"), "/\n0\n");
    for refused in [
        "mknod /dev/x b 254 0",
        "mount -t tmpfs none /tmp",
        "echo 1 > /proc/sys/kernel/panic",
        "touch /sys/x",
    ] {
        let finished = guest.run(shell(refused));
        // Docker's set of capabilities includes mknod.
        let made_a_node = refused.starts_with("mknod");
        assert_eq!(finished.result.unwrap().code == 0, made_a_node, "{refused}");
    }
    guest.power_off();
}

/// Makes a node of the root disk in this folder, and prints its path.
const DISK_NODE: &str =
    "node() { mknod $1/disk b $(awk '$4 == \"vda\" { print $1, $2 }' /proc/partitions); echo $1/disk; }";

#[test]
fn nodes_that_an_app_makes_open_nothing_of_the_machine() {
    let Some(guest) = idle(false) else { return };
    // The node is made, wherever that is, and is the disk's; but it opens for nobody, whatever capabilities he has.
    for folder in ["/dev", "/tmp", "/root"] {
        let made = guest.sh(&format!(
            "{DISK_NODE}; mkdir -p {folder}; test -b $(node {folder}) && stat -c %F {folder}/disk"
        ));
        assert_eq!(made, "block special file\n");
        for attempt in [format!("head -c 1 {folder}/disk"), format!("echo x > {folder}/disk")] {
            for privileged in [false, true] {
                let result = guest.exec(shell(&attempt), None, privileged).finish().result.unwrap();
                assert_ne!(result.code, 0, "{attempt}, privileged: {privileged}");
            }
        }
    }
    for device in ["c 1 1", "c 1 11", "c 10 200", "c 10 229", "b 1 3"] {
        let opened =
            guest.run(shell(&format!("mknod /tmp/node {device} && exec 3< /tmp/node"))).result.unwrap();
        assert_ne!(opened.code, 0, "{device}");
        guest.sh("test -e /tmp/node && rm /tmp/node");
    }
    // A node of a device that every container has is as good as the one in /dev.
    guest.sh("mknod /tmp/node c 1 3 && echo x > /tmp/node && head -c 1 /dev/zero > /dev/full; test $? = 1");
    guest.sh("head -c 1 /dev/urandom > /dev/null && head -c 1 /dev/random > /dev/null");
    guest.power_off();
}

#[test]
fn all_capabilities_bring_fuse_cgroups_and_limits_that_can_be_raised() {
    let Some(guest) = idle(true) else { return };
    let status = guest.sh("cat /proc/1/status");
    for (set, expected) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "000001ffffffffff"),
        ("CapEff", "000001ffffffffff"),
        ("CapBnd", "000001ffffffffff"),
        ("CapAmb", "0000000000000000"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(field(&status, set), expected, "{set}");
    }
    assert_eq!(guest.sh("stat -c '%a %t,%T' /dev/fuse"), "666 a,e5\n");
    assert_eq!(guest.sh("head -c 1 /dev/vda | wc -c; exec 3<> /dev/fuse"), "1\n");
    assert_eq!(guest.sh("ulimit -n; ulimit -Hn; ulimit -n 200000; ulimit -n"), "1024\n1048576\n200000\n");
    guest.sh("mkdir /sys/fs/cgroup/mine && grep -q memory /sys/fs/cgroup/cgroup.controllers");
    guest.sh("mount -t tmpfs none /tmp && echo 7 > /proc/sys/kernel/panic");
    probe::copy_to(&guest);
    probe::run(&guest, "vsock_is_refused_and_other_sockets_are_not");
    guest.power_off();
}

#[test]
fn privileged_processes_have_all_capabilities_beside_an_app_that_has_not() {
    let Some(guest) = idle(false) else { return };
    let finished = guest.exec(shell("cat /proc/self/status"), None, true).finish();
    assert_eq!(field(&finished.success("status"), "CapEff"), "000001ffffffffff");
    assert_eq!(field(&guest.sh("cat /proc/self/status"), "CapEff"), "00000000a80425fb");
    probe::copy_to(&guest);
    probe::run(&guest, "vsock_is_refused_and_other_sockets_are_not");
    guest.power_off();
}

#[test]
fn the_app_is_the_user_with_the_folder_and_the_variables_that_it_asks_for() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.configure.hostname = "box".to_string();
    let mut guest = machine.boot();
    let script =
        "id; pwd; env | sort; hostname; cat /proc/self/status; echo to stdout > /dev/stdout; touch here";
    let app = Process {
        environment: vec!["B=2".to_string(), "A=1 1".to_string()],
        working_directory: "/made/on/the/way".to_string(),
        user: "web".to_string(),
        ..shell(&format!("{script} || id > /dev/stderr"))
    };
    let unknown = |user: &str, program: &str| {
        let process = Process { user: user.to_string(), ..process(&[program]) };
        Operation::StartApp(StartApp { process: Some(process) })
    };
    assert_eq!(guest.refused(unknown("nobody-here", "true")).code(), FailureCode::NotFound);
    let failure = guest.refused(unknown("", "no-such-program"));
    assert_eq!(failure.code(), FailureCode::NotFound, "{failure:?}");
    assert!(failure.message.contains("no-such-program"), "{failure:?}");
    guest.start(app);
    assert_eq!(guest.wait_app().code, 0);
    let mut logs = guest.logs(0);
    let last = guest.status().last_log;
    let lines: Vec<_> = (0..last).map(|_| String::from_utf8(logs.next().line).unwrap()).collect();
    let text = lines.join("\n");
    for line in [
        "uid=33(web) gid=34(web) groups=34(web),40(logs)",
        "/made/on/the/way",
        "A=1 1",
        "B=2",
        "HOME=/srv/web",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "box",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "to stdout",
    ] {
        assert!(lines.iter().any(|found| found == line), "no {line:?} in:\n{text}");
    }
    guest.power_off();
}

#[test]
fn an_app_ends_with_its_status_and_all_that_it_started() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    assert_eq!(guest.status().app(), AppState::NotStarted);
    let start = |script: &str| Operation::StartApp(StartApp { process: Some(shell(script)) });
    guest.start(shell("sleep 1000000 & trap 'exit 42' TERM; echo set; while true; do sleep 1; done"));
    assert_eq!(guest.status().app(), AppState::Running);
    assert_eq!(guest.refused(start("true")).code(), FailureCode::Invalid);
    assert_eq!(guest.logs(0).next().line, b"set");
    guest.sh("kill -TERM 1");
    let exited = guest.wait_app();
    assert_eq!((exited.code, exited.signal), (42, 0));
    let status = guest.status();
    assert_eq!((status.app(), status.exited), (AppState::Exited, Some(exited)));
    guest.power_off();
}

#[test]
fn changes_stay_in_memory_where_the_disk_cannot_be_written() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.configure.root.as_mut().unwrap().overlay_in_memory = true;
    let mut guest = machine.boot();
    guest.start_idle();
    assert_eq!(
        guest.sh("echo new > /bin/new && cat /bin/new && rm /etc/passwd && ls /etc/passwd || true"),
        "new\n"
    );
    assert_eq!(guest.sh("mount | grep ' on / '  | cut -d' ' -f5"), "overlay\n");
    guest.power_off();
}

#[test]
fn what_comes_at_the_wrong_time_or_makes_no_sense_is_refused() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot_only();
    let start = Operation::StartApp(StartApp { process: Some(process(&["true"])) });
    assert_eq!(guest.refused(start).code(), FailureCode::Invalid);
    let mut wrong = Machine::new(&metal).configure;
    wrong.root.as_mut().unwrap().device = "/dev/vdz".to_string();
    assert_eq!(guest.refused(Operation::Configure(wrong.clone())).code(), FailureCode::NotFound);
    wrong.root.as_mut().unwrap().file_system = "vfat".to_string();
    wrong.root.as_mut().unwrap().device = "/dev/vda".to_string();
    assert_eq!(guest.refused(Operation::Configure(wrong)).code(), FailureCode::Invalid);
    let right = Machine::new(&metal).configure;
    guest.done(Operation::Configure(right.clone()));
    assert_eq!(guest.refused(Operation::Configure(right)).code(), FailureCode::Invalid);
    guest.power_off();
}
