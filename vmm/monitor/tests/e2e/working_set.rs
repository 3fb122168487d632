//! Tests of working sets: the pages that a restored guest needs first are recorded, and are loaded before they are
//! needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use hearth_proto::vmm::v1::WorkingSetSaved;
use hearth_vmm_client::SaveKind;

use crate::support::{DiskFolder, Guest, HugePages, Machine, Metal, Saved, Swap, create};

/// The command that a clone executes here.
const FIRST_COMMAND: &str = "mem-check";
/// The answer to the command: the number of pages in 8 MiB.
const ANSWER: &str = "2048";

/// Returns the number of page faults of a monitor's vCPU thread so far, minor and major.
fn vcpu_faults(guest: &Guest) -> (u64, u64) {
    let tasks = fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap();
    let stat = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
    let vcpu = stat.into_iter().find(|stat| stat.contains("(vcpu")).expect("a thread called vcpu…");
    // The fields behind the name are: state, ppid, pgrp, session, tty, tpgid, flags, minflt, cminflt, majflt (proc(5)).
    let fields: Vec<&str> = vcpu.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[7].parse().unwrap(), fields[9].parse().unwrap())
}

/// Restores with or without a working set, and runs the command; returns the page faults of the guest's vCPU.
fn faults(saved: &Saved, metal: &Metal, working_set: Option<&Path>) -> (Guest, (u64, u64)) {
    let mut clone = saved.clone_on(metal);
    clone.config.working_set = working_set.map(|path| File::open(path).unwrap());
    let guest = clone.restore();
    assert_eq!(guest.run(FIRST_COMMAND), ANSWER);
    let faults = vcpu_faults(&guest);
    (guest, faults)
}

/// Records the working set of the command in the file `working-set` of the snapshot's folder.
fn record(saved: &Saved, metal: &Metal) -> (Guest, PathBuf, WorkingSetSaved) {
    let mut clone = saved.clone_on(metal);
    clone.config.userfaultfd = Some(File::options().read(true).write(true).open("/dev/userfaultfd").unwrap());
    let recorded = clone.restore();
    assert_eq!(recorded.run(FIRST_COMMAND), ANSWER);
    let path = saved.folder.path().join("working-set");
    let set = recorded.client().save_working_set(create(&path)).unwrap();
    (recorded, path, set)
}

#[test]
fn a_recorded_working_set_is_there_before_the_guest_asks() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    guest.run("mem-fill 32");
    assert_eq!(guest.run("mem-random 8 1"), ANSWER);
    guest.run("nonce-set ca5cade");
    let saved = guest.save(SaveKind::Full);
    guest.kill();

    // One clone is recorded.
    let (recorded, path, set) = record(&saved, &metal);
    eprintln!("{} pages were touched, {} of them written", set.touched_pages, set.written_pages);
    assert!(set.touched_pages >= 2048 && set.touched_pages < 8192, "{set:?}");
    assert!(set.written_pages > 0 && set.written_pages < set.touched_pages, "{set:?}");
    assert!(recorded.counter("working_set", "touched_pages") >= set.touched_pages);
    // The recorded clone is a machine like others, and can be suspended.
    assert_eq!(recorded.run("mem-dirty 100 2"), "100");
    let suspended = recorded.save(SaveKind::Diff);
    recorded.kill();
    let guest = suspended.clone_on(&metal).restore();
    assert_eq!((guest.run("nonce-get"), guest.run("mem-check")), ("ca5cade".into(), ANSWER.into()));
    guest.client().save_working_set(create(&saved.folder.path().join("none"))).unwrap_err();
    guest.kill();

    // Other clones have fewer page faults with the recorded working set.
    let (without, plain) = faults(&saved, &metal, None);
    assert_eq!(without.counter("restore_pages", "read"), 0);
    without.kill();
    let (with, helped) = faults(&saved, &metal, Some(&path));
    assert_eq!(with.counter("restore_pages", "working_set"), set.touched_pages);
    eprintln!("the vCPU's faults, minor and major: {plain:?} without the working set, {helped:?} with it");
    assert!(helped.0 + helped.1 < plain.0 + plain.1);
    assert_eq!(with.run("nonce-get"), "ca5cade");
    with.power_off();

    // The working set also works for a suspend, which builds on the same image, but not with another snapshot.
    let mut clone = suspended.clone_on(&metal);
    clone.config.working_set = Some(File::open(&path).unwrap());
    let guest = clone.restore();
    assert_eq!((guest.run("nonce-get"), guest.run("mem-check")), ("ca5cade".into(), ANSWER.into()));
    let other = guest.save(SaveKind::Full);
    guest.kill();
    let mut clone = other.clone_on(&metal);
    clone.config.working_set = Some(File::open(&path).unwrap());
    let message = clone.refused();
    assert!(message.contains("working set was recorded of snapshot"), "{message}");
}

#[test]
fn zeros_survive_a_suspend_under_memory_pressure_after_a_cold_start() {
    let Some(metal) = Metal::find() else { return };
    let Some(disk) = DiskFolder::make() else { return };
    let _swap = Swap::make().unwrap();
    let _huge_pages = HugePages::always();
    let guest = Machine::new(&metal).boot();
    assert_eq!(guest.run("mem-random 8 1"), ANSWER);
    let saved = guest.save(SaveKind::Full);
    guest.kill();
    let (recorded, working_set, _) = record(&saved, &metal);
    recorded.kill();

    let (memory, working_set) = (disk.take(&saved.memory()), disk.take(&working_set));
    let mut clone = saved.clone_on(&metal);
    clone.config.memory = DiskFolder::open_cold(&memory);
    clone.config.working_set = Some(DiskFolder::open_cold(&working_set));
    let guest = clone.restore();
    let copied = guest.counter("restore_pages", "working_set_copied");
    assert!(copied > 2000, "{copied} pages were copied");
    assert_eq!(guest.run("mem-zero 1000 2"), "1000");
    // The guest's memory costs what it has written, and not huge pages.
    let smaps = fs::read_to_string(format!("/proc/{}/smaps_rollup", guest.pid())).unwrap();
    assert!(
        smaps.lines().any(|line| line.starts_with("AnonHugePages:") && line.ends_with(" 0 kB")),
        "{smaps}"
    );
    guest.client().pause().unwrap();
    assert!(guest.swap_out() > 4 << 20);
    let suspended = guest.save(SaveKind::Diff);
    eprintln!("diff: {:?}", suspended.answer.pages);
    assert!(suspended.pages("zero") >= 1000, "{:?}", suspended.answer);
    guest.kill();
    let guest = suspended.clone_on(&metal).restore();
    assert_eq!(guest.run("mem-check"), ANSWER);
    guest.power_off();
}
