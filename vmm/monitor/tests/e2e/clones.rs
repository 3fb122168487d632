//! Tests of many machines that are restored from one snapshot and run at the same time.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use hearth_vmm_client::SaveKind;

use crate::support::{Guest, Machine, Metal};

const CLONES: usize = 8;
/// Memory of the guests in MiB.
const MEMORY: u64 = 256;
/// Maximum private memory of an idle clone, in KiB. It consists of the monitor's heap, stacks and relocated data, and
/// of the pages that the guest's kernel and init write when they resume and answer two commands (run queues, timers,
/// sockets, stacks). 1.2 MiB were measured, and half of the bound is left for busier kernels. The rest of the guest's
/// memory is the snapshot's file, which all clones share.
const MOST_PRIVATE: u64 = 4 << 10;

/// Returns a process's memory by kind, in KiB (`/proc/PID/smaps_rollup`).
fn memory(pid: u32) -> BTreeMap<String, u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let figure = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_string(), value.trim().strip_suffix(" kB")?.parse().ok()?))
    };
    rollup.lines().filter_map(figure).collect()
}

fn random(guest: &Guest) -> String {
    guest.run("urandom 32")
}

#[test]
fn eight_clones_share_their_memory_and_no_random_number() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.memory_mib = MEMORY;
    let original = machine.boot();
    assert_eq!(original.run("mem-random 64 1"), "16384");
    original.run("nonce-set c10e");
    let mut numbers = vec![random(&original)];
    let generations: u64 = original.run("interrupts vmgenid").parse().unwrap();
    let saved = original.save(SaveKind::Full);
    original.client().resume().unwrap();

    let clones: Vec<Guest> = (0..CLONES).map(|_| saved.clone_on(&metal).restore()).collect();
    // This is the first command that each clone executes.
    numbers.extend(clones.iter().map(random));
    numbers.push(random(&original));
    numbers.extend(clones.iter().map(|clone| clone.run("getrandom 32")));
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), numbers.len(), "{numbers:#?}");
    for clone in &clones {
        // Each clone is notified once of its new generation; the original is not.
        assert_eq!(clone.run("interrupts vmgenid"), (generations + 1).to_string());
    }
    assert_eq!(original.run("interrupts vmgenid"), generations.to_string());

    for (number, clone) in clones.iter().enumerate() {
        let memory = memory(clone.pid());
        let private = memory["Private_Clean"] + memory["Private_Dirty"] + memory["Private_Hugetlb"];
        eprintln!(
            "clone {number}: {private} KiB private ({} KiB dirty, {} KiB anonymous), {} KiB resident",
            memory["Private_Dirty"], memory["Anonymous"], memory["Rss"]
        );
        assert!(private <= MOST_PRIVATE, "clone {number} has {private} KiB of its own: {memory:?}");
    }

    // The clones are independent of one another.
    clones[0].run("nonce-set 0");
    clones[0].run("mem-dirty 1000 2");
    for clone in &clones {
        assert_eq!(clone.run("mem-check"), "16384");
    }
    assert_eq!((clones[0].run("nonce-get"), clones[1].run("nonce-get")), ("0".into(), "c10e".into()));
    assert_eq!(original.run("nonce-get"), "c10e");
    for guest in clones.into_iter().chain([original]) {
        guest.power_off();
    }
}
