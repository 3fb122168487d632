//! The app is frozen from a snapshot until the restored guest has its identity, and the guest forgets its previous identity.

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_agent_protocol::seal::seal;
use hearth_proto::guest::v1::request::Operation;
use hearth_proto::guest::v1::response::Result as Answer;
use hearth_proto::guest::v1::{
    CallHook, Credentials, FailureCode, Freeze, Hook, Identify, MakeSealKey, Quiesce, SetCredentials, Status,
    Thaw,
};
use hearth_testing::search::find;

use super::probe;
use super::support::{Guest, Machine, Metal, shell};

fn freeze(guest: &mut Guest, forget: bool) -> Status {
    match guest.ask(Operation::Freeze(Freeze { forget })) {
        Answer::Status(status) => status,
        other => panic!("not frozen: {other:?}"),
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// An identity with a host name, which every process in the guest can read.
fn identity(name: &str, clock: Duration) -> Identify {
    Identify {
        microvm_id: name.to_string(),
        hostname: name.to_string(),
        wall_clock_ns: u64::try_from(clock.as_nanos()).unwrap(),
        entropy: random(64),
        ..Identify::default()
    }
}

fn random(bytes: usize) -> Vec<u8> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    random
}

/// Parses a line of [`probe::a_line_each_millisecond`]: the guest's host name, and its time.
fn tick(line: &str) -> Option<(&str, Duration)> {
    let mut words = line.strip_prefix("tick ")?.split(' ');
    Some((words.next()?, Duration::from_nanos(words.next()?.parse().ok()?)))
}

#[test]
fn a_restored_app_runs_only_once_the_guest_knows_who_it_is() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    guest.done(Operation::Identify(identity("build", now())));
    probe::copy_to(&guest);
    guest.start(probe::command("a_line_each_millisecond"));
    let beside = probe::command("a_line_each_millisecond").arguments.join(" ");
    guest.sh(&format!("{beside} > /beside 2>&1 &"));
    guest.sh("while ! grep -q tick /beside; do :; done");
    let mut logs = guest.logs(0);
    while tick(&String::from_utf8_lossy(&logs.next().line)).is_none() {}

    let frozen = freeze(&mut guest, false);
    let frozen_at = now();
    assert!(frozen.frozen);
    // All lines that the app wrote are in the log, and it writes no more.
    let mut last = 0;
    while last < frozen.last_log {
        last = logs.next().sequence;
    }
    logs.acknowledge(last);
    while guest.status().acknowledged_log < last {}
    assert_eq!(guest.status().last_log, last);

    let mut guest = guest.save_and_restore();
    let mut logs = guest.logs(last);
    for _ in 0..100 {
        assert_eq!(guest.status().last_log, last, "it ran before it knew who it is");
    }
    assert!(guest.status().frozen);
    let clock = now() + Duration::from_secs(86_400);
    guest.done(Operation::Identify(identity("clone", clock)));
    assert!(!guest.status().frozen);
    for _ in 0..20 {
        let line = String::from_utf8(logs.next().line).unwrap();
        let (name, time) = tick(&line).unwrap();
        assert!(name == "clone" && time >= clock, "{line}");
    }
    guest.sh("while ! grep -q 'tick clone' /beside; do :; done");
    let lines = guest.sh("cat /beside");
    // The last line may be incomplete.
    let complete = lines.rsplit_once('\n').unwrap().0;
    for line in complete.lines().filter(|line| line.starts_with("tick")) {
        match tick(line).unwrap() {
            ("build", time) => assert!(time <= frozen_at, "{line}, after {frozen_at:?}"),
            (_, time) => assert!(time >= clock, "{line}"),
        }
    }
    guest.power_off();
}

