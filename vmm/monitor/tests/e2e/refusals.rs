//! Tests of snapshots that cannot be restored: they are refused with a specific reason, before anything runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use hearth_proto::vmm::v1::SavedMachine;
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::snapshot::state_file;
use hearth_vmm_client::SaveKind;
use kvm_bindings::{KVM_ARM_VCPU_HAS_EL2, KVM_ARM_VCPU_HAS_EL2_E2H0};

use crate::support::{Clone, Guest, Machine, Metal, Saved, Tap, copy, create, disk};

const MIB: u64 = 1 << 20;

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

fn open_to_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// A snapshot of a guest with an overlaid disk, a raw one and a network card.
struct Fixture {
    metal: Metal,
    saved: Saved,
    base: PathBuf,
    raw: PathBuf,
    tap: Tap,
    /// Contains the files of the disks.
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn make(metal: Metal) -> Self {
        let tap = Tap::new();
        let mut machine = Machine::new(&metal);
        let base = machine.disk_file("base", 3, 2 * MIB);
        let raw = machine.disk_file("raw", 4, 3 * MIB);
        let overlay = machine.empty_file("overlay");
        machine.config.disks = vec![
            disk(DiskSource::Overlay { base, layers: Vec::new(), overlay }, "overlaid"),
            disk(DiskSource::Writable(raw), "raw"),
        ];
        machine.config.nets = vec![tap.card()];
        let guest = machine.boot();
        guest.run("blk-write vda 7 20 0 100");
        let saved = guest.save_layers(SaveKind::Full, &[0]);
        let folder = guest.kill();
        let [base, raw] = ["base", "raw"].map(|name| folder.path().join(name));
        Self { metal, saved, base, raw, tap, _folder: folder }
    }

    /// Returns the first disk, with these layers.
    fn overlaid(&self, layers: &[PathBuf], clone: &Clone) -> DiskSource {
        let overlay = create(&clone.path("overlay"));
        let layers = layers.iter().map(|layer| open(layer)).collect();
        DiskSource::Overlay { base: open(&self.base), layers, overlay }
    }

    /// Creates a clone with everything that it needs, and then applies `change` to it.
    fn clone_but(&self, change: impl FnOnce(&mut Clone)) -> Clone {
        let mut clone = self.saved.clone_on(&self.metal);
        let overlaid = self.overlaid(&[self.saved.layer(0)], &clone);
        clone.config.disks = vec![overlaid, DiskSource::Writable(open_to_write(&self.raw))];
        clone.config.taps = vec![self.tap.file()];
        change(&mut clone);
        clone
    }

    /// Checks that a clone with this change is refused with a message that contains these words.
    fn refuses(&self, words: &str, change: impl FnOnce(&mut Clone)) {
        let message = self.clone_but(change).refused();
        eprintln!("{message}");
        assert!(message.contains(words), "`{words}` is not in: {message}");
    }

    /// Creates a file of the clone with these bytes.
    fn file_of(clone: &Clone, name: &str, bytes: &[u8]) -> File {
        let path = clone.path(name);
        fs::write(&path, bytes).unwrap();
        open(&path)
    }

    /// Checks that a clone with a changed state, which is formally valid, is refused with these words.
    fn refuses_state(&self, words: &str, change: impl FnOnce(&mut SavedMachine)) {
        self.refuses(words, |clone| {
            let mut state = self.saved.read_state();
            change(&mut state);
            clone.config.state = Self::file_of(clone, "state", &state_file::encode(&state));
        });
    }
}

