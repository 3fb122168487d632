use hearth_proto::vmm::v1::{SavedMachine, SavedMemory};
use hearth_vmm_api::snapshot::bulk::Bulk;
use proptest::prelude::*;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

use super::*;
use crate::memory::{DRAM_BASE, MIB, map_anonymous};
use crate::snapshot::load::{LoadMode, Loaded, load};
use crate::snapshot::working_set::{self, WorkingSet};

const MIB_OF_MEMORY: u64 = 128;
const PAGES: u64 = MIB_OF_MEMORY * MIB / PAGE;

fn pagemap() -> File {
    File::open("/proc/self/pagemap").unwrap()
}

fn put(memory: &GuestMemory, page: u64, value: u8) {
    memory.write_slice(&[value; PAGE_BYTES], GuestAddress(DRAM_BASE + page * PAGE)).unwrap();
}

/// Number of pages at the beginning and at the end of memory to which the tests write.
const LOOKED_AT: u64 = 512;

/// Returns the contents of the pages to which the tests write.
fn content(memory: &GuestMemory) -> Vec<u8> {
    let mut bytes = vec![0; (2 * LOOKED_AT * PAGE) as usize];
    let (begin, end) = bytes.split_at_mut((LOOKED_AT * PAGE) as usize);
    memory.read_slice(begin, GuestAddress(DRAM_BASE)).unwrap();
    memory.read_slice(end, GuestAddress(DRAM_BASE + (PAGES - LOOKED_AT) * PAGE)).unwrap();
    bytes
}

/// A full snapshot of a memory.
struct Full {
    state: SavedMachine,
    file: File,
}

fn full(memory: &GuestMemory, backing: Option<&Backing>, id: u8) -> (Full, PageCounts) {
    let (file, pagemap) = (tempfile::tempfile().unwrap(), pagemap());
    let source = Memory { memory, pagemap: &pagemap, backing };
    let written = source.write_full(&file, &[id; 16], &Cancel::default()).unwrap();
    let saved =
        SavedMemory { bytes: MIB_OF_MEMORY * MIB, data: written.data.to_pairs(), ..Default::default() };
    let state = SavedMachine { snapshot_id: vec![id; 16], memory: Some(saved), ..Default::default() };
    (Full { state, file }, written.pages)
}

impl Full {
    fn restore(&self) -> Loaded {
        load(&self.state, self.file.try_clone().unwrap(), None, LoadMode::Map).unwrap()
    }
}

fn diff(memory: &GuestMemory, backing: &Backing, id: u8) -> (Full, PageCounts) {
    let (file, pagemap) = (tempfile::tempfile().unwrap(), pagemap());
    let source = Memory { memory, pagemap: &pagemap, backing: Some(backing) };
    let written = source.write_diff(&file, &[id; 16], &Cancel::default()).unwrap();
    let saved = SavedMemory {
        bytes: MIB_OF_MEMORY * MIB,
        data: written.data.to_pairs(),
        zero: written.zero.to_pairs(),
        base_data: backing.base_data.to_pairs(),
    };
    let state = SavedMachine {
        snapshot_id: vec![id; 16],
        base_id: backing.base_id.clone(),
        memory: Some(saved),
        ..Default::default()
    };
    (Full { state, file }, written.pages)
}

