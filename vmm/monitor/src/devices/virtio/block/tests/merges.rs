//! Tests of merged layers against a model, on file systems with more and fewer abilities.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use proptest::prelude::*;
use virtio_bindings::virtio_blk as blk;

use super::super::backend::Disk;
use super::super::merge::{KERNEL, Ways, merge_by};
use super::super::testing::{Guest, OK, content, disk_file, frozen, layered, memory_file};
use super::super::{LayerToMerge, MAP_PAGE_SIZE, MergeError, Merged, Overlay, merge, merge_checked};
use crate::devices::virtio::VirtioDevice as _;

const MIB: u64 = 1 << 20;

// === File systems ===

/// Does the same as `FICLONE`, for file systems that lack it.
fn clone_by_copying(from: &File, into: &File) -> io::Result<()> {
    into.set_len(from.metadata()?.len())?;
    content(from).iter().try_for_each(|(offset, bytes)| into.write_all_at(bytes, *offset))
}

fn unsupported<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

/// Copies less than requested, as the kernel may.
fn copy_some(from: &File, into: &File, at: u64, length: u64) -> io::Result<u64> {
    (KERNEL.copy)(from, into, at, length.min(1000))
}

const CLONING: Ways = Ways { clone: clone_by_copying, copy: copy_some, punch: KERNEL.punch };
/// A file system that can clone, but neither copy nor punch holes.
const CLONING_ONLY: Ways = Ways {
    clone: clone_by_copying,
    copy: |_, _, _, _| unsupported(libc::EXDEV),
    punch: |_, _| unsupported(libc::EOPNOTSUPP),
};
const NOTHING: Ways = Ways { clone: |_, _| unsupported(libc::EOPNOTSUPP), ..CLONING_ONLY };
const COPYING: Ways = Ways { clone: |_, _| unsupported(libc::EXDEV), ..KERNEL };
const ALL: [&Ways; 5] = [&KERNEL, &CLONING, &CLONING_ONLY, &NOTHING, &COPYING];

fn never() -> bool {
    false
}

fn merged(ways: &Ways, layers: &[File], into: File) -> (Merged, File) {
    let layers: Vec<File> = layers.iter().map(frozen).collect();
    (merge_by(ways, &layers, &into, &never).unwrap(), into)
}

// === Against a model ===

const PAGE_SECTORS: u64 = 32768;
const SECTORS: u64 = 3 * PAGE_SECTORS + 16;
/// First sectors of the ranges that the test writes: both ends of the disk and the borders between pages of the map.
const WINDOWS: [u64; 4] = [0, PAGE_SECTORS - 16, 2 * PAGE_SECTORS - 16, SECTORS - 32];
const WINDOW: u64 = 32;

#[derive(Debug, Clone)]
enum Change {
    Write,
    Discard,
    WriteZeroes(u32),
    /// Data without bits in the map, as a monitor leaves it when it dies before a flush.
    Lost,
}

type Step = (Change, Range<u64>);

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        5 => Just(Change::Write),
        2 => Just(Change::Discard),
        1 => (0..2u32).prop_map(Change::WriteZeroes),
        1 => Just(Change::Lost),
    ];
    let range = (0..WINDOWS.len(), 0..WINDOW)
        .prop_flat_map(|(window, first)| (Just(WINDOWS[window] + first), 1..=WINDOW - first))
        .prop_map(|(sector, sectors)| sector..sector + sectors);
    (change, range)
}

/// The content of the windows, one byte per sector.
type Model = std::collections::BTreeMap<u64, u8>;