#[test]
fn what_does_not_belong_together_is_refused_by_name() {
    let Some(metal) = Metal::find() else { return };
    let fixture = Fixture::make(metal);

    // Damage of the state.
    let state = fs::read(fixture.saved.state()).unwrap();
    let middle = state.len() / 2;
    for (at, words) in [
        (3, "not a saved state"),
        (8, "format version"),
        (12, "checksum"),
        (17, "bytes instead of"),
        (25, "checksum"),
        (32, "checksum"),
        (middle, "checksum"),
        (state.len() - 1, "checksum"),
    ] {
        fixture.refuses(words, |clone| {
            let mut damaged = state.clone();
            damaged[at] ^= 0x10;
            clone.config.state = Fixture::file_of(clone, "state", &damaged);
        });
    }

    // Damage of the memory.
    let memory = |clone: &Clone| {
        let path = clone.path("memory");
        (copy(open(&fixture.saved.memory()), &path), path)
    };
    fixture.refuses("the file `memory` is too short", |clone| {
        let (short, path) = memory(clone);
        short.set_len(256 * MIB).unwrap();
        clone.config.memory = open(&path);
    });
    fixture.refuses("its trailer is missing or damaged", |clone| {
        let (other, path) = memory(clone);
        let length = other.metadata().unwrap().len();
        other.set_len(length - 64).unwrap();
        other.set_len(length).unwrap();
        clone.config.memory = open(&path);
    });
    fixture.refuses("stands for itself", |clone| clone.config.diff = Some(memory(clone).0));

    // Wrong disks and network cards.
    let layer = fixture.saved.layer(0);
    fixture.refuses("disk 0 of the snapshot has 1 frozen layers, 0 were passed", |clone| {
        fs::remove_file(clone.path("overlay")).unwrap();
        clone.config.disks[0] = fixture.overlaid(&[], clone);
    });
    fixture.refuses("disk 0 of the snapshot has 1 frozen layers, 2 were passed", |clone| {
        fs::remove_file(clone.path("overlay")).unwrap();
        clone.config.disks[0] = fixture.overlaid(&[layer.clone(), layer.clone()], clone);
    });
    fixture.refuses("DISK 1 descriptor is missing", |clone| drop(clone.config.disks.pop()));
    fixture.refuses("DISK 2 descriptor was passed that belongs to nothing", |clone| {
        clone.config.disks.push(DiskSource::Writable(open_to_write(&fixture.raw)));
    });
    fixture.refuses("disk 1", |clone| clone.config.disks[1] = DiskSource::Writable(open(&fixture.raw)));
    fixture.refuses("disk1: the snapshot's disk has 6144 sectors", |clone| {
        let larger = create(&clone.path("larger"));
        larger.set_len(4 * MIB).unwrap();
        clone.config.disks[1] = DiskSource::Writable(larger);
    });
    fixture.refuses("disk 0", |clone| {
        let larger = create(&clone.path("larger"));
        larger.set_len(4 * MIB).unwrap();
        let DiskSource::Overlay { base, .. } = &mut clone.config.disks[0] else { panic!("no overlay") };
        *base = larger;
    });
    fixture.refuses("frozen layers", |clone| {
        clone.config.disks[0] = DiskSource::Writable(open_to_write(&fixture.base));
    });
    fixture.refuses("DISK_OVERLAY 1 descriptor was passed that belongs to nothing", |clone| {
        let overlay = create(&clone.path("another"));
        clone.config.disks[1] = DiskSource::Overlay { base: open(&fixture.raw), layers: Vec::new(), overlay };
    });
    fixture.refuses("TAP 0 descriptor is missing", |clone| clone.config.taps.clear());
    fixture.refuses("TAP 1 descriptor was passed that belongs to nothing", |clone| {
        clone.config.taps.push(fixture.tap.file());
    });

    // Without any change the clone runs.
    let guest = fixture.clone_but(|_| {}).restore();
    guest.run("blk-check vda 7 20 0 100 20");
    guest.power_off();
}

#[test]
fn a_state_that_is_whole_and_makes_no_sense_is_refused_by_name() {
    let Some(metal) = Metal::find() else { return };
    let fixture = Fixture::make(metal);
    fixture.refuses_state("another number of vCPUs", |state| state.config.as_mut().unwrap().vcpus = 2);
    fixture.refuses_state("another memory size", |state| state.config.as_mut().unwrap().memory_mib = 512);
    fixture.refuses_state("its list of pages", |state| state.memory.as_mut().unwrap().data = vec![5, 0]);
    fixture.refuses_state("Hz", |state| state.clock.as_mut().unwrap().counter_hz += 1);
    fixture.refuses_state("virtio device of type", |state| {
        state.board.as_mut().unwrap().virtio.swap(0, 2);
    });
    fixture.refuses_state("devices", |state| drop(state.board.as_mut().unwrap().virtio.pop()));
    fixture.refuses_state("queues", |state| {
        state.board.as_mut().unwrap().virtio[0].queues[0].size = 3;
    });
    fixture.refuses_state("fewer values than registers", |state| {
        state.aarch64.as_mut().unwrap().vcpus[0].values.pop().unwrap();
    });
    for (feature, words) in [
        (KVM_ARM_VCPU_HAS_EL2, "EL2, which no guest gets"),
        (KVM_ARM_VCPU_HAS_EL2_E2H0, "EL2, which no guest gets"),
        (31, "CPU features that this host lacks: another feature"),
    ] {
        fixture.refuses_state(words, |state| {
            state.aarch64.as_mut().unwrap().vcpu_features |= 1 << feature;
        });
    }
    fixture.refuses_state("another type of CPU", |state| {
        let vcpu = &mut state.aarch64.as_mut().unwrap().vcpus[0];
        let at = super::goldens::offset_of(vcpu, super::goldens::MIDR).unwrap();
        vcpu.values[at] ^= 1;
    });
}

#[test]
fn a_suspend_wants_the_very_snapshot_that_it_builds_on() {
    let Some(metal) = Metal::find() else { return };
    let boot_and_save = |guest: Guest| {
        let image = guest.save(SaveKind::Full);
        guest.kill();
        image
    };
    let guest = Machine::new(&metal).boot();
    let other = guest.save(SaveKind::Full);
    let image = boot_and_save(guest);
    let guest = image.clone_on(&metal).restore();
    let suspended = guest.save(SaveKind::Diff);
    guest.kill();
    let refuses = |words: &str, change: &dyn Fn(&mut Clone)| {
        let mut clone = suspended.clone_on(&metal);
        change(&mut clone);
        let message = clone.refused();
        assert!(message.contains(words), "`{words}` is not in: {message}");
    };
    refuses("pass that one's memory, too", &|clone| clone.config.diff = None);
    refuses("`memory of the base` belongs to snapshot", &|clone| clone.config.memory = open(&other.memory()));
    refuses("`memory of the base` belongs to snapshot", &|clone| {
        clone.config.memory = open(&suspended.memory())
    });
    refuses("`memory` belongs to snapshot", &|clone| clone.config.diff = Some(open(&image.memory())));
    let guest = suspended.clone_on(&metal).restore();
    assert_eq!(guest.run("ping"), "pong");
    guest.power_off();
}
