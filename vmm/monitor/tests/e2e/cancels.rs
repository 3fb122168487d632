//! Tests of saves that are cancelled: the machine continues as if nothing had happened.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

use hearth_proto::vmm::v1 as proto;
use hearth_test_guest::client::Command;
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::protocol::PROTOCOL_VERSION;
use hearth_vmm_api::socket::PacketSocket;
use hearth_vmm_client::{Client, ClientError, SaveConfig, SaveKind, SaveStage};
use prost::Message as _;
use proto::request::Operation;
use proto::response::Result as Response;
use proto::{DescriptorRole as Role, ErrorCode, MachineState};
use tempfile::TempDir;

use crate::support::{Guest, Machine, Metal, TEST_TIMEOUT, create, disk, ext4, until, within};

const STAGES: [SaveStage; 5] =
    [SaveStage::Memory, SaveStage::Disks, SaveStage::State, SaveStage::Sync, SaveStage::Done];

/// A save that waits before one of its stages.
struct Held {
    folder: TempDir,
    save: JoinHandle<Result<proto::Saved, ClientError>>,
}

/// Starts a save of the guest, with the layers of these disks, which stops before `stage`.
fn hold(guest: &Guest, kind: SaveKind, disks: &[usize], stage: SaveStage) -> Held {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| create(&folder.path().join(name));
    let mut config = SaveConfig::new(kind, file("state"), file("memory"));
    config.layers = disks.iter().map(|&index| (index, file(&format!("disk{index}")))).collect();
    config.hold_at = stage;
    // The connection that requests the save is busy until the save is done.
    let requester = Client::connect(guest.control()).unwrap();
    let save = thread::spawn(move || requester.save(config));
    until("the stage", || guest.client().status().unwrap().save_stage() == stage);
    assert_eq!(guest.client().status().unwrap().state(), MachineState::Saving);
    Held { folder, save }
}

impl Held {
    /// Returns the response that the client of the save received.
    fn answer(self) -> Result<proto::Saved, ClientError> {
        let answer = within("the answer to the save", move || self.save.join().unwrap());
        drop(self.folder);
        answer
    }

    /// Cancels the save. Its client receives that error, and the guest is in `state` afterwards.
    fn cancel(self, guest: &Guest, state: MachineState) {
        guest.client().cancel_save().unwrap();
        assert_eq!(guest.client().status().unwrap().state(), state);
        assert_refused(&self.answer(), ErrorCode::Cancelled, "cancelled");
    }
}

fn assert_refused<T: std::fmt::Debug>(result: &Result<T, ClientError>, expected: ErrorCode, words: &str) {
    match result {
        Err(ClientError::Refused { code, message }) => {
            assert_eq!(*code, expected, "{message}");
            assert!(message.contains(words), "{message}");
        }
        other => panic!("refused with {expected:?} should have been: {other:?}"),
    }
}

/// Sends a word to an echoing guest and receives it back.
fn echo(mut stream: &UnixStream, word: &str) {
    stream.write_all(word.as_bytes()).unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, word.as_bytes());
}

/// Boots a working guest that has one disk with an overlay and one with a file system.
fn working_guest(metal: &Metal) -> Guest {
    let mut machine = Machine::new(metal);
    machine.config.vcpus = 2;
    let base = machine.disk_file("base", 3, 8 << 20);
    let overlay = machine.empty_file("overlay");
    let files = ext4(&machine.folder.path().join("files"));
    machine.config.disks = vec![
        disk(DiskSource::Overlay { base, layers: Vec::new(), overlay }, "raw"),
        disk(DiskSource::Writable(files), "files"),
    ];
    let guest = machine.boot();
    guest.run("work-start vda");
    guest.run("mount-work vdb");
    guest.work("work-check");
    guest
}

#[test]
fn a_save_that_is_cancelled_at_any_stage_leaves_no_trace() {
    let Some(metal) = Metal::find() else { return };
    let guest = working_guest(&metal);
    guest.run("mem-random 16 1");
    guest.run("vsock-echo 5000");
    let stream = guest.connect(5000);
    echo(&stream, "before");
    for stage in STAGES {
        let held = hold(&guest, SaveKind::Full, &[0], stage);
        // A command that is sent to the guest meanwhile is answered when the guest resumes.
        let socket = guest.vsock();
        let asked =
            thread::spawn(move || Command::start(&socket, "ping", TEST_TIMEOUT).unwrap().finish().unwrap());
        held.cancel(&guest, MachineState::Running);
        guest.work("work-check");
        echo(&stream, stage.as_str_name());
        assert_eq!(asked.join().unwrap(), Ok("pong".to_string()));
    }
    assert_eq!(guest.run("mem-check"), "4096");
    assert_eq!(guest.run("dmesg-grep stall,BUG,lockup,hung,Oops"), "0");

    // A guest that was paused before the save stays paused.
    guest.client().pause().unwrap();
    hold(&guest, SaveKind::Full, &[0], SaveStage::State).cancel(&guest, MachineState::Paused);
    guest.client().resume().unwrap();
    assert_refused(&guest.client().cancel_save(), ErrorCode::State, "running");

    let saved = guest.save_layers(SaveKind::Full, &[0]);
    guest.client().resume().unwrap();
    echo(&stream, "after");
    guest.work("work-check");
    guest.work("work-stop");
    guest.power_off();
    drop(saved);
}