/// The windows' content on a disk over `layers`, both computed directly and read by a driver.
fn look(base: &File, layers: &[File]) -> Result<Model, TestCaseError> {
    let top = memory_file(0);
    let disk = Disk::open(layered(base, layers, &top).source).unwrap();
    let mut guest = Guest::new(layered(base, layers, &memory_file(0)));
    let mut found = Model::new();
    for window in WINDOWS {
        let mut bytes = Vec::new();
        while bytes.len() < WINDOW as usize * 512 {
            let at = bytes.len() as u64 / 512;
            let extent = disk.locate_for_read(window + at, WINDOW - at);
            prop_assert!(extent.sectors > 0 && extent.file < disk.written_file());
            let mut part = vec![0; extent.sectors as usize * 512];
            disk.files()[extent.file as usize].read_exact_at(&mut part, extent.offset).unwrap();
            bytes.extend(part);
        }
        prop_assert!(guest.read(window, bytes.len()) == bytes, "the driver reads something else");
        for (sector, bytes) in (window..).zip(bytes.chunks_exact(512)) {
            prop_assert!(bytes.iter().all(|byte| *byte == bytes[0]), "sector {} is torn", sector);
            found.insert(sector, bytes[0]);
        }
    }
    Ok(found)
}

/// Makes a layer over `layers` with these steps.
fn make_layer(base: &File, layers: &[File], steps: &[Step], byte: &mut u8, model: &mut Model) -> File {
    let top = memory_file(0);
    let data_offset = Overlay::open(&top, SECTORS * 512).unwrap().data_offset;
    for (_, range) in steps.iter().filter(|(change, _)| matches!(change, Change::Lost)) {
        let bytes = vec![0xee; (range.end - range.start) as usize * 512];
        top.write_all_at(&bytes, data_offset + range.start * 512).unwrap();
    }
    let mut guest = Guest::new(layered(base, layers, &top));
    for (change, range) in steps {
        let sectors = u32::try_from(range.end - range.start).unwrap();
        let stamp = match change {
            Change::Write => {
                *byte = *byte % 0xe0 + 1;
                assert_eq!(guest.write(range.start, &vec![*byte; sectors as usize * 512]), OK);
                *byte
            }
            Change::Discard => {
                let segment = (range.start, sectors, 0);
                assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[segment]), OK);
                0
            }
            Change::WriteZeroes(unmap) => {
                let segment = (range.start, sectors, *unmap);
                assert_eq!(guest.segments(blk::VIRTIO_BLK_T_WRITE_ZEROES, &[segment]), OK);
                0
            }
            Change::Lost => continue,
        };
        model.extend(range.clone().map(|sector| (sector, stamp)));
    }
    guest.rig.device.quiesce().unwrap();
    top
}

fn cases() -> ProptestConfig {
    ProptestConfig::with_cases(if hearth_testing::full() { 256 } else { 24 })
}

proptest! {
    #![proptest_config(cases())]

    /// For any writes and discards in any number of layers, a disk over them, over all of them merged, and
    /// over some of them merged reads the same, and no layer has changed.
    #[test]
    fn layers_and_what_they_are_merged_into_read_like_the_model(
        layers in proptest::collection::vec(proptest::collection::vec(step(), 0..8), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let (base, mut model, mut byte) = (memory_file(SECTORS * 512), Model::new(), 0);
        for sector in WINDOWS.iter().flat_map(|window| *window..window + WINDOW) {
            base.write_all_at(&[0xf0; 512], sector * 512).unwrap();
            model.insert(sector, 0xf0);
        }
        let mut files = Vec::new();
        for steps in &layers {
            let file = make_layer(&base, &files, steps, &mut byte, &mut model);
            files.push(file);
        }
        prop_assert_eq!(&look(&base, &files)?, &model);
        let before: Vec<_> = files.iter().map(content).collect();
        for ways in ALL {
            let (_, all) = merged(ways, &files, memory_file(0));
            prop_assert_eq!(&look(&base, &[all])?, &model);
            let (lower, upper) = files.split_at(cut.index(files.len()));
            let upper = merged(ways, upper, memory_file(0)).1;
            if lower.is_empty() {
                continue;
            }
            let lower = merged(ways, lower, memory_file(0)).1;
            let both = [lower, upper];
            prop_assert_eq!(&look(&base, &both)?, &model);
            let again = merged(ways, &both, memory_file(0)).1;
            prop_assert_eq!(&look(&base, &[again])?, &model);
        }
        prop_assert!(before == files.iter().map(content).collect::<Vec<_>>(), "a layer was written");
    }
}

// === Figures ===

/// Makes two layers of a disk of 256 MiB. The lower has 24 MiB at 0 and 1 MiB at 100 MiB. The upper has 1 MiB at
/// 1 MiB, and discards 16 MiB at 4 MiB and 64 MiB at 128 MiB, where there is no data.
fn two_layers(file: impl Fn(u64) -> File) -> (File, Vec<File>) {
    let base = file(256 * MIB);
    let (lower, upper) = (file(0), file(0));
    let mut guest = Guest::new(layered(&base, &[], &lower));
    for mib in (0..24).chain([100]) {
        assert_eq!(guest.write(mib * 2048, &vec![1; 1 << 20]), OK);
    }
    guest.rig.device.quiesce().unwrap();
    drop(guest);
    let lower = vec![lower];
    let mut guest = Guest::new(layered(&base, &lower, &upper));
    assert_eq!(guest.write(2048, &vec![2; 1 << 20]), OK);
    for (mib, size) in [(4, 16), (128, 64)] {
        for at in mib..mib + size {
            assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[(at * 2048, 2048, 0)]), OK);
        }
    }
    guest.rig.device.quiesce().unwrap();
    drop(guest);
    (base, lower.into_iter().chain([upper]).collect())
}

