//! Tests of controllers that connect and disconnect while the guest keeps running.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use hearth_proto::vmm::v1::{ExitKind, MachineState};
use hearth_test_guest::client::Command;
use hearth_vmm_client::{CONTROL_SOCKET, Client};
use hearth_vmm_jail::{self as jail, Cgroup, JailConfig};

use crate::support::{self, ExitWait, HostPorts, Machine, Metal, TEST_TIMEOUT, within};

/// Prefix of the line that the controller to be killed prints.
const SAYS: &str = "CONTROLLER ";

#[test]
fn several_controllers_talk_to_one_monitor() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let socket = guest.folder.path().join("run").join(CONTROL_SOCKET);
    let others: Vec<_> = (0..10).map(|_| Client::connect(&socket).unwrap()).collect();
    for controller in &others {
        assert_eq!(controller.status().unwrap().state(), MachineState::Running);
    }
    others[3].pause().unwrap();
    assert_eq!(others[7].status().unwrap().state(), MachineState::Paused);
    others[9].resume().unwrap();
    drop(others);
    guest.run("ping");
    guest.power_off();
}

#[test]
fn a_guest_outlives_its_controller_and_another_takes_over() {
    let Some(_) = Metal::find() else { return };
    let mut controller = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "controllers::be_the_controller_that_is_killed", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(controller.stdout.take().unwrap()).lines();
    let line = within("the other controller", move || {
        output.find_map(|line| line.unwrap().split_once(SAYS).map(|(_, said)| said.to_string()))
    });
    let folder = PathBuf::from(line.expect("the other controller does not start a guest"));
    controller.kill().unwrap();
    controller.wait().unwrap();

    // Streams to the guest do not need a controller at all.
    let run =
        |command| Command::start(&folder.join("vsock"), command, TEST_TIMEOUT).unwrap().finish().unwrap();
    assert_eq!(run("ping"), Ok("pong".to_string()));
    // Streams from the guest need a controller. The guest receives an error, and keeps running.
    run("vsock-connect-many 6000 1 1000").unwrap_err();

    let client = Client::connect(folder.join("run").join(CONTROL_SOCKET)).unwrap();
    assert_eq!(client.status().unwrap().state(), MachineState::Running);
    let (ports, broker) = HostPorts::open();
    ports.echo(6000);
    client.attach_broker(&broker).unwrap();
    assert_eq!(run("vsock-connect-many 6000 1 1000"), Ok("1".to_string()));
    client.pause().unwrap();
    client.resume().unwrap();
    assert_eq!(run("ping"), Ok("pong".to_string()));

    let waiting = ExitWait::ask(&folder.join("run").join(CONTROL_SOCKET));
    client.shutdown().unwrap();
    let reason = within("the answer to WaitExit", move || waiting.answer());
    assert_eq!(reason.kind(), ExitKind::Shutdown);
    // This process is not the monitor's parent. The monitor's control group shows when it has exited.
    let cgroup = support::cgroup(controller.id(), 1, 256);
    assert!(Cgroup::of(&cgroup).unwrap().wait_empty(TEST_TIMEOUT).unwrap());
    let root = folder.join("run/root");
    jail::clean_up(&JailConfig { chroot: Some(root), cgroup: Some(cgroup), ..JailConfig::default() })
        .unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

/// The other side of the test above, in a separate process: starts a guest, prints where it is, and waits to be killed.
#[test]
#[ignore = "another test starts it"]
fn be_the_controller_that_is_killed() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    println!("{SAYS}{}", guest.folder.path().display());
    // The other test keeps this pipe open for as long as it runs.
    let _ = std::io::stdin().lines().count();
    panic!("the other test is gone");
}
