//! Which time a restored guest wakes up to.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_vmm::client::SaveKind;
use hearth_vmm::config::DiskSource;
use hearth_vmm::config::restore::RestoreClock;

use crate::support::{Guest, Machine, Metal, Saved, disk};

const SECOND: i128 = 1_000_000_000;
/// How long a guest is suspended: long enough to tell a clock that went on from one that did not.
const SUSPENDED: Duration = Duration::from_secs(6);
const TEN_HOURS: Duration = Duration::from_secs(36_000);
/// What a guest has on its command line that is to sleep for long. Where an RCU grace period is under way when it is
/// saved, that has taken hours when it wakes up, and the first tick finds it stalled before anybody could end it: arm64
/// has nothing that tells a guest that it stood still (x86 has: Linux, arch/x86/kernel/pvclock.c).
const SLEEPS_LONG: &str = "rcupdate.rcu_cpu_stall_suppress=1";
/// Counts what the kernel says when time has gone wrong.
const COMPLAINTS: &str = "dmesg-grep stalls,self-detected,starved,lockup,hung,BUG";

/// A guest's clocks in nanoseconds, and when they were read: between these moments of the host.
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

    /// The shortest and the longest time that can lie between two readings, by the host's clock.
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

/// Timers come at their times, and neither kernel nor work has suffered.
fn assert_at_ease(guest: &Guest) {
    let interrupts = || guest.run("interrupts arch_timer").parse::<u64>().unwrap();
    let before = interrupts();
    let storm = guest.run("timer-storm 1000");
    let after = interrupts();
    eprintln!("timer-storm 1000: {storm}; {} timer interrupts", after - before);
    let counts: Vec<u64> = storm.split(' ').map(|word| word.parse().unwrap()).collect();
    // 100 expirations fit into a second; how many of them wake somebody up depends on how busy the host is, and the
    // last one may come late.
    assert!(counts[0] <= counts[1] && counts[0] <= 102, "{storm}");
    // Each expiration of either 10 ms timer and each tick of both CPUs (250 Hz) is one: some 700 in a second, and the
    // commands around it take their time, too.
    assert!(after - before < 3_000, "{} timer interrupts", after - before);
    assert_eq!(guest.run(COMPLAINTS), "0");
    guest.work("work-check");
}

/// What a guest was restored from, and its disk.
struct Image {
    /// Has the memory that suspends of the guest build on.
    saved: Saved,
    file: File,
}

/// A guest at work, restored from an image.
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
    // Time has to pass: that is what this is about.
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
    // Time goes on from the moment of the save, ten hours later; what it ran before and after counts, too.
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
        // What passes between the clones is nothing to them.
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
