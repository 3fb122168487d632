//! Tests of the time to which a restored guest's clock is set.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::config::restore::RestoreClock;
use hearth_vmm_client::SaveKind;

use crate::support::{Guest, Machine, Metal, Saved, disk};

const SECOND: i128 = 1_000_000_000;
/// How long a guest is suspended: long enough to distinguish a clock that advanced from one that did not.
const SUSPENDED: Duration = Duration::from_secs(6);
const TEN_HOURS: Duration = Duration::from_secs(36_000);
/// Kernel command line argument for a guest that is suspended for hours. If an RCU grace period is in progress when the
/// guest is saved, it seems to have taken hours when the guest is restored, and the first tick reports a stall before
/// the period can end. On arm64 nothing informs a guest that it was suspended (on x86: Linux,
/// arch/x86/kernel/pvclock.c).
const SLEEPS_LONG: &str = "rcupdate.rcu_cpu_stall_suppress=1";
/// Counts the kernel's messages about problems with time.
const COMPLAINTS: &str = "dmesg-grep stalls,self-detected,starved,lockup,hung,BUG";

/// A guest's clocks in nanoseconds, and the host's times before and after they were read.
struct Clocks {
    realtime: i128,
    monotonic: i128,
    asked: (Instant, i128),
    answered: (Instant, i128),
}

fn host_now() -> (Instant, i128) {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (Instant::now(), i128::try_from(time.as_nanos()).unwrap())
}

fn nanoseconds(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap()
}

impl Clocks {
    fn of(guest: &Guest) -> Self {
        let asked = host_now();
        let answer = guest.run("clocks");
        let answered = host_now();
        let clocks: Vec<i128> = answer.split(' ').map(|word| word.parse().unwrap()).collect();
        Self { realtime: clocks[0], monotonic: clocks[1], asked, answered }
    }

    /// Returns the shortest and the longest time that can have passed between two readings, by the host's clock.
    fn between(&self, later: &Self) -> (i128, i128) {
        let shortest = later.asked.0.saturating_duration_since(self.answered.0);
        (nanoseconds(shortest), nanoseconds(later.answered.0.duration_since(self.asked.0)))
    }

    fn assert_right(&self) {
        let (earliest, latest) = (self.asked.1 - SECOND, self.answered.1 + SECOND);
        let off = self.realtime - self.asked.1;
        assert!((earliest..=latest).contains(&self.realtime), "the wall clock is off by {off} ns");
    }
}

/// Checks that timers expire on time, and that neither the kernel nor the work reports problems.
fn assert_at_ease(guest: &Guest) {
    let interrupts = || guest.run("interrupts arch_timer").parse::<u64>().unwrap();
    let before = interrupts();
    let storm = guest.run("timer-storm 1000");
    let after = interrupts();
    eprintln!("timer-storm 1000: {storm}; {} timer interrupts", after - before);
    let counts: Vec<u64> = storm.split(' ').map(|word| word.parse().unwrap()).collect();
    // 100 expirations fit into a second. How many of them wake the thread depends on how busy the host is, and the last
    // one may come late.
    assert!(counts[0] <= counts[1] && counts[0] <= 102, "{storm}");
    // Each expiration of the two 10 ms timers and each tick of the two CPUs (250 Hz) is one interrupt: about 700 in a
    // second. The commands before and after take time, too.
    assert!(after - before < 3_000, "{} timer interrupts", after - before);
    assert_eq!(guest.run(COMPLAINTS), "0");
    guest.work("work-check");
}

/// The snapshot from which a guest was restored, and the guest's disk.
struct Image {
    /// Contains the memory on which suspends of the guest build.
    saved: Saved,
    file: File,
}