fn blocks(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn a_full_snapshot_takes_only_pages_that_are_not_zero() {
    let memory = map_anonymous(MIB_OF_MEMORY).unwrap();
    for page in [0, 1, PAGES - 400, PAGES - 1] {
        put(&memory, page, 7);
    }
    put(&memory, PAGES - 300, 0);
    let (full, pages) = full(&memory, None, 1);
    assert_eq!(pages.data, 4);
    assert!(blocks(&full.file) <= 64 << 10, "{} bytes", blocks(&full.file));
    assert!(content(&full.restore().memory) == content(&memory));
}

#[test]
fn a_clone_that_writes_nothing_has_nothing_to_save() {
    let memory = map_anonymous(MIB_OF_MEMORY).unwrap();
    (100..200).for_each(|page| put(&memory, page, 9));
    let (base, _) = full(&memory, None, 1);
    let clone = base.restore();
    assert_eq!(clone.mapped_pages, 100);
    let before = content(&clone.memory);
    let (nothing, pages) = diff(&clone.memory, &clone.backing, 2);
    assert_eq!((pages, blocks(&nothing.file) <= 8192), (PageCounts::default(), true));
    assert!(before == content(&memory));
}

#[test]
fn each_kind_of_page_is_told_apart() {
    let memory = map_anonymous(MIB_OF_MEMORY).unwrap();
    (100..200).for_each(|page| put(&memory, page, 9));
    let (base, _) = full(&memory, None, 1);
    let clone = base.restore();
    put(&clone.memory, 100, 9); // equal to the base
    put(&clone.memory, 101, 0); // zero over a base that is not
    put(&clone.memory, 102, 1); // changed
    put(&clone.memory, PAGES - 10, 0); // zero as in the base
    put(&clone.memory, PAGES - 9, 3); // new
    let (saved, pages) = diff(&clone.memory, &clone.backing, 2);
    assert_eq!(pages, PageCounts { own: 5, data: 2, zero: 1, equal: 2, ..PageCounts::default() });
    let restored = load(
        &saved.state,
        base.file.try_clone().unwrap(),
        Some(saved.file.try_clone().unwrap()),
        LoadMode::Map,
    );
    assert!(content(&restored.unwrap().memory) == content(&clone.memory));
}

#[test]
fn a_cancelled_save_says_so() {
    let memory = map_anonymous(MIB_OF_MEMORY).unwrap();
    (0..1000).for_each(|page| put(&memory, page, 9));
    let (cancel, pagemap) = (Cancel::default(), pagemap());
    cancel.cancel();
    let source = Memory { memory: &memory, pagemap: &pagemap, backing: None };
    let error = source.write_full(&tempfile::tempfile().unwrap(), &[1; 16], &cancel).unwrap_err();
    assert!(matches!(error, SaveError::Cancelled));
    let error = source.write_diff(&tempfile::tempfile().unwrap(), &[1; 16], &Cancel::default()).unwrap_err();
    assert!(error.to_string().contains("booted, not restored"), "{error}");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let memory = map_anonymous(MIB_OF_MEMORY).unwrap();
    put(&memory, 1, 1);
    let (one, other) = (full(&memory, None, 1).0, full(&memory, None, 2).0);
    let file = |full: &Full| full.file.try_clone().unwrap();
    let refused = |result: Result<_, LoadError>| match result {
        Err(error) => error.to_string(),
        Ok(Loaded { .. }) => panic!("not refused"),
    };
    let message = refused(load(&one.state, file(&other), None, LoadMode::Map));
    assert!(message.contains("belongs to snapshot 0202"), "{message}");
    let message = refused(load(&one.state, file(&one), Some(file(&other)), LoadMode::Map));
    assert!(message.contains("stands for itself"), "{message}");
    let clone = one.restore();
    let (saved, _) = diff(&clone.memory, &clone.backing, 3);
    let message = refused(load(&saved.state, file(&one), None, LoadMode::Map));
    assert!(message.contains("builds on another one"), "{message}");
    let message = refused(load(&saved.state, file(&other), Some(file(&saved)), LoadMode::Map));
    assert!(message.contains("memory of the base"), "{message}");
    one.file.set_len(4096).unwrap();
    let message = refused(load(&one.state, file(&one), None, LoadMode::Map));
    assert!(message.contains("too short: it has 4096 bytes"), "{message}");
}

/// A change of memory between two saves.
#[derive(Debug, Clone)]
enum Change {
    Write {
        first: u64,
        pages: u64,
        value: u8,
    },
    /// The pages are given back, and read then: what is read is their content from now on.
    GiveBack {
        first: u64,
        pages: u64,
    },
    SwapOut {
        first: u64,
        pages: u64,
    },
}

fn change() -> impl Strategy<Value = Change> {
    // The places are near each other, so that runs meet, and sometimes long enough to be mapped from a diff.
    let place = || (0..300u64, prop_oneof![1..4u64, 1..60u64]);
    prop_oneof![
        4 => (place(), 0..4u8).prop_map(|((first, pages), value)| Change::Write { first, pages, value }),
        1 => place().prop_map(|(first, pages)| Change::GiveBack { first, pages }),
        1 => place().prop_map(|(first, pages)| Change::SwapOut { first, pages }),
    ]
}

fn apply(memory: &GuestMemory, change: &Change) {
    let advise = |first: u64, pages: u64, advice| {
        let at = memory.get_slice(GuestAddress(DRAM_BASE + first * PAGE), (pages * PAGE) as usize).unwrap();
        // SAFETY: whole pages of the test's own memory.
        let result = unsafe { libc::madvise(at.ptr_guard_mut().as_ptr().cast(), at.len(), advice) };
        assert_eq!(result, 0);
    };
    match *change {
        Change::Write { first, pages, value } => {
            (first..first + pages).for_each(|page| put(memory, page, value))
        }
        Change::GiveBack { first, pages } => {
            advise(first, pages, libc::MADV_DONTNEED);
            for page in first..first + pages {
                memory.read_obj::<u8>(GuestAddress(DRAM_BASE + page * PAGE)).unwrap();
            }
        }
        // On a host without swap this does nothing.
        Change::SwapOut { first, pages } => advise(first, pages, libc::MADV_PAGEOUT),
    }
}

/// Moves a working set of these pages into the memory of a clone, as if it were not in the page cache.
fn move_in(pages: &[u64], clone: &Loaded) {
    let mut set = WorkingSet::default();
    pages.iter().for_each(|&page| set.push(page, false));
    let (file, range) = (tempfile::tempfile().unwrap(), range_of(&clone.memory).unwrap());
    set.write(&file, &clone.backing).unwrap();
    let (set, packed) = WorkingSet::read(&file, &clone.backing.base_id, PAGES).unwrap();
    working_set::move_in(&file, packed, &set.pieces(), range).unwrap();
}

/// Checks that a clone is the same after a suspend, and in a full snapshot.
fn assert_saved(clone: &Loaded, base: &Full) {
    let (saved, _) = diff(&clone.memory, &clone.backing, 200);
    let (whole, _) = full(&clone.memory, Some(&clone.backing), 201);
    let file = Some(saved.file.try_clone().unwrap());
    let resumed = load(&saved.state, base.file.try_clone().unwrap(), file, LoadMode::Map).unwrap();
    let now = content(&clone.memory);
    assert!(content(&resumed.memory) == now, "base and diff");
    assert!(content(&whole.restore().memory) == now, "a full snapshot");
}

#[test]
fn zeros_for_which_the_kernel_maps_its_own_page_are_not_lost() {
    let memory = map_anonymous(MIB_OF_MEMORY).unwrap();
    (100..200).for_each(|page| put(&memory, page, 9));
    let (base, _) = full(&memory, None, 1);
    let clone = base.restore();
    move_in(&(120..180).collect::<Vec<_>>(), &clone);
    apply(&clone.memory, &Change::GiveBack { first: 130, pages: 20 });
    let zeros = pages::scan(&pagemap(), range_of(&clone.memory).unwrap()).unwrap().zero;
    assert_eq!(zeros.as_slice(), [Run { first: 130, pages: 20 }]);
    assert_saved(&clone, &base);
}

/// Pages of a huge page of 2 MiB.
const HUGE: u64 = 512;

/// Maps a huge page with the byte 7 everywhere over the first 2 MiB of the clone's memory. Returns whether the kernel
/// has provided one.
fn put_huge_page(clone: &Loaded) -> bool {
    let bytes = 2 * HUGE as usize * PAGE_BYTES;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address that the kernel chooses.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    let aligned = start.map_addr(|address| address.next_multiple_of(bytes / 2));
    // SAFETY: inside the test's own mapping.
    if unsafe { libc::madvise(aligned, bytes / 2, libc::MADV_HUGEPAGE) } != 0 {
        return false;
    }
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(aligned.cast::<u8>(), bytes / 2) }.fill(7);
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let own = smaps.split("VmFlags").find(|mapping| mapping.contains(&format!("{:x}-", aligned.addr())));
    let huge = own.is_some_and(|own| {
        own.lines().any(|line| line.starts_with("AnonHugePages:") && line.contains(" 2048 kB"))
    });
    let to = address(range_of(&clone.memory).unwrap(), Run { first: 0, pages: HUGE });
    let move_there = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: from a part of the test's own mapping to memory of the test's own guest.
    let moved = unsafe { libc::mremap(aligned, bytes / 2, bytes / 2, move_there, to) };
    assert_ne!(moved, libc::MAP_FAILED);
    huge
}