#[test]
fn an_app_finds_another_generation_before_it_goes_on() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    guest.done(Operation::Identify(identity("build", now())));
    probe::copy_to(&guest);
    guest.start(probe::command("the_generation_each_millisecond"));
    let seen = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.strip_prefix("seen ")?.split(' ');
        let name = words.next()?.to_owned();
        assert_eq!(words.clone().next()?.len(), 20, "{line}");
        Some((name, words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?))
    };
    let mut logs = guest.logs(0);
    let built = loop {
        let record = logs.next();
        match seen(&record.line) {
            Some((name, number, 0)) if name == "build" => break number,
            other => assert_eq!(other, None, "{record:?}"),
        }
    };
    let last = freeze(&mut guest, false).last_log;
    logs.acknowledge(last);
    while guest.status().acknowledged_log < last {}
    let mut guest = guest.save_and_restore();
    let mut logs = guest.logs(last);
    guest.done(Operation::Identify(identity("clone", now())));
    loop {
        let (name, number, events) = seen(&logs.next().line).unwrap();
        if name == "clone" {
            assert_eq!(number, built + 1, "the app went on and saw the generation of before");
            if events == 1 {
                break;
            }
        }
    }
    assert_eq!(guest.sh("cat /run/hearth/generation"), format!("{:020}\n", built + 1));
    guest.power_off();
}

#[test]
fn a_frozen_app_can_be_thawed_as_who_it_was() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    let thaw = || Operation::Thaw(Thaw {});
    guest.done(thaw()); // there is nothing yet, which is no reason to refuse
    probe::copy_to(&guest);
    guest.start(probe::command("a_line_each_millisecond"));
    guest.done(thaw());
    for _ in 0..2 {
        assert!(freeze(&mut guest, false).frozen);
        let last = freeze(&mut guest, false).last_log;
        let call = CallHook { hook: Hook::Suspend.into(), port: 9000, timeout_ms: 1, ..CallHook::default() };
        let refused = guest.refused(Operation::CallHook(call));
        assert!(refused.code() == FailureCode::Invalid && refused.message.contains("frozen"), "{refused:?}");
        // A process that is started now runs after the thaw, if its connection is still open by then.
        let waits = guest.exec(shell("echo later"), None, false);
        drop(guest.exec(shell("touch /nobody-waits"), None, false));
        assert_eq!(guest.status().last_log, last);
        guest.done(thaw());
        assert!(!guest.status().frozen);
        assert_eq!(waits.finish().success("what has waited"), "later\n");
        let mut logs = guest.logs(last);
        assert!(logs.next().sequence > last, "it goes on");
    }
    // A frozen app does not prevent the machine from shutting down.
    freeze(&mut guest, true);
    guest.power_off();
}

#[test]
fn a_process_that_nobody_waits_for_any_more_does_not_run_after_the_thaw() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    guest.start_idle();
    freeze(&mut guest, false);
    drop(guest.exec(shell("touch /nobody-waits"), None, false));
    // The agent checks every second whether the connection is still open. No list that could be polled contains the process.
    std::thread::sleep(Duration::from_secs(3));
    guest.done(Operation::Thaw(Thaw {}));
    assert_eq!(guest.sh("ls /nobody-waits 2>/dev/null || echo none"), "none\n");
    guest.power_off();
}

#[test]
fn an_app_with_all_capabilities_can_neither_leave_its_group_nor_thaw_it() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.configure.all_capabilities = true;
    let mut guest = machine.boot();
    probe::copy_to(&guest);
    // The app has a hierarchy of its own, as a container runtime or an init makes it; afterwards there is no room for processes beside it.
    let group = "/sys/fs/cgroup";
    let app = probe::command("a_line_each_millisecond").arguments.join(" ");
    let thaw =
        format!("while :; do echo 0 > {group}/mine/cgroup.freeze; echo 0 > {group}/cgroup.freeze; done");
    guest.start(shell(&format!(
        "set -e; mkdir {group}/mine; echo 1 > {group}/mine/cgroup.procs; echo +memory > {group}/cgroup.subtree_control; \
         cat /proc/self/cgroup; ({thaw}) & exec {app}"
    )));
    let mut logs = guest.logs(0);
    assert_eq!(logs.next().line, b"0::/mine");
    assert_eq!(guest.sh("cat /proc/self/cgroup"), "0::/../beside\n");
    guest.sh(&format!("{app} > /beside 2>&1 &"));
    guest.sh("while ! grep -q tick /beside; do :; done");
    let last = freeze(&mut guest, false).last_log;
    for _ in 0..100 {
        assert_eq!(guest.status().last_log, last);
    }
    guest.done(Operation::Thaw(Thaw {}));
    let mut logs = guest.logs(last);
    assert!(logs.next().sequence > last);
    guest.sh("n=$(grep -c tick /beside); while [ $(grep -c tick /beside) -le $n ]; do :; done");
    guest.power_off();
}