/// Boots a working guest, takes a snapshot of it, and restores it from that.
fn working_guest(metal: &Metal, argument: &str) -> (Guest, Image) {
    let mut machine = Machine::new(metal);
    machine.config.vcpus = 2;
    machine.argument(argument);
    let file = machine.disk_file("disk", 1, 8 << 20);
    machine.config.disks = vec![disk(DiskSource::Writable(file.try_clone().unwrap()), "disk")];
    let guest = machine.boot();
    guest.run(&format!("clock-set {}", host_now().1));
    guest.run("work-start vda");
    guest.work("work-check");
    let image = guest.save(SaveKind::Full);
    guest.kill();
    let guest = restore(&image, metal, RestoreClock::Advance, &file);
    (guest, Image { saved: image, file })
}

fn restore(saved: &Saved, metal: &Metal, clock: RestoreClock, disk: &File) -> Guest {
    let disks = vec![DiskSource::Writable(disk.try_clone().unwrap())];
    saved.clone_on(metal).disks(disks).clock(clock).restore()
}

#[test]
fn a_guest_that_was_suspended_knows_what_time_it_is() {
    let Some(metal) = Metal::find() else { return };
    let (guest, image) = working_guest(&metal, "");
    let before = Clocks::of(&guest);
    before.assert_right();
    let suspended = guest.save(SaveKind::Diff);
    assert_eq!(suspended.answer.base_id, image.saved.answer.snapshot_id);
    guest.kill();
    // Time must pass here: this is what the test is about.
    thread::sleep(SUSPENDED);
    let guest = restore(&suspended, &metal, RestoreClock::Advance, &image.file);
    let after = Clocks::of(&guest);
    after.assert_right();
    let (shortest, longest) = before.between(&after);
    let passed = after.monotonic - before.monotonic;
    eprintln!("between {shortest} and {longest} ns on the host, {passed} ns in the guest");
    assert!((shortest - SECOND..=longest + SECOND).contains(&passed), "{passed} ns");
    assert!(passed > nanoseconds(SUSPENDED) - SECOND, "{passed} ns");
    assert_at_ease(&guest);
    guest.power_off();
}

#[test]
fn ten_hours_are_nothing_to_a_guest() {
    let Some(metal) = Metal::find() else { return };
    let (guest, image) = working_guest(&metal, SLEEPS_LONG);
    let before = Clocks::of(&guest);
    let suspended = guest.save(SaveKind::Diff);
    assert_eq!(suspended.answer.base_id, image.saved.answer.snapshot_id);
    guest.kill();
    let guest = restore(&suspended, &metal, RestoreClock::AdvanceBy(TEN_HOURS), &image.file);
    let after = Clocks::of(&guest);
    let (_, longest) = before.between(&after);
    // Time continues from the moment of the save, ten hours later; the time that the guest ran before and after counts,
    // too.
    let expected = nanoseconds(TEN_HOURS)..=nanoseconds(TEN_HOURS) + longest + SECOND;
    for (name, passed) in
        [("monotonic", after.monotonic - before.monotonic), ("wall", after.realtime - before.realtime)]
    {
        eprintln!("{name}: {passed} ns, of which {longest} ns at most passed on the host");
        assert!(expected.contains(&passed), "the {name} clock went on by {passed} ns");
    }
    assert_at_ease(&guest);
    guest.power_off();
}

#[test]
fn time_goes_on_from_the_snapshot_in_every_clone() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let before = Clocks::of(&guest);
    let saved = guest.save(SaveKind::Full);
    let until_saved = nanoseconds(before.asked.0.elapsed());
    guest.kill();
    for _ in 0..2 {
        // The time that passes between the clones must have no effect on them.
        thread::sleep(SUSPENDED / 2);
        let start = Instant::now();
        let clone = saved.clone_on(&metal).restore();
        let after = Clocks::of(&clone);
        let lived = nanoseconds(start.elapsed()) + until_saved;
        for (name, passed) in
            [("monotonic", after.monotonic - before.monotonic), ("wall", after.realtime - before.realtime)]
        {
            eprintln!("{name}: {passed} ns; {lived} ns at most in the guest's life");
            assert!((1..=lived).contains(&passed), "the {name} clock went on by {passed} ns");
        }
        clone.kill();
    }
}