#[test]
fn zeros_in_a_huge_page_that_the_kernel_splits_are_not_lost() {
    let memory = map_anonymous(MIB_OF_MEMORY).unwrap();
    (0..HUGE).for_each(|page| put(&memory, page, 9));
    let (base, _) = full(&memory, None, 1);
    let clone = base.restore();
    if !put_huge_page(&clone) {
        hearth_testing::skip("this kernel has no huge pages, or none is free");
        return;
    }
    (100..300).for_each(|page| put(&clone.memory, page, 0));
    apply(&clone.memory, &Change::SwapOut { first: 0, pages: 1 });
    let found = pages::scan(&pagemap(), range_of(&clone.memory).unwrap()).unwrap();
    eprintln!("{} pages of zeros are the kernel's after the split", found.zero.pages());
    assert_saved(&clone, &base);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever happens to a clone, whose working set was cold, over several suspends: the restored memory equals the saved one, and a full
    /// snapshot of the clone contains the same.
    #[test]
    fn base_and_diff_are_what_was_there(
        base_writes in proptest::collection::vec((0..300u64, 1..60u64, 0..4u8), 0..8),
        working_set in proptest::collection::vec(0..350u64, 1..20),
        rounds in proptest::collection::vec(proptest::collection::vec(change(), 0..12), 1..5),
    ) {
        let memory = map_anonymous(MIB_OF_MEMORY).unwrap();
        for (first, pages, value) in base_writes {
            (first..first + pages).for_each(|page| put(&memory, page, value));
        }
        let (base, _) = full(&memory, None, 1);
        let mut running = base.restore();
        move_in(&working_set, &running);
        prop_assert!(content(&running.memory) == content(&memory));
        for (round, changes) in (2..).zip(&rounds) {
            changes.iter().for_each(|change| apply(&running.memory, change));
            let (saved, pages) = diff(&running.memory, &running.backing, round);
            let (whole, whole_pages) = full(&running.memory, Some(&running.backing), 100 + round);
            let now = content(&running.memory);
            let diff = Some(saved.file.try_clone().unwrap());
            let restored = load(&saved.state, base.file.try_clone().unwrap(), diff, LoadMode::Map).unwrap();
            prop_assert!(content(&restored.memory) == now, "round {round}: base and diff");
            prop_assert!(content(&whole.restore().memory) == now, "round {round}: a full snapshot");
            // All that is in the files has a checksum, what was taken over, too.
            let checked = |file| {
                memory_file::verify(file, "memory", &mut Bulk::from_disk(&mut |_| Ok(()))).unwrap().unwrap()
            };
            prop_assert_eq!(checked(&saved.file), pages.data + pages.carried);
            prop_assert_eq!(checked(&whole.file), whole_pages.data + whole_pages.carried);
            let recorded = Some(saved.file.try_clone().unwrap());
            let sources = load(&saved.state, base.file.try_clone().unwrap(), recorded, LoadMode::Record).unwrap();
            for page in 0..400 {
                let mut bytes = vec![0; PAGE_BYTES];
                if let crate::snapshot::load::Source::File(file) = sources.backing.source(page) {
                    file.read_exact_at(&mut bytes, page * PAGE).unwrap();
                }
                prop_assert!(bytes == now[(page * PAGE) as usize..][..PAGE_BYTES], "page {page} on demand");
            }
            running = restored;
        }
    }
}
