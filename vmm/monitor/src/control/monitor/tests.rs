use hearth_proto::vmm::v1::ErrorCode;
use hearth_vmm_api::protocol::PROTOCOL_VERSION;

use super::*;

fn request(monitor: &mut Monitor, version: u32, operation: Option<Operation>) -> Response {
    let packet = proto::Request { version, operation }.encode_to_vec();
    match monitor.handle(&packet, Vec::new()) {
        Outcome::Response(response) => response,
        Outcome::WhenExited | Outcome::WhenSaved => panic!("a response was due"),
    }
}

fn refused(response: Response) -> (ErrorCode, String) {
    match response {
        Response::Error(error) => (error.code(), error.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn an_unknown_version_is_refused_by_number_and_changes_nothing() {
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    for version in [0, 1, PROTOCOL_VERSION + 1, 77] {
        let (code, message) =
            refused(request(&mut monitor, version, Some(Operation::Shutdown(proto::Shutdown {}))));
        assert_eq!(code, ErrorCode::Protocol);
        assert!(message.contains(&format!("version {version} is not supported")), "{message}");
    }
    assert!(monitor.exit().is_none());
}

#[test]
fn a_controller_of_any_release_learns_which_versions_are_spoken() {
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    for version in [0, PROTOCOL_VERSION, 77] {
        let Response::Status(status) =
            request(&mut monitor, version, Some(Operation::Hello(proto::Hello {})))
        else {
            panic!("a status was due")
        };
        assert_eq!((status.oldest_version, status.version), (VERSIONS.oldest(), VERSIONS.newest()));
    }
}

#[test]
fn what_is_no_request_is_refused() {
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    let Outcome::Response(response) = monitor.handle(&[0xff; 40], Vec::new()) else {
        panic!("a response was due")
    };
    assert_eq!(refused(response).0, ErrorCode::Protocol);
    assert!(refused(request(&mut monitor, PROTOCOL_VERSION, None)).1.contains("no operation"));
}

#[test]
fn operations_out_of_order_say_what_state_the_machine_is_in() {
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    for operation in [
        Operation::Boot(proto::Boot {}),
        Operation::Pause(proto::Pause {}),
        Operation::Resume(proto::Resume {}),
        Operation::GetMetrics(proto::GetMetrics {}),
        Operation::SetBalloon(proto::SetBalloon { target_mib: 1 }),
        Operation::SetLimits(proto::SetLimits::default()),
        Operation::Save(proto::Save { kind: proto::SaveKind::Full.into(), ..Default::default() }),
        Operation::CancelSave(proto::CancelSave {}),
        Operation::SaveWorkingSet(proto::SaveWorkingSet::default()),
    ] {
        let (code, message) = refused(request(&mut monitor, PROTOCOL_VERSION, Some(operation)));
        assert_eq!(code, ErrorCode::State);
        assert!(message.contains("not created yet"), "{message}");
    }
}

#[test]
fn descriptors_that_an_operation_does_not_take_are_refused() {
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    let operation = Some(Operation::Hello(proto::Hello {}));
    let packet = proto::Request { version: PROTOCOL_VERSION, operation }.encode_to_vec();
    let stray = vec![tempfile::tempfile().unwrap().into()];
    let Outcome::Response(response) = monitor.handle(&packet, stray) else { panic!("a response was due") };
    assert!(refused(response).1.contains("Hello takes 0 descriptors and got 1"));
}

/// Checks that the monitor has ended because no machine could be built, and accepts no second one.
fn assert_used_up(monitor: &mut Monitor, reason: &str) {
    let exit = monitor.exit().expect("the monitor goes on");
    assert_eq!(exit.kind(), ExitKind::MonitorError);
    assert!(exit.message.contains(reason), "{}", exit.message);
    for operation in [
        Operation::Create(proto::Create::default()),
        Operation::Restore(proto::Restore::default()),
        Operation::Prepare(proto::Prepare::default()),
        Operation::Boot(proto::Boot {}),
    ] {
        let (code, message) = refused(request(monitor, PROTOCOL_VERSION, Some(operation)));
        assert_eq!(code, ErrorCode::State);
        assert!(message.contains("the machine is ended"), "{message}");
    }
}

#[test]
fn a_bad_machine_ends_the_monitor() {
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    let file = || tempfile::tempfile().unwrap();
    let mut config = MachineConfig::new(file());
    config.vcpus = 17;
    let (create, fds) = config.into_message(file().into());
    let operation = Some(Operation::Create(create));
    let packet = proto::Request { version: PROTOCOL_VERSION, operation }.encode_to_vec();
    let Outcome::Response(response) = monitor.handle(&packet, fds) else { panic!("a response was due") };
    let (code, message) = refused(response);
    assert_eq!(code, ErrorCode::Invalid);
    assert!(message.contains("17 vCPUs"), "{message}");
    assert_used_up(&mut monitor, "17 vCPUs");
}

/// Neither file is what it has to be for a machine to be built: the kernel of the one, and `/dev/kvm` of both.
#[test]
fn a_machine_that_cannot_be_built_ends_the_monitor_and_is_in_the_exit_report() {
    use std::io::{Read as _, Seek as _};
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    let file = || tempfile::tempfile().unwrap();
    let mut report = file();
    let mut config = MachineConfig::new(file());
    config.exit_report = Some(report.try_clone().unwrap().into());
    let (create, fds) = config.into_message(file().into());
    let packet = proto::Request { version: PROTOCOL_VERSION, operation: Some(Operation::Create(create)) };
    let Outcome::Response(response) = monitor.handle(&packet.encode_to_vec(), fds) else {
        panic!("a response was due")
    };
    let (_, message) = refused(response);
    assert_used_up(&mut monitor, &message);
    let mut text = String::new();
    report.rewind().unwrap();
    report.read_to_string(&mut text).unwrap();
    assert!(text.contains("the machine could not be built"), "{text}");
}

#[test]
fn shutdown_ends_it_for_good() {
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    request(&mut monitor, PROTOCOL_VERSION, Some(Operation::Shutdown(proto::Shutdown {})));
    assert_eq!(monitor.exit().unwrap().kind(), ExitKind::Shutdown);
    monitor.shutdown_signal().report(ShutdownReason::PowerOff);
    monitor.on_end();
    assert_eq!(monitor.exit().unwrap().kind(), ExitKind::Shutdown);
}

/// Asks with descriptors of empty files for `roles`.
fn request_with(monitor: &mut Monitor, roles: &[proto::DescriptorRole], operation: Operation) -> Response {
    let packet = proto::Request { version: PROTOCOL_VERSION, operation: Some(operation) }.encode_to_vec();
    let files = roles.iter().map(|_| tempfile::tempfile().unwrap().into()).collect();
    match monitor.handle(&packet, files) {
        Outcome::Response(response) => response,
        Outcome::WhenExited | Outcome::WhenSaved => panic!("a response was due"),
    }
}

fn named(roles: &[proto::DescriptorRole]) -> Vec<proto::Descriptor> {
    roles.iter().map(|&role| proto::Descriptor { role: role.into(), index: 0, layer: 0 }).collect()
}

#[test]
fn a_snapshot_that_is_none_ends_the_monitor() {
    use proto::DescriptorRole::{Kvm, Memory, State};
    let restore =
        |roles: &[_]| Operation::Restore(proto::Restore { descriptors: named(roles), ..Default::default() });
    for (roles, reason) in
        [(&[Kvm][..], "STATE 0 descriptor is missing"), (&[Kvm, State, Memory], "not a saved state")]
    {
        let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
        let (code, message) = refused(request_with(&mut monitor, roles, restore(roles)));
        assert_eq!(code, ErrorCode::Invalid);
        assert!(message.contains(reason), "{message}");
        assert_used_up(&mut monitor, reason);
    }
}

/// The golden state is whole, and what it needs is passed, but the memory is not its memory.
#[test]
fn a_restore_that_fails_half_way_ends_the_monitor() {
    use std::os::unix::fs::FileExt as _;

    use proto::DescriptorRole::{Kvm, Memory, State, VsockListener};
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    let state = tempfile::tempfile().unwrap();
    state.write_all_at(include_bytes!("../../../../api/tests/golden/state-v1-max"), 0).unwrap();
    let roles = [Kvm, State, Memory, VsockListener];
    let mut fds: Vec<OwnedFd> = roles.iter().map(|_| tempfile::tempfile().unwrap().into()).collect();
    fds[1] = state.into();
    let restore = proto::Restore { descriptors: named(&roles), ..Default::default() };
    let packet = proto::Request { version: PROTOCOL_VERSION, operation: Some(Operation::Restore(restore)) };
    let Outcome::Response(response) = monitor.handle(&packet.encode_to_vec(), fds) else {
        panic!("a response was due")
    };
    let (_, message) = refused(response);
    eprintln!("{message}");
    assert_used_up(&mut monitor, &message);
}

#[test]
fn what_cannot_be_prepared_is_named() {
    let mut monitor = Monitor::new(Host::plain().unwrap()).unwrap();
    let roles = [proto::DescriptorRole::Kvm];
    let prepare = |vcpus, memory_mib| {
        Operation::Prepare(proto::Prepare { vcpus, memory_mib, descriptors: named(&roles) })
    };
    assert!(refused(request_with(&mut monitor, &roles, prepare(0, 256))).1.contains("0 vCPUs"));
    assert!(refused(request_with(&mut monitor, &roles, prepare(1, 1))).1.contains("1 MiB"));
}
