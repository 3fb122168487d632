//! Tests that a suspend contains all changes, however they were made: base and diff together equal a full save of the
//! same moment, byte for byte.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use hearth_proto::vmm::v1::SavedMemory;
use hearth_vmm::snapshot::PAGE;
use hearth_vmm_api::config::BalloonConfig;
use hearth_vmm_client::SaveKind;

use crate::support::{Guest, Machine, Metal, Saved, Swap, rounds, until};

/// Memory of the guests in MiB.
const MEMORY: u64 = 192;
/// Memory in MiB that the guests keep and check, and its number of pages.
const KEPT: u64 = 24;
const KEPT_PAGES: &str = "6144";

fn memory_of(saved: &Saved) -> SavedMemory {
    saved.read_state().memory.unwrap()
}

/// Reads the pages that `runs` lists from `file` to their places in `memory`.
fn read(runs: &[u64], file: &File, memory: &mut [u8]) {
    for &[first, pages] in runs.as_chunks::<2>().0 {
        let range = usize::try_from(first * PAGE).unwrap()..usize::try_from((first + pages) * PAGE).unwrap();
        file.read_exact_at(&mut memory[range], first * PAGE).unwrap();
    }
}

/// Returns the guest memory that the files of a full snapshot describe.
fn content_of_full(saved: &Saved) -> Vec<u8> {
    let memory = memory_of(saved);
    assert!(memory.zero.is_empty() && memory.base_data.is_empty());
    let mut content = vec![0; usize::try_from(memory.bytes).unwrap()];
    read(&memory.data, &File::open(saved.memory()).unwrap(), &mut content);
    content
}

/// Returns the guest memory that a diff and its base describe.
fn content_of_diff(diff: &Saved, base: &Saved) -> Vec<u8> {
    let memory = memory_of(diff);
    assert_eq!(memory.base_data, memory_of(base).data);
    let mut content = content_of_full(base);
    for &[first, pages] in memory.zero.as_chunks::<2>().0 {
        content[usize::try_from(first * PAGE).unwrap()..usize::try_from((first + pages) * PAGE).unwrap()]
            .fill(0);
    }
    read(&memory.data, &File::open(diff.memory()).unwrap(), &mut content);
    content
}

/// Returns the numbers of the pages in which two memories differ.
fn differing(one: &[u8], other: &[u8]) -> Vec<usize> {
    let pages = one.chunks(4096).zip(other.chunks(4096)).enumerate();
    pages.filter(|(_, (one, other))| one != other).map(|(page, _)| page).collect()
}

/// Changes memory in every possible way.
fn change(guest: &Guest, seed: u64) {
    guest.run(&format!("mem-dirty 700 {seed}"));
    guest.run(&format!("mem-zero 400 {}", seed + 1));
    // The balloon takes memory, including memory to which the guest has written, and returns a part of it.
    for target in [48, 16] {
        guest.client().set_balloon(target).unwrap();
        until("the balloon", || {
            guest.run("ping");
            guest.counter("balloon", "actual_pages") == u64::from(target) * 256
        });
    }
    guest.run(&format!("mem-dirty 300 {}", seed + 2));
}

/// Makes the guest free memory and report that to the host, and allocate memory again.
fn free_and_take(guest: &Guest, seed: u64) {
    let reported = || guest.counter("balloon", "reported_bytes");
    let before = reported();
    guest.run("mem-free");
    until("reporting", || {
        guest.run("ping");
        reported() >= before + (KEPT << 19)
    });
    assert_eq!(guest.run(&format!("mem-random {} {seed}", KEPT / 2)), (KEPT * 128).to_string());
    guest.run("mem-zero 100 1");
    assert_eq!(guest.run(&format!("mem-random {} {seed}", KEPT / 2)), KEPT_PAGES);
}

/// Saves the guest as a diff and in full, which leaves it paused, and compares the two; returns the diff.
fn assert_complete(guest: &Guest, base: &Saved, swap: Option<&Swap>) -> Saved {
    guest.client().pause().unwrap();
    if swap.is_some() {
        // This swaps out all of the guest's own pages, and some of the monitor's.
        assert!(guest.swap_out() > 4 << 20, "{} KiB are swapped out", guest.status("VmSwap"));
    }
    let diff = guest.save(SaveKind::Diff);
    let count = |kind| diff.pages(kind);
    eprintln!("diff: {:?}", diff.answer.pages);
    assert_eq!(count("own"), count("data") + count("zero") + count("equal"), "{:?}", diff.answer);
    if swap.is_some() {
        assert!(count("swapped") > count("own") / 2, "{:?}", diff.answer);
    } else {
        assert_eq!(count("swapped"), 0, "{:?}", diff.answer);
    }
    assert!(count("zero") > 0 && count("data") > 700, "{:?}", diff.answer);
    if swap.is_some() {
        guest.swap_out();
    }
    let full = guest.save(SaveKind::Full);
    eprintln!("full: {:?}", full.answer.pages);
    assert_eq!(full.pages("own"), full.pages("data") + full.pages("zero"), "{:?}", full.answer);
    let wrong = differing(&content_of_diff(&diff, base), &content_of_full(&full));
    assert_eq!(wrong, [0; 0], "pages that differ");
    diff
}

/// Suspends and restores a guest several times, each time after all kinds of changes.
fn generations(metal: &Metal, count: u64, swap: Option<&Swap>) {
    let mut machine = Machine::new(metal);
    machine.config.vcpus = 2;
    machine.config.memory_mib = MEMORY;
    machine.config.balloon = Some(BalloonConfig { target_mib: 0, free_page_reporting: true });
    let guest = machine.boot();
    assert_eq!(guest.run(&format!("mem-random {KEPT} 1")), KEPT_PAGES);
    change(&guest, 2);
    let base = guest.save(SaveKind::Full);
    guest.kill();
    let mut guest = base.clone_on(metal).restore();
    for generation in 1..=count {
        assert_eq!(guest.run("mem-check"), KEPT_PAGES);
        change(&guest, generation * 10);
        if generation == count {
            free_and_take(&guest, 7);
        }
        if swap.is_some() {
            // The guest continues to work with memory that is swapped out.
            guest.swap_out();
            assert_eq!(guest.run("mem-check"), KEPT_PAGES);
        }
        let diff = assert_complete(&guest, &base, swap);
        guest.kill();
        guest = diff.clone_on(metal).restore();
    }
    assert_eq!(guest.run("mem-check"), KEPT_PAGES);
    // A guest that has done nothing adds almost nothing, and still nothing is lost.
    let idle = guest.save(SaveKind::Diff);
    let full = guest.save(SaveKind::Full);
    assert_eq!(differing(&content_of_diff(&idle, &base), &content_of_full(&full)), [0; 0]);
    guest.kill();
    let guest = full.clone_on(metal).restore();
    assert_eq!(guest.run("mem-check"), KEPT_PAGES);
    guest.power_off();
}

#[test]
fn a_suspend_holds_all_that_has_changed() {
    let Some(metal) = Metal::find() else { return };
    generations(&metal, rounds(1, 5).into(), None);
}

#[test]
fn a_suspend_holds_what_is_swapped_out_too() {
    let Some(metal) = Metal::find() else { return };
    let Some(swap) = Swap::make() else { return };
    generations(&metal, rounds(2, 5).into(), Some(&swap));
}
