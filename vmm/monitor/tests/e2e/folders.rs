//! Tests of snapshots in folders: if a process is killed while one is written, the folder contains a complete snapshot.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Instant, SystemTime};

use hearth_proto::vmm::v1::MachineState;
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::snapshot::folder::STATE;
use hearth_vmm_api::snapshot::state_file;
use hearth_vmm_client::snapshot::{self, Overlay, Take, Taken};
use hearth_vmm_client::{CONTROL_SOCKET, Client, SaveStage};
use tempfile::TempDir;

use crate::support::{Guest, Machine, Metal, TEST_TIMEOUT, disk, patterned, rounds};

const MIB: u64 = 1 << 20;
const DISK: u64 = 16 * MIB;
const MEMORY_MIB: u64 = 256;
/// Size of the memory of which the content of every page is known, in MiB.
const KNOWN_MIB: u64 = 8;
/// Number of pages of this memory that a version changes.
const CHANGED_PAGES: u64 = 512;
/// Number of records that a version writes, and number of blocks of 4 KiB from which it chooses their places.
const RECORDS: u64 = 40;
const BLOCKS: u64 = 64;

/// A folder with a disk, its overlay, and snapshots of the microVM that uses them.
struct Shelf {
    metal: Metal,
    folder: TempDir,
}

impl Shelf {
    fn new(metal: &Metal) -> Self {
        let folder = tempfile::tempdir().unwrap();
        patterned(&folder.path().join("disk"), 3, DISK);
        Self { metal: metal.clone(), folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        names(self.folder.path())
    }

    /// Opens the disk with a new overlay.
    fn disk(&self) -> (DiskSource, Overlay) {
        let path = self.at("overlay");
        let _ = fs::remove_file(&path); // remove the one of a machine that was killed
        let overlay = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        let named = Overlay::of(0, &path, &overlay).unwrap();
        let base = File::open(self.at("disk")).unwrap();
        (DiskSource::Overlay { base, layers: Vec::new(), overlay }, named)
    }

    /// Boots a guest, in version 0.
    fn boot(&self) -> Running {
        let mut machine = Machine::new(&self.metal);
        machine.config.memory_mib = MEMORY_MIB;
        let (source, overlay) = self.disk();
        machine.config.disks = vec![disk(source, "shelf")];
        let running = Running { guest: machine.boot(), overlay };
        running.guest.run(&format!("mem-random {KNOWN_MIB} 1"));
        running.become_version(0);
        running
    }

    /// Restores the guest of a snapshot.
    fn restore(&self, name: &str) -> Running {
        let (source, overlay) = self.disk();
        let config = snapshot::open(&self.at(name)).unwrap().into_config(vec![source]).unwrap();
        Running { guest: self.metal.restore_folder(config, MEMORY_MIB), overlay }
    }

    /// Takes a full snapshot `full` in version 0, and a diff `diff` in version 1.
    fn fill(&self) {
        self.boot().suspend(&self.at("full"), Take::default());
        let guest = self.restore("full");
        guest.check(0);
        guest.become_version(1);
        guest.suspend(&self.at("diff"), self.diff());
        assert_eq!(self.names(), ["diff", "disk", "full"]);
    }

    /// Returns the parameters for a diff that replaces an existing snapshot.
    fn diff(&self) -> Take {
        Take { base: Some(self.at("full")), replace: true, ..Take::default() }
    }
}

/// A guest whose memory and disk contents have version numbers.
struct Running {
    guest: Guest,
    overlay: Overlay,
}

impl Running {
    fn control(&self) -> PathBuf {
        self.guest.folder.path().join("run").join(CONTROL_SOCKET)
    }

    /// Changes memory and disk from version `version - 1` to `version`.
    fn become_version(&self, version: u64) {
        self.guest.run(&format!("nonce-set {version:016x}"));
        self.guest.run(&format!("mem-dirty {CHANGED_PAGES} {version}"));
        self.guest.run(&format!("blk-write vda {version} {RECORDS} {}", blocks(version)));
        self.guest.run(&format!("blk-write vda {version} {RECORDS} {}", blocks(0)));
    }

    fn version(&self) -> u64 {
        u64::from_str_radix(&self.guest.run("nonce-get"), 16).unwrap()
    }

