use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::memory::{DRAM_BASE, MIB, map_anonymous};

const TOTAL: u64 = 128 * MIB / PAGE;

/// Creates a base of which the pages 0 to 99 are filled with their page number.
fn backing() -> Backing {
    let base = tempfile::tempfile().unwrap();
    for page in 0..100_u8 {
        base.write_all_at(&[page; PAGE_BYTES], u64::from(page) * PAGE).unwrap();
    }
    let base_data = Runs::from_pairs(&[0, 100], TOTAL).unwrap();
    Backing { base, base_id: vec![5; 16], base_data, diff: None }
}

fn set() -> WorkingSet {
    let mut set = WorkingSet::default();
    for (page, written) in [(50, false), (51, false), (52, true), (7, false), (99, false), (3, true)] {
        set.push(page, written);
    }
    set
}

fn written() -> File {
    let file = tempfile::tempfile().unwrap();
    set().write(&file, &backing()).unwrap();
    file
}

#[test]
fn a_working_set_survives_its_file() {
    assert_eq!(set().touched.len(), 5);
    let (read, packed) = WorkingSet::read(&written(), &[5; 16], TOTAL).unwrap();
    assert_eq!((read, packed), (set(), PAGE));
    assert_eq!(
        set().pieces().as_slice().iter().map(|run| (run.first, run.pages)).collect::<Vec<_>>(),
        [(3, 5), (50, 3), (99, 1)]
    );
}

#[test]
fn packed_pages_come_to_where_they_belong() {
    let (file, memory) = (written(), map_anonymous(128).unwrap());
    let range = load::range_of(&memory).unwrap();
    let (set, packed) = WorkingSet::read(&file, &[5; 16], TOTAL).unwrap();
    memory.write_obj(9_u8, GuestAddress(DRAM_BASE + 20 * PAGE)).unwrap();
    move_in(&file, packed, &set.pieces(), range).unwrap();
    for page in 0..110 {
        let found: u8 = memory.read_obj(GuestAddress(DRAM_BASE + page * PAGE + 4095)).unwrap();
        // Pages 4 to 6 lie in a gap.
        let expected = if matches!(page, 3..=7 | 50..=52 | 99) { page } else { 0 };
        assert_eq!(u64::from(found), expected, "page {page}");
    }
    assert_eq!(memory.read_obj::<u8>(GuestAddress(DRAM_BASE + 20 * PAGE)).unwrap(), 9);
    memory.write_obj(8_u8, GuestAddress(DRAM_BASE + 50 * PAGE)).unwrap();
}

/// Returns the `VmFlags` (proc_pid_smaps(5)) of this process's mapping that contains the address.
fn flags_at(address: u64) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        let number = |word| u64::from_str_radix(word, 16).ok();
        if let Some((Some(start), Some(end))) = range.map(|(start, end)| (number(start), number(end))) {
            inside = (start..end).contains(&address);
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags: ") {
            return flags.to_string();
        }
    }
    panic!("{address:#x} is not mapped");
}

#[test]
fn pieces_of_a_cold_working_set_are_kept_without_huge_pages() {
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        hearth_testing::skip("this kernel has no huge pages");
        return;
    }
    let (file, memory) = (written(), map_anonymous(128).unwrap());
    let range = load::range_of(&memory).unwrap();
    let (set, packed) = WorkingSet::read(&file, &[5; 16], TOTAL).unwrap();
    move_in(&file, packed, &set.pieces(), range).unwrap();
    for run in set.pieces().as_slice() {
        let flags = flags_at(address(range, *run) as u64);
        assert!(flags.split(' ').any(|flag| flag == "nh"), "page {}: {flags}", run.first);
    }
}

#[test]
fn what_is_no_working_set_of_this_snapshot_is_refused_by_name() {
    let refused = |change: &dyn Fn(&File), expected: &str| {
        let file = written();
        change(&file);
        let message = WorkingSet::read(&file, &[5; 16], TOTAL).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(&|file| file.set_len(10).unwrap(), "too short");
    refused(&|file| file.set_len(5000).unwrap(), "length is not what");
    refused(&|file| file.write_all_at(b"X", 0).unwrap(), "magic");
    refused(&|file| file.write_all_at(&[3], 8).unwrap(), "version 3");
    refused(&|file| file.write_all_at(&[9], 70).unwrap(), "checksum");
    refused(&|file| file.write_all_at(&[9], 40).unwrap(), "checksum");
    let message = WorkingSet::read(&written(), &[6; 16], TOTAL).unwrap_err().to_string();
    assert!(message.contains("0505") && message.contains("0606"), "{message}");
    let message = WorkingSet::read(&written(), &[5; 16], 99).unwrap_err().to_string();
    assert!(message.contains("pages that the memory does not have"), "{message}");
}

#[test]
fn every_flipped_bit_of_the_list_is_noticed() {
    let file = written();
    let mut byte = [0];
    for at in 0..(HEADER + 5 * ENTRY) as u64 {
        if (60..64).contains(&at) {
            continue; // these bytes are neither checked nor used
        }
        file.read_exact_at(&mut byte, at).unwrap();
        for bit in 0..8 {
            file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
            WorkingSet::read(&file, &[5; 16], TOTAL).expect_err(&format!("bit {bit} of byte {at}"));
        }
        file.write_all_at(&byte, at).unwrap();
    }
}

fn verify(file: &File) -> Result<Option<u64>, WorkingSetError> {
    WorkingSet::verify(file, &[5; 16], TOTAL, &mut Bulk::from_disk(&mut |_| Ok(())))
}

#[test]
fn every_flipped_bit_of_a_packed_page_is_found_and_a_file_without_checksums_is_read() {
    let file = written();
    assert_eq!(verify(&file).unwrap(), Some(9));
    let length = file.metadata().unwrap().len();
    let mut byte = [0];
    for at in [PAGE, 2 * PAGE - 1, 7 * PAGE + 9, length - 1] {
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let message = verify(&file).unwrap_err().to_string();
        assert!(message.contains("packed page"), "{message}");
        file.write_all_at(&byte, at).unwrap();
    }
    // The header of version 1, and no checksums.
    let mut header = [0; HEADER + 5 * ENTRY];
    file.read_exact_at(&mut header, 0).unwrap();
    header[8] = 1;
    let sum = checksum(&header[..CHECKED], &header[HEADER..]);
    header[CHECKED..CHECKED + 4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    file.set_len(length - 9 * SUM as u64).unwrap();
    assert_eq!(verify(&file).unwrap(), None);
}

#[test]
fn a_working_set_that_is_warm_is_not_copied() {
    let (file, backing, memory) = (written(), Arc::new(backing()), map_anonymous(128).unwrap());
    let (rest, counts) = bring_in(&file, &backing, &memory).unwrap();
    assert_eq!(counts, [6, 0], "it was written just now");
    rest.start(&Filters::none());
}