#[test]
fn a_suspend_that_was_cancelled_can_be_had_later() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    guest.run("nonce-set 1dea");
    guest.run("mem-random 16 1");
    let image = guest.save(SaveKind::Full);
    guest.kill();
    let guest = image.clone_on(&metal).restore();
    for (stage, seed) in STAGES.into_iter().zip(10..) {
        guest.run(&format!("mem-dirty 200 {seed}"));
        hold(&guest, SaveKind::Diff, &[], stage).cancel(&guest, MachineState::Running);
        guest.run("mem-check");
    }
    let suspended = guest.save(SaveKind::Diff);
    guest.kill();
    let guest = suspended.clone_on(&metal).restore();
    assert_eq!((guest.run("nonce-get"), guest.run("mem-check")), ("1dea".to_string(), "4096".to_string()));
    guest.power_off();
}

#[test]
fn what_would_be_lost_with_a_save_is_refused_while_it_goes_on() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let held = hold(&guest, SaveKind::Full, &[], SaveStage::Disks);
    let client = guest.client();
    let file = || tempfile::tempfile().unwrap();
    let listener = UnixListener::bind(guest.folder.path().join("other")).unwrap();
    let refusals = [
        client.pause(),
        client.resume(),
        client.boot(),
        client.attach_listener(&listener),
        client.set_balloon(1),
        client.vsock_connect(5000).map(drop),
        client.save(SaveConfig::new(SaveKind::Full, file(), file())).map(drop),
        client.save_working_set(file()).map(drop),
        client.prepare(1, 256),
    ];
    for refusal in refusals {
        assert_refused(&refusal, ErrorCode::State, "the machine is being saved");
    }
    guest.client().metrics().unwrap();
    held.cancel(&guest, MachineState::Running);
    assert_eq!(guest.run("ping"), "pong");
    guest.power_off();
}

#[test]
fn a_shutdown_does_not_wait_for_a_save() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let held = hold(&guest, SaveKind::Full, &[], SaveStage::State);
    guest.client().shutdown().unwrap();
    held.answer().unwrap_err();
    guest.wait().assert_kind("shutdown");
}

/// Sends a request, and returns the connection on which its response will arrive.
fn ask(guest: &Guest, operation: Operation, fds: &[BorrowedFd<'_>]) -> PacketSocket {
    let request = proto::Request { version: PROTOCOL_VERSION, operation: Some(operation) };
    let socket = PacketSocket::connect(&guest.control()).unwrap();
    socket.send(&request.encode_to_vec(), fds).unwrap();
    socket
}

/// Requests a save into files in `folder`.
fn ask_for_save(guest: &Guest, hold_at: SaveStage, folder: &TempDir) -> PacketSocket {
    let files = ["state", "memory"].map(|name| create(&folder.path().join(name)));
    let descriptor = |role: Role| proto::Descriptor { role: role.into(), index: 0, layer: 0 };
    let descriptors = vec![descriptor(Role::State), descriptor(Role::Memory)];
    let save = proto::Save { kind: SaveKind::Full.into(), descriptors, hold_at: hold_at.into() };
    ask(guest, Operation::Save(save), &files.each_ref().map(|file| file.as_fd()))
}

/// Returns the response to the request that was sent on `socket`.
fn answer(socket: PacketSocket) -> Response {
    within("an answer", move || {
        let mut packet = Vec::new();
        socket.receive(&mut packet).unwrap().expect("the monitor is gone without an answer");
        proto::Response::decode(packet.as_slice()).unwrap().result.unwrap()
    })
}

fn signal(guest: &Guest, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(guest.pid()).unwrap();
    // SAFETY: takes no pointer; the process is a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn a_save_that_comes_right_after_a_cancel_gets_an_answer_of_its_own() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let held = hold(&guest, SaveKind::Full, &[], SaveStage::State);
    let folder = tempfile::tempdir().unwrap();
    // The monitor is stopped meanwhile, so that it finds both requests at once.
    signal(&guest, libc::SIGSTOP);
    let cancel = ask(&guest, Operation::CancelSave(proto::CancelSave {}), &[]);
    let save = ask_for_save(&guest, SaveStage::Unspecified, &folder);
    signal(&guest, libc::SIGCONT);
    assert!(matches!(answer(cancel), Response::Done(_)));
    match answer(save) {
        Response::Saved(saved) => assert_eq!(saved.snapshot_id.len(), 16),
        other => panic!("it was not cancelled: {other:?}"),
    }
    assert_refused(&held.answer(), ErrorCode::Cancelled, "cancelled");
    guest.client().resume().unwrap();
    assert_eq!(guest.run("ping"), "pong");
    guest.power_off();
}

/// Requests a save, and disconnects before it is done.
fn ask_and_leave(guest: &Guest, hold_at: SaveStage, folder: &TempDir) {
    drop(ask_for_save(guest, hold_at, folder));
    let state = || guest.client().status().unwrap().state();
    until("the save", || state() != MachineState::Running);
}

#[test]
fn a_controller_that_leaves_during_a_save_does_no_harm() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let state = || guest.client().status().unwrap().state();
    // A save that is held continues to wait for a cancel, from any controller.
    let folder = tempfile::tempdir().unwrap();
    ask_and_leave(&guest, SaveStage::Memory, &folder);
    assert_eq!(state(), MachineState::Saving);
    guest.client().cancel_save().unwrap();
    assert_eq!(guest.run("ping"), "pong");
    // A save that is not held is completed, and the machine stays paused until some controller resumes it.
    let folder = tempfile::tempdir().unwrap();
    ask_and_leave(&guest, SaveStage::Unspecified, &folder);
    until("the end of the save", || state() == MachineState::Paused);
    guest.client().resume().unwrap();
    assert_eq!(guest.run("ping"), "pong");
    guest.save(SaveKind::Full);
    guest.client().resume().unwrap();
    guest.power_off();
}