    /// Checks that memory and disk have the contents of version `version`: neither older nor newer ones.
    fn check(&self, version: u64) {
        assert_eq!(self.version(), version);
        self.guest.run("mem-check");
        for before in 1..=version {
            self.guest.run(&format!("blk-check vda {before} {RECORDS} {} {RECORDS}", blocks(before)));
        }
        self.guest.run(&format!("blk-check vda {version} {RECORDS} {} {RECORDS}", blocks(0)));
    }

    fn suspend(self, to: &Path, take: Take) -> Taken {
        let take = Take { overlays: vec![self.overlay], ..take };
        let taken = snapshot::suspend(self.guest.client(), to, &take).unwrap();
        self.guest.wait().assert_kind("shutdown");
        taken
    }
}

/// Returns the blocks that only this version writes; those of version 0 are the ones that all versions write.
fn blocks(version: u64) -> String {
    format!("{} {}", version * BLOCKS, (version + 1) * BLOCKS)
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Polls until `done` returns true. The polling itself lets the monitor make progress.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < TEST_TIMEOUT, "{what} does not happen");
    }
}

#[test]
fn a_monitor_that_is_killed_at_any_stage_of_a_suspend_leaves_the_old_folder_whole() {
    let Some(metal) = Metal::find() else { return };
    let shelf = Shelf::new(&metal);
    shelf.fill();
    for stage in [SaveStage::Memory, SaveStage::Disks, SaveStage::State, SaveStage::Sync, SaveStage::Done] {
        let running = shelf.restore("diff");
        running.check(1);
        running.become_version(2);
        let (client, watcher) =
            (Client::connect(running.control()).unwrap(), Client::connect(running.control()).unwrap());
        let (to, take) = (shelf.at("diff"), Take { hold_at: stage, ..shelf.diff() });
        let saving = thread::spawn(move || snapshot::suspend(&client, &to, &take).map(drop));
        until(stage.as_str_name(), || watcher.status().unwrap().save_stage() == stage);
        running.guest.kill();
        saving.join().unwrap().unwrap_err();
        assert_eq!(shelf.names(), ["diff", "disk", "full", "overlay"], "killed at {stage:?}");
    }
    let running = shelf.restore("diff");
    running.check(1);
    running.become_version(2);
    running.suspend(&shelf.at("diff"), shelf.diff());
    let running = shelf.restore("diff");
    running.check(2);
    running.guest.power_off();
}

#[test]
fn a_suspend_that_is_given_up_before_its_commit_changes_nothing() {
    let Some(metal) = Metal::find() else { return };
    let shelf = Shelf::new(&metal);
    shelf.fill();
    let running = shelf.restore("diff");
    running.become_version(2);
    let uncommitted = snapshot::write(running.guest.client(), &shelf.at("diff"), &shelf.diff()).unwrap();
    assert_eq!(running.guest.client().status().unwrap().state(), MachineState::Paused);
    drop(uncommitted);
    assert_eq!(shelf.names(), ["diff", "disk", "full", "overlay"]);
    // The guest continues, and can be suspended later.
    running.check(2);
    running.become_version(3);
    let watcher = Client::connect(running.control()).unwrap();
    let client = Client::connect(running.control()).unwrap();
    let (to, take) = (shelf.at("diff"), Take { hold_at: SaveStage::Sync, ..shelf.diff() });
    let saving = thread::spawn(move || snapshot::suspend(&client, &to, &take).map(drop));
    until("the sync", || watcher.status().unwrap().save_stage() == SaveStage::Sync);
    watcher.cancel_save().unwrap();
    saving.join().unwrap().unwrap_err();
    assert_eq!(shelf.names(), ["diff", "disk", "full", "overlay"]);
    running.check(3);
    running.guest.kill();
    let running = shelf.restore("diff");
    running.check(1);
    running.guest.power_off();
}

/// The moment at which a controller is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The controller has created its temporary folder.
    Folder,
    /// The monitor is writing.
    Saving,
    /// The monitor has finished writing.
    Paused,
    /// The folder has its final name.
    Committed,
}

