use std::os::unix::fs::{FileExt as _, symlink};

use hearth_proto::vmm::v1::{SavedBoard, SavedDisk, SavedMemory, SavedVirtio, saved_virtio::Device};
use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::devices::virtio::block::Overlay;
use crate::memory::{DRAM_BASE, GuestMemory, MIB, map_anonymous};
use crate::snapshot::load::{Backing, LoadMode, load};
use crate::snapshot::save::{Cancel, Memory};

const BYTES: u64 = 128 * MIB;
const DISK: u64 = 64 * MIB;

/// Writes a frozen layer whose sectors 100 to 300 have data, and returns the state of its disk.
fn layer(file: &File) -> SavedVirtio {
    let mut overlay = Overlay::open(file, DISK).unwrap();
    overlay.map.set(100, 200);
    let mut page = vec![0; 4096];
    assert!(overlay.map.take_page(0, &mut page));
    file.write_all_at(&page, 4096).unwrap();
    file.write_all_at(&[5; 200 * 512], overlay.data_offset + 100 * 512).unwrap();
    let disk = SavedDisk { sectors: DISK / 512, map: Some(overlay.map.sums()) };
    SavedVirtio { device: Some(Device::Disk(disk)), ..SavedVirtio::default() }
}

/// Writes the files of a snapshot into a folder: a diff where there is a backing.
fn save(folder: &Path, id: u8, memory: &GuestMemory, backing: Option<&Backing>) -> SavedMachine {
    let create =
        |name: &str| File::options().read(true).write(true).create_new(true).open(folder.join(name)).unwrap();
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let (source, file) = (Memory { memory, pagemap: &pagemap, backing }, create(MEMORY));
    let written = match backing {
        Some(_) => source.write_diff(&file, &[id; 16], &Cancel::default()),
        None => source.write_full(&file, &[id; 16], &Cancel::default()),
    };
    let written = written.unwrap();
    let memory = SavedMemory {
        bytes: BYTES,
        data: written.data.to_pairs(),
        zero: written.zero.to_pairs(),
        base_data: backing.map(|backing| backing.base_data.to_pairs()).unwrap_or_default(),
    };
    let state = SavedMachine {
        snapshot_id: vec![id; 16],
        base_id: backing.map(|backing| backing.base_id.clone()).unwrap_or_default(),
        memory: Some(memory),
        board: Some(SavedBoard { virtio: vec![layer(&create("disk0"))], ..SavedBoard::default() }),
        ..state_file::decode(include_bytes!("../../../../api/tests/golden/state-v1-max")).unwrap()
    };
    create(STATE).write_all_at(&state_file::encode(&state), 0).unwrap();
    state
}

fn open(folder: &Path, name: &str) -> File {
    File::options().read(true).write(true).open(folder.join(name)).unwrap()
}

/// What is damaged in a folder and below it, and what has no checksums, each in lines.
fn verified(folder: &Path) -> (Vec<String>, Vec<String>) {
    let (mut damage, mut uncovered) = (Vec::new(), Vec::new());
    for (folder, subject) in Subject::open(folder).unwrap() {
        let report = subject.verify(false, &mut Bulk::from_disk(&mut |_| Ok(())));
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        damage.extend(report.damage.iter().map(|(file, damage)| format!("{name}: {file}: {damage}")));
        uncovered.extend(report.uncovered.iter().map(|(file, what)| format!("{name}: {file}: {what}")));
    }
    (damage, uncovered)
}

fn make_sums(folder: &Path) {
    let subject = Subject::open(folder).unwrap().swap_remove(0).1;
    let report = subject.verify(true, &mut Bulk::from_disk(&mut |_| Ok(())));
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    fs::write(folder.join(SUMS), report.made.encode()).unwrap();
}

/// An image without checksums beside its files, and a suspended state that builds on it.
fn image_and_state(root: &Path) -> (PathBuf, PathBuf) {
    let [image, suspended] = ["image", "suspended"].map(|name| root.join(name));
    let snapshot = image.join("snapshot");
    [&snapshot, &suspended].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    let memory = map_anonymous(128).unwrap();
    memory.write_slice(&[9; 40 << 12], GuestAddress(DRAM_BASE + (100 << 12))).unwrap();
    let state = save(&snapshot, 1, &memory, None);
    let clone = load(&state, open(&snapshot, MEMORY), None, LoadMode::Map).unwrap();
    let mut set = WorkingSet::default();
    (100..110).for_each(|page| set.push(page, false));
    set.write(&File::create_new(snapshot.join(WORKING_SET)).unwrap(), &clone.backing).unwrap();
    clone.memory.write_slice(&[8; 3 << 12], GuestAddress(DRAM_BASE + (7 << 12))).unwrap();
    save(&suspended, 2, &clone.memory, Some(&clone.backing));
    symlink("../image/snapshot", suspended.join(BASE)).unwrap();
    fs::write(image.join("image.json"), "{}").unwrap();
    let disk = File::create_new(image.join("disk")).unwrap();
    disk.set_len(DISK).unwrap();
    disk.write_all_at(&[3; 5000], 7 * MIB).unwrap();
    (image, suspended)
}

