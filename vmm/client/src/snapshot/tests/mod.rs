//! Tests of the folders' logic, against a fake monitor that writes prescribed contents into the files that it receives.

mod opening;
mod taking;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use hearth_proto::vmm::v1::request::Operation;
use hearth_proto::vmm::v1::response::Result as Response;
use hearth_proto::vmm::v1::{self as proto, DescriptorRole as Role, DiskMode, MachineState};
use hearth_vmm_api::config::wire::Descriptors;
use hearth_vmm_api::snapshot::state_file;
use hearth_vmm_api::snapshot::{SnapshotId, memory_file};
use hearth_vmm_api::socket::{PacketListener, PacketSocket};
use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::Client;

/// Size of the saved memory in bytes.
const MEMORY_BYTES: u64 = 1 << 20;

/// The behaviour of the fake monitor.
#[derive(Debug, Clone)]
struct Script {
    state: MachineState,
    /// Number of layers of each disk; `None` for a disk without an overlay.
    disks: Vec<Option<u32>>,
    /// Number of layers in the state that is written, if it differs from `disks`.
    written: Option<Vec<Option<u32>>>,
    /// The snapshot that the machine builds on.
    base: Option<SnapshotId>,
    /// The id of the snapshots that are written.
    id: SnapshotId,
    /// If set, a save fails with this message.
    refusal: Option<&'static str>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            state: MachineState::Running,
            disks: Vec::new(),
            written: None,
            base: None,
            id: [1; 16],
            refusal: None,
        }
    }
}

fn disks(layers: &[Option<u32>]) -> Vec<proto::Disk> {
    let disk = |layers: &Option<u32>| proto::Disk {
        mode: layers.map_or(DiskMode::ReadOnly, |_| DiskMode::Overlay).into(),
        layers: layers.unwrap_or(0),
        ..proto::Disk::default()
    };
    layers.iter().map(disk).collect()
}

impl Script {
    fn answer(&self, operation: Operation, fds: Vec<std::os::fd::OwnedFd>) -> (&'static str, Response) {
        let done = Response::Done(proto::Done {});
        match operation {
            Operation::Hello(_) => {
                let status = proto::Status {
                    state: self.state.into(),
                    disks: disks(&self.disks),
                    base_id: self.base.map(Vec::from).unwrap_or_default(),
                    ..proto::Status::default()
                };
                ("hello", Response::Status(status))
            }
            Operation::Save(save) => ("save", self.save(&save, fds)),
            Operation::SaveWorkingSet(save) => {
                let mut descriptors = Descriptors::new(&save.descriptors, fds).unwrap();
                let file = File::from(descriptors.require(Role::WorkingSet, 0).unwrap());
                file.write_all_at(&self.id, 0).unwrap();
                ("working set", self.refused().unwrap_or(Response::WorkingSetSaved(Default::default())))
            }
            Operation::Resume(_) => ("resume", done),
            Operation::Shutdown(_) => ("shutdown", done),
            other => panic!("{other:?} is not in the script"),
        }
    }

    fn refused(&self) -> Option<Response> {
        self.refusal.map(|message| Response::Error(proto::Error { code: 4, message: message.into() }))
    }

    fn save(&self, save: &proto::Save, fds: Vec<std::os::fd::OwnedFd>) -> Response {
        let diff = save.kind() == proto::SaveKind::Diff;
        let below = |layers: &Option<u32>| layers.map(|layers| if diff { layers.min(1) + 1 } else { 1 });
        let written = self.written.clone().unwrap_or(self.disks.iter().map(below).collect());
        let mut descriptors = Descriptors::new(&save.descriptors, fds).unwrap();
        let state = proto::SavedMachine {
            snapshot_id: self.id.to_vec(),
            config: Some(proto::Create { disks: disks(&written), ..Default::default() }),
            memory: Some(Default::default()),
            clock: Some(Default::default()),
            aarch64: Some(proto::SavedAarch64 { gic: Some(Default::default()), ..Default::default() }),
            board: Some(Default::default()),
            ..Default::default()
        };
        let mut write = |role, index, bytes: &[u8], at| {
            File::from(descriptors.require(role, index).unwrap()).write_all_at(bytes, at).unwrap();
        };
        write(Role::State, 0, &state_file::encode(&state), 0);
        write(Role::Memory, 0, &memory_file::trailer(MEMORY_BYTES, &self.id, None), MEMORY_BYTES);
        for index in 0..self.disks.len() {
            if let Some(file) = descriptors.take(Role::SavedLayer, index) {
                File::from(file).write_all_at(b"merged", 0).unwrap();
            }
        }
        descriptors.finish().unwrap();
        self.refused().unwrap_or(Response::Saved(proto::Saved {
            snapshot_id: self.id.to_vec(),
            base_id: if diff { self.base.map(Vec::from).unwrap_or_default() } else { Vec::new() },
            ..Default::default()
        }))
    }
}

/// A folder for snapshots, and a fake machine that can be saved there.
struct Scene {
    folder: TempDir,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<&'static str>>>,
    client: Client,
}

impl Scene {
    fn new(script: Script) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        let path = sockets.path().join("control.sock");
        let listener = PacketListener::bind(&path).unwrap();
        let client = Client::connect(&path).unwrap();
        let socket = listener.accept().unwrap();
        let (script, asked) = (Arc::new(Mutex::new(script)), Arc::new(Mutex::new(Vec::new())));
        let (played, noted) = (Arc::clone(&script), Arc::clone(&asked));
        thread::spawn(move || play(&socket, &played, &noted));
        Self { folder: tempfile::tempdir().unwrap(), script, asked, client }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the requests that the monitor has received since the last call.
    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    /// Takes a full snapshot with this id, to be used as a base.
    fn full(&self, name: &str, id: SnapshotId) -> PathBuf {
        self.change(|script| script.id = id);
        let to = self.at(name);
        take(&self.client, &to, &Take::default()).unwrap();
        self.asked();
        to
    }

    /// Takes a full snapshot and then makes the machine one that was restored from it.
    fn restored(&self, name: &str, id: SnapshotId) -> PathBuf {
        let base = self.full(name, id);
        self.change(|script| {
            script.base = Some(id);
            script.id = [0xdd; 16];
            script.disks.iter_mut().flatten().for_each(|layers| *layers = 1);
        });
        base
    }
}

fn play(socket: &PacketSocket, script: &Mutex<Script>, asked: &Mutex<Vec<&'static str>>) {
    let mut packet = Vec::new();
    while let Ok(Some(fds)) = socket.receive(&mut packet) {
        let operation = proto::Request::decode(packet.as_slice()).unwrap().operation.unwrap();
        let (name, answer) = script.lock().unwrap().answer(operation, fds);
        asked.lock().unwrap().push(name);
        let response = proto::Response { result: Some(answer) };
        if socket.send(&response.encode_to_vec(), &[]).is_err() {
            return;
        }
    }
}

/// Returns the names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Returns the first byte of the snapshot's id in a folder's state.
fn id_of(folder: &Path) -> u8 {
    let state = state_file::read(&File::open(folder.join(STATE)).unwrap()).unwrap();
    state.snapshot_id[0]
}