#[test]
fn a_controller_that_is_killed_leaves_the_old_folder_or_the_new_one() {
    let Some(metal) = Metal::find() else { return };
    let shelf = Shelf::new(&metal);
    shelf.fill();
    let moments = [Moment::Folder, Moment::Saving, Moment::Paused, Moment::Committed];
    let mut version = 1;
    for moment in moments.into_iter().cycle().take(4 * usize::try_from(rounds(1, 10)).unwrap()) {
        let running = shelf.restore("diff");
        running.check(version);
        running.become_version(version + 1);
        let inode = || shelf.at("diff").metadata().unwrap().ino();
        let before = inode();
        let mut controller = Command::new(&metal.monitor)
            .arg("suspend")
            .args([running.control(), shelf.at("diff")])
            .arg("--replace")
            .arg("--base")
            .arg(shelf.at("full"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let watcher = Client::connect(running.control()).unwrap();
        until("the moment", || {
            // Stop at a later moment as well: the controller does not wait for this process.
            inode() != before
                || match (moment, watcher.status().map(|status| status.state())) {
                    (_, Err(_)) => true,
                    (Moment::Folder, _) => shelf.names().len() > 4,
                    (Moment::Saving, Ok(state)) => state != MachineState::Running,
                    (Moment::Paused, Ok(state)) => state == MachineState::Paused,
                    (Moment::Committed, _) => false,
                }
        });
        controller.kill().unwrap();
        controller.wait().unwrap();
        let committed = inode() != before;
        running.guest.kill();
        snapshot::remove_leftovers(shelf.folder.path()).unwrap();
        let left: Vec<_> = shelf.names().into_iter().filter(|name| name != "overlay").collect();
        assert_eq!(left, ["diff", "disk", "full"]);
        version += u64::from(committed);
    }
    let running = shelf.restore("diff");
    running.check(version);
    running.guest.power_off();
}

/// Returns the number of bytes of storage that a folder's files occupy.
fn storage(folder: &Path) -> u64 {
    names(folder).iter().map(|name| folder.join(name).symlink_metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn ten_suspends_leave_one_diff_that_does_not_grow() {
    let Some(metal) = Metal::find() else { return };
    let shelf = Shelf::new(&metal);
    let full = shelf.boot().suspend(&shelf.at("full"), Take::default());
    assert_eq!((full.linked.as_slice(), full.saved.base_id.len()), (&[0][..], 0));
    let (full, diff) = (shelf.at("full"), shelf.at("diff"));
    let full_before = written(&full);
    let mut sizes = Vec::new();
    for version in 1..=10 {
        let running = shelf.restore(if version == 1 { "full" } else { "diff" });
        running.check(version - 1);
        running.become_version(version);
        let taken = running.suspend(&diff, shelf.diff());
        assert_eq!(taken.saved.base_id, full_id(&full));
        // The first suspend takes over the overlay as its layer; later ones are merged with the layer of the one
        // before.
        assert_eq!(taken.linked.is_empty(), version != 1);
        assert_eq!(shelf.names(), ["diff", "disk", "full"]);
        assert_eq!(names(&diff), ["base", "disk0", "memory", "state"]);
        assert_eq!(fs::canonicalize(diff.join("base")).unwrap(), fs::canonicalize(&full).unwrap());
        let opened = snapshot::open(&diff).unwrap();
        assert_eq!((opened.layers(0), opened.next_base()), (2, fs::canonicalize(&full).unwrap().as_path()));
        sizes.push(storage(&diff));
    }
    // The size is bounded by the changes of the versions, the disk's map, and what the guest's kernel writes meanwhile:
    // less than ten times what one version changes.
    let most = (KNOWN_MIB + 6) * MIB + 11 * BLOCKS * 4096;
    assert!(sizes.iter().all(|size| *size < most), "{sizes:?} against {most}");
    assert_eq!(written(&full), full_before);
    let running = shelf.restore("diff");
    running.check(10);
    running.guest.power_off();
    let running = shelf.restore("full");
    running.check(0);
    running.guest.power_off();
}

/// Returns the names in a folder, and the modification time of each file.
fn written(folder: &Path) -> Vec<(String, SystemTime)> {
    let modified = |name: &String| folder.join(name).symlink_metadata().unwrap().modified().unwrap();
    names(folder).into_iter().map(|name| (name.clone(), modified(&name))).collect()
}

/// Returns the id of the snapshot in a folder.
fn full_id(folder: &Path) -> Vec<u8> {
    let state = File::open(folder.join(STATE)).unwrap();
    state_file::read(&state).unwrap().snapshot_id
}
