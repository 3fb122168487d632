//! Tests of boot, power-off, restart and pause.

use std::process::Command as Process;

use hearth_proto::vmm::v1::{ExitKind, MachineState};

use crate::support::{Machine, Metal, within};

fn boots_and_powers_off(vcpus: u32) {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = vcpus;
    machine.argument("hearth.test=poweroff");
    let mut guest = machine.create();
    assert_eq!(guest.client().status().unwrap().state(), MachineState::Created);
    guest.client().boot().unwrap();
    guest.console.wait_for("HEARTH-INIT");
    guest.wait().assert_kind("power_off");
}

#[test]
fn a_guest_with_one_vcpu_boots_and_powers_off() {
    boots_and_powers_off(1);
}

#[test]
fn a_guest_with_four_vcpus_boots_and_powers_off() {
    boots_and_powers_off(4);
}

#[test]
fn whoever_waits_for_the_end_is_told_why() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let waiting = guest.waiting_for_exit();
    let _unanswered = guest.start("poweroff");
    let reason = within("the answer to WaitExit", move || waiting.answer());
    assert_eq!(reason.kind(), ExitKind::PowerOff);
    guest.wait().assert_kind("power_off");
}

#[test]
fn a_controller_can_end_a_guest_that_does_not_want_to() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    machine.argument("hearth.test=spin");
    let mut guest = machine.create();
    guest.client().boot().unwrap();
    guest.console.wait_for("HEARTH-INIT");
    guest.client().shutdown().unwrap();
    guest.wait().assert_kind("shutdown");
}

#[test]
fn a_guest_that_restarts_itself_comes_back_with_all_devices() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    let guest = machine.boot();
    for restarts in 1..=2 {
        let _unanswered = guest.start("restart");
        guest.ports.wait_until_ready();
        let status = guest.client().status().unwrap();
        assert_eq!((status.state(), status.restarts), (MachineState::Running, restarts));
        assert_eq!(guest.run("rng 16").len(), 32);
    }
    guest.power_off();
}

#[test]
fn a_guest_that_panics_restarts() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.argument("hearth.test=panic");
    let mut guest = machine.create();
    guest.client().boot().unwrap();
    for _ in 0..3 {
        guest.console.wait_for("HEARTH-INIT");
        guest.console.wait_for("Kernel panic");
    }
    assert!(guest.client().status().unwrap().restarts >= 2);
    guest.client().shutdown().unwrap();
    guest.wait().assert_kind("shutdown");
}

#[test]
fn a_paused_guest_stands_still_until_it_is_resumed() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    let (guest, neighbour) = (machine.boot(), Machine::new(&metal).boot());
    for _ in 0..3 {
        guest.run("ping");
        guest.client().pause().unwrap();
        assert_eq!(guest.client().status().unwrap().state(), MachineState::Paused);
        let written = guest.counter("vcpu0", "exits_mmio_write");
        assert!(written > 0);
        // The stream is open on the host's side only, because the paused guest cannot accept it yet.
        let stream = guest.client().vsock_connect(hearth_test_guest::COMMAND_PORT).unwrap();
        let mut waiting = hearth_test_guest::client::Command::over(stream, "ping").unwrap();
        // Another guest gets time to run.
        for _ in 0..3 {
            neighbour.run("ping");
        }
        assert!(!waiting.has_answer().unwrap(), "a paused guest has answered");
        assert_eq!(guest.counter("vcpu0", "exits_mmio_write"), written, "a vCPU of a paused guest has run");
        guest.client().resume().unwrap();
        assert_eq!(
            within("the answer after the pause", move || waiting.finish()).unwrap(),
            Ok("pong".into())
        );
    }
    guest.client().pause().unwrap();
    guest.client().pause().unwrap();
    guest.client().shutdown().unwrap();
    guest.wait().assert_kind("shutdown");
    neighbour.power_off();
}

#[test]
fn the_command_line_tool_boots_a_guest_and_shows_its_console() {
    let Some(metal) = Metal::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut tool = Process::new(&metal.monitor);
    tool.arg("boot").arg("--kernel").arg(&metal.kernel).arg("--initrd").arg(&metal.initramfs);
    tool.args(["--cmdline", "console=ttyS0 quiet panic=-1 hearth.test=poweroff", "--memory", "256"]);
    tool.arg("--run-dir").arg(folder.path().join("run"));
    let output = within("the tool's end", move || tool.output()).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("HEARTH-INIT"), "{output:?}");
}