fn allocated(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

/// One byte from each of the disk's first 30 MiB, and from MiB 100 and MiB 128.
fn summary(base: &File, layer: File) -> Vec<u8> {
    let mut guest = Guest::new(layered(base, &[layer], &memory_file(0)));
    (0..30).chain([100, 128]).map(|mib| guest.read(mib * 2048 + 77, 512)[511]).collect()
}

fn expected_summary() -> Vec<u8> {
    [[1].as_slice(), &[2], &[1; 2], &[0; 16], &[1; 4], &[0; 6], &[1, 0]].concat()
}

#[test]
fn only_data_that_counts_is_copied_and_holes_stay_holes() {
    let (base, layers) = two_layers(disk_file);
    for ways in [&COPYING, &NOTHING] {
        let (figures, into) = merged(ways, &layers, disk_file(0));
        // 25 MiB minus the part that the upper layer discards; the part that it overwrites is copied once.
        assert_eq!(figures, Merged { cloned: 0, copied: 9 * MIB });
        let bytes = allocated(&into);
        assert!((9 * MIB..9 * MIB + (128 << 10)).contains(&bytes), "{bytes} bytes are allocated");
        assert_eq!(summary(&base, into), expected_summary());
    }
}

#[test]
fn where_blocks_can_be_shared_only_the_smaller_layer_is_copied() {
    let (base, layers) = two_layers(disk_file);
    let (figures, into) = merged(&CLONING, &layers, disk_file(0));
    assert_eq!((figures.copied, figures.cloned), (MIB, allocated(&layers[0])));
    let bytes = allocated(&into);
    assert!(bytes < 9 * MIB + (128 << 10), "{bytes} bytes are allocated");
    assert_eq!(summary(&base, into), expected_summary());
}

#[test]
fn a_layer_among_empty_ones_is_cloned_whole_and_empty_ones_make_an_empty_layer() {
    let (base, mut layers) = two_layers(memory_file);
    layers.remove(1);
    let empty = || {
        let file = memory_file(0);
        Overlay::open(&file, 256 * MIB).unwrap();
        file
    };
    let among = [empty(), layers.remove(0), empty(), empty()];
    let (figures, into) = merged(&CLONING, &among, memory_file(0));
    assert_eq!((figures.copied, figures.cloned), (0, allocated(&among[1])));
    assert!(content(&into) == content(&among[1]));
    assert_eq!(merged(&COPYING, &among, memory_file(0)).0, Merged { cloned: 0, copied: 25 * MIB });
    for ways in ALL {
        let (figures, into) = merged(ways, &[empty(), empty()], memory_file(0));
        assert_eq!(figures, Merged::default());
        assert!(content(&into) == content(&empty()) && summary(&base, into) == [0; 32]);
    }
}

/// Merges with the kernel's own system calls, on the file system of temporary files and across two file systems.
#[test]
fn the_kernel_merges_on_one_file_system_and_from_one_to_another() {
    let (base, layers) = two_layers(disk_file);
    let into = disk_file(0);
    let figures = merge(&layers, &into, &never).unwrap();
    assert!(figures.copied == 9 * MIB || figures.copied == MIB && figures.cloned >= 25 * MIB, "{figures:?}");
    assert!(allocated(&into) <= 9 * MIB + (128 << 10));
    assert_eq!(summary(&base, into), expected_summary());
    let (figures, into) = merged(&KERNEL, &layers, memory_file(0));
    assert_eq!(figures, Merged { cloned: 0, copied: 9 * MIB });
    assert_eq!(summary(&base, into), expected_summary());
}

// === Refusals, cancellation, errors ===

#[test]
fn a_merge_can_be_cancelled_at_each_mib_and_leaves_the_layers_as_they_were() {
    let (base, layers) = two_layers(memory_file);
    let before: Vec<_> = layers.iter().map(content).collect();
    let into = memory_file(0);
    // The kernel decides how much it copies at a time, so these do not use its copies.
    let cloning = Ways { clone: clone_by_copying, punch: KERNEL.punch, ..NOTHING };
    for ways in [&cloning, &NOTHING] {
        let asked = Cell::new(0);
        let cancel_at = |limit| {
            asked.set(0);
            let cancelled = || {
                asked.set(asked.get() + 1);
                asked.get() > limit
            };
            merge_by(ways, &layers, &into, &cancelled)
        };
        let figures = cancel_at(u64::MAX).unwrap();
        let questions = asked.get();
        assert!(questions > figures.copied / MIB, "{questions} questions");
        into.set_len(0).unwrap();
        for limit in 0..questions {
            assert!(matches!(cancel_at(limit), Err(MergeError::Cancelled)), "question {limit}");
            assert_eq!(into.metadata().unwrap().len(), 0);
        }
        assert_eq!(cancel_at(questions).unwrap(), figures);
        into.set_len(0).unwrap();
    }
    assert!(before == layers.iter().map(content).collect::<Vec<_>>(), "a layer was written");
    assert_eq!(summary(&base, merged(&KERNEL, &layers, into).1), expected_summary());
}

#[test]
fn what_cannot_be_merged_is_refused_by_name() {
    let layer = |size| {
        let file = memory_file(0);
        Overlay::open(&file, size).unwrap();
        file
    };
    let refused = |layers: &[File], into: &File| {
        let length = into.metadata().unwrap().len();
        let message = merge(layers, into, &never).unwrap_err().to_string();
        assert_eq!(into.metadata().unwrap().len(), length, "{message}");
        message
    };
    let none = refused(&[], &memory_file(0));
    assert!(none.contains("give at least one"), "{none}");
    let wrong = [
        (memory_file(0), "layer 1: the file is empty"),
        (memory_file(4096), "layer 1: the file is not an overlay"),
        (layer(2 * MIB), "layer 1: the overlay is for a disk of 2097152 bytes, but this one has 1048576"),
    ];
    for (file, expected) in wrong {
        let message = refused(&[layer(MIB), file], &memory_file(0));
        assert!(message.contains(expected), "{message}");
    }
    let first = refused(&[memory_file(0), layer(MIB)], &memory_file(0));
    assert!(first.contains("layer 0: the file is empty"), "{first}");
    for into in [memory_file(1), layer(MIB), File::open("/dev/null").unwrap()] {
        let message = refused(&[layer(MIB)], &into);
        assert!(message.contains("not an empty regular file"), "{message}");
    }
    let itself = layer(MIB);
    assert!(matches!(merge(&[itself.try_clone().unwrap()], &itself, &never), Err(MergeError::Target)));
}

#[test]
fn an_error_of_the_host_ends_the_merge_and_empties_the_file() {
    let (_, layers) = two_layers(memory_file);
    let full: [Ways; 3] = [
        Ways { clone: |_, _| unsupported(libc::ENOSPC), ..KERNEL },
        Ways { copy: |_, _, _, _| unsupported(libc::ENOSPC), ..CLONING },
        Ways { punch: |_, _| unsupported(libc::ENOSPC), ..CLONING },
    ];
    for (ways, expected) in full.iter().zip(["cloning blocks into", "copying to", "making holes in"]) {
        let into = memory_file(0);
        let message = merge_by(ways, &layers, &into, &never).unwrap_err().to_string();
        assert!(message.contains(&format!("{expected} the merged layer failed: No space left")), "{message}");
        assert_eq!(into.metadata().unwrap().len(), 0);
    }
    let read_only = frozen(&memory_file(0));
    assert!(matches!(merge(&layers, &read_only, &never), Err(MergeError::Io { .. })));
}

#[test]
fn a_merge_that_ends_with_its_process_leaves_no_layer() {
    let (_, layers) = two_layers(memory_file);
    for ways in [&COPYING, &CLONING] {
        let into = memory_file(0);
        let seen = Cell::new(0);
        // Checks the file at every point at which the process could die, except the very end.
        let cancelled = || {
            let refused = Overlay::open_layer(&into, 256 * MIB).is_err();
            seen.set(seen.get() + u64::from(refused));
            false
        };
        let asked = Cell::new(0);
        let counted = || {
            asked.set(asked.get() + 1);
            cancelled()
        };
        merge_by(ways, &layers, &into, &counted).unwrap();
        assert_eq!(seen.get() + 1, asked.get(), "all but the question before the sync");
    }
}

// === Checksums of maps ===

/// A layer of a disk of 64 MiB that has these sectors, with the checksums of its map.
fn summed(sectors: Range<u64>) -> LayerToMerge {
    let file = memory_file(0);
    let mut overlay = Overlay::open(&file, 64 * MIB).unwrap();
    overlay.map.set(sectors.start, sectors.end - sectors.start);
    let mut page = vec![0; MAP_PAGE_SIZE];
    let mut from = 0;
    while let Some(number) = overlay.map.next_dirty(from) {
        overlay.map.take_page(number, &mut page);
        file.write_all_at(&page, 4096 * (1 + number as u64)).unwrap();
        from = number + 1;
    }
    LayerToMerge { file, map: Some(overlay.map.sums()) }
}

#[test]
fn a_layer_whose_map_is_damaged_is_not_merged() {
    let layers = [summed(0..100), summed(PAGE_SECTORS..PAGE_SECTORS + 9), summed(50..200)];
    let into = memory_file(0);
    let sums = merge_checked(&layers, &into, &never).unwrap();
    let merged = Overlay::open_layer(&into, 64 * MIB).unwrap().map;
    assert_eq!((merged.count(), merged.difference(&sums)), (209, None));
    let one = [LayerToMerge { file: into, map: Some(sums.clone()) }];
    assert_eq!(merge_checked(&one, &memory_file(0), &never).unwrap(), sums, "of a layer that is cloned, too");

    let [_, middle, _] = &layers;
    let flip = || {
        let mut byte = [0];
        middle.file.read_exact_at(&mut byte, 2 * 4096 + 77).unwrap();
        middle.file.write_all_at(&[byte[0] ^ 1], 2 * 4096 + 77).unwrap();
    };
    flip();
    let into = memory_file(0);
    let error = merge_checked(&layers, &into, &never).unwrap_err();
    assert_eq!(into.metadata().unwrap().len(), 0);
    let message = error.to_string();
    assert!(
        message.starts_with("layer 1: its block map is damaged: which of the sectors 32768 to 65536"),
        "{message}"
    );
    flip();
    merge_checked(&layers, &into, &never).unwrap();
}