#[test]
fn a_flipped_bit_is_found_by_file_and_place_in_every_file_of_an_image_and_a_suspended_state() {
    let root = tempfile::tempdir().unwrap();
    let (image, suspended) = image_and_state(root.path());
    make_sums(&image);
    make_sums(&suspended);
    assert_eq!(verified(&image), (vec![], vec![]));
    assert_eq!(verified(&suspended), (vec![], vec![]));
    // Data of a layer begins behind 1 MiB.
    let table: [(&Path, &str, u64, &str); 14] = [
        (
            &suspended,
            "memory",
            8 << 12,
            "suspended: memory: the file `memory` is damaged: its 4096 bytes at 32768",
        ),
        (&suspended, "state", 33, "suspended: state: the saved state is damaged"),
        (&suspended, "disk0", 4096 + 12, "disk0: its block map is damaged: which of the sectors 0 to 32768"),
        (
            &suspended,
            "disk0",
            MIB + 100 * 512,
            "disk0: the file `disk0` is damaged: its 1048576 bytes at 1048576",
        ),
        (&suspended, "disk0", 12, "disk0: the overlay's header is damaged"),
        (&suspended, "disk0", 2000, "disk0: the file `disk0` is damaged: its 1048576 bytes at 0"),
        (&suspended, "sums", 40, "sums: the file of checksums `sums` is damaged"),
        (
            &image,
            "snapshot/memory",
            (139 << 12) + 4095,
            "snapshot/memory: the file `memory` is damaged: its 4096 bytes at 569344",
        ),
        (
            &image,
            "snapshot/working-set",
            3 * 4096 + 5,
            "snapshot/working-set: the working set is damaged: its packed page 2",
        ),
        (&image, "snapshot/state", 33, "snapshot/state: the saved state is damaged"),
        (&image, "snapshot/disk0", MIB + 100 * 512, "snapshot/disk0: the file `snapshot/disk0` is damaged"),
        (&image, "disk", 7 * MIB + 4999, "disk: the file `disk` is damaged: its 1048576 bytes at 7340032"),
        (&image, "image.json", 1, "image.json: the file `image.json` is damaged: its 2 bytes at 0"),
        (&image, "sums", 40, "sums: the file of checksums `sums` is damaged"),
    ];
    for (folder, name, at, words) in table {
        let file = open(folder, name);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
        let (damage, _) = verified(folder);
        assert!(damage.len() == 1 && damage[0].contains(words), "`{words}` is not in: {damage:?}");
        file.write_all_at(&byte, at).unwrap();
    }
    // A file that comes without checksums is missing in the table.
    for folder in [&image, &suspended] {
        let files = files_of(folder).unwrap();
        let shown = files.keys().filter(|name| !table.iter().any(|row| row.0 == *folder && row.1 == **name));
        assert_eq!(shown.collect::<Vec<_>>(), Vec::<&String>::new());
        fs::write(folder.join("new"), "").unwrap();
        assert!(verified(folder).1[0].contains("new: all of it"));
        fs::remove_file(folder.join("new")).unwrap();
    }
    // What a suspended state builds on is verified with it, but for the image's own files.
    open(&image, "snapshot/disk0").write_all_at(&[6], MIB + 100 * 512).unwrap();
    let (damage, _) = verified(&suspended);
    assert!(damage[0].starts_with("base: disk0: the file `disk0` is damaged"), "{damage:?}");
}

#[test]
fn what_has_no_checksums_is_named_and_a_file_that_is_missing_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let (image, suspended) = image_and_state(root.path());
    let (damage, uncovered) = verified(&suspended);
    assert_eq!(damage, Vec::<String>::new());
    assert_eq!(
        uncovered,
        ["suspended: disk0: what those sectors hold", "base: disk0: what those sectors hold"]
    );
    let (_, uncovered) = verified(&image);
    assert_eq!(uncovered.len(), 3, "{uncovered:?}");
    make_sums(&image);
    for name in ["disk", "snapshot/memory", "snapshot/state", "snapshot/disk0"] {
        fs::rename(image.join(name), root.path().join("aside")).unwrap();
        let (damage, _) = verified(&image);
        assert_eq!(damage, [format!("image: {name}: the file is missing")]);
        fs::rename(root.path().join("aside"), image.join(name)).unwrap();
    }
    assert!(Subject::open(&root.path().join("nothing")).is_err());
}

#[test]
fn files_of_a_release_without_checksums_of_pages_get_some() {
    let root = tempfile::tempdir().unwrap();
    let (_, suspended) = image_and_state(root.path());
    let memory = open(&suspended, MEMORY);
    let state = state_file::read(&open(&suspended, STATE)).unwrap();
    memory.set_len(BYTES).unwrap();
    let id = [2; 16];
    memory.write_all_at(&memory_file::trailer(BYTES, &id, None), BYTES).unwrap();
    assert_eq!(state.snapshot_id, id);
    let (damage, uncovered) = verified(&suspended);
    assert_eq!((damage.len(), &uncovered[1][..]), (0, "suspended: memory: all of it"));
    make_sums(&suspended);
    assert!(verified(&suspended).1.iter().all(|uncovered| !uncovered.starts_with("suspended")));
    memory.write_all_at(&[77], 8 << 12).unwrap();
    assert!(
        verified(&suspended).0[0].contains("memory: the file `memory` is damaged: its 1048576 bytes at 0")
    );
}

#[test]
fn a_state_of_a_release_without_checksums_of_maps_is_whole() {
    let root = tempfile::tempdir().unwrap();
    let (_, suspended) = image_and_state(root.path());
    let mut state = state_file::read(&open(&suspended, STATE)).unwrap();
    for slot in &mut state.board.as_mut().unwrap().virtio {
        if let Some(Device::Disk(disk)) = &mut slot.device {
            disk.map = None;
        }
    }
    fs::write(suspended.join(STATE), state_file::encode(&state)).unwrap();
    let (damage, uncovered) = verified(&suspended);
    assert_eq!((damage.len(), &uncovered[0][..]), (0, "suspended: disk0: all of it"));
}