fn secret() -> String {
    random(20).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_a_guest_has_forgotten_is_nowhere_in_its_memory() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.configure.hostname = "image".to_string();
    let mut guest = machine.boot();
    guest.done(Operation::Identify(identity("build", now())));
    // A shell joins two parts in its memory: this proves that the search finds a secret that is there.
    let kept = secret();
    let (one, other) = kept.split_at(20);
    guest.start(shell(&format!("kept=$(echo {one})$(echo {other}); echo ready; sleep 1000000; echo $kept")));
    assert_eq!(guest.logs(0).next().line, b"ready");
    let credentials = Credentials {
        access_key_id: secret(),
        secret_access_key: secret(),
        session_token: secret().repeat(20),
        last_updated: 1,
        expiration: 2,
    };
    for _ in 0..3 {
        let Answer::SealKey(key) = guest.ask(Operation::MakeSealKey(MakeSealKey {})) else {
            panic!("no key")
        };
        let sealed = seal(&key.public_key, &credentials).unwrap();
        let set = SetCredentials { credentials: None, sealed };
        guest.done(Operation::SetCredentials(set.clone()));
        assert_eq!(guest.refused(Operation::SetCredentials(set)).code(), FailureCode::Invalid, "once");
    }
    // The credentials have arrived. The test does not read them through the service: they would be in the app's memory then, which the
    // agent does not overwrite.
    let token = "t=$(printf 'PUT /latest/api/token HTTP/1.0\\r\\nX-aws-ec2-metadata-token-ttl-seconds: 21600\\r\\n\\r\\n' \
                 | nc 169.254.169.254 80 | tail -n 1)";
    let get = |path: &str| {
        format!(
            "wget -q -O - --header \"X-aws-ec2-metadata-token: $t\" http://169.254.169.254/latest/{path} 2>&1"
        )
    };
    let roles = get("meta-data/iam/security-credentials/");
    assert_eq!(guest.sh(&format!("{token}; echo $t > /token; {roles}")), "execution_role");

    freeze(&mut guest, true);
    guest.ask(Operation::Quiesce(Quiesce { drop_page_cache: true }));
    let (mut guest, memory) = guest.save_and_restore_with_memory();
    assert!(find(&memory, &kept).is_some(), "the search finds nothing");
    let session_token = credentials.session_token[..40].to_string();
    let secrets = [&credentials.access_key_id, &credentials.secret_access_key, &session_token];
    let found: Vec<String> = secrets.iter().filter_map(|secret| find(&memory, secret)).collect();
    assert!(found.is_empty(), "parts of the credentials are in the snapshot's memory: {found:#?}");
    // A guest that is restored from the snapshot gets nothing that belonged to the build.
    guest.done(Operation::Identify(Identify { microvm_id: "clone".to_string(), ..Identify::default() }));
    let refused = guest.sh(&format!("t=$(cat /token); {roles} || true"));
    assert!(refused.contains("401"), "a token of the build is valid: {refused}");
    let none = guest.sh(&format!("{token}; {roles} || true"));
    assert!(none.contains("404"), "{none}");
    assert_eq!(guest.sh(&format!("{token}; {}", get("meta-data/instance-id"))), "clone");
    guest.power_off();
}
