//! Tests that memory that the guest does not need is returned to the host.

use std::fs;
use std::time::Instant;

use hearth_vmm_api::config::BalloonConfig;

use crate::support::{Guest, Machine, Metal, TEST_TIMEOUT};

/// Memory of the guests in MiB, and how much of it they use temporarily.
const MEMORY: u64 = 256;
const USED: u64 = 96;
/// Memory that the balloon takes, in MiB: most of what the guest has used.
const TAKEN: u32 = 150;

/// Returns a monitor's resident memory, including its guest's, in MiB.
fn resident(guest: &Guest) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", guest.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// Sends commands to the guest until `done` returns true. This lets the guest make progress.
fn until(guest: &Guest, what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < TEST_TIMEOUT,
            "{what} does not happen; {} MiB are resident",
            resident(guest)
        );
        guest.run("ping");
    }
}

fn boot_with(metal: &Metal, free_page_reporting: bool) -> Guest {
    let mut machine = Machine::new(metal);
    machine.config.memory_mib = MEMORY;
    machine.config.balloon = Some(BalloonConfig { target_mib: 0, free_page_reporting });
    machine.boot()
}

#[test]
fn an_inflated_balloon_gives_memory_back_to_the_host() {
    let Some(metal) = Metal::find() else { return };
    let guest = boot_with(&metal, false);
    guest.run(&format!("mem-fill {USED}"));
    guest.run("mem-free");
    let before = resident(&guest);
    assert!(before > USED, "{before} MiB");

    guest.client().set_balloon(TAKEN).unwrap();
    until(&guest, "inflating", || guest.counter("balloon", "actual_pages") >= u64::from(TAKEN) * 256);
    let after = resident(&guest);
    assert!(after + USED / 2 < before, "{before} MiB before, {after} MiB after");
    let total: u64 = guest.run("meminfo").split(' ').nth(1).unwrap().parse().unwrap();
    assert!(total < 96 * 1024, "{total} KiB are still free in the guest");

    guest.client().set_balloon(0).unwrap();
    until(&guest, "deflating", || guest.counter("balloon", "actual_pages") == 0);
    guest.run(&format!("mem-fill {USED}"));
    guest.power_off();
}

#[test]
fn free_pages_are_reported_and_given_back() {
    let Some(metal) = Metal::find() else { return };
    let guest = boot_with(&metal, true);
    guest.run(&format!("mem-fill {USED}"));
    let before = resident(&guest);
    guest.run("mem-free");
    until(&guest, "reporting", || resident(&guest) + USED / 2 < before);
    assert!(guest.counter("balloon", "reported_bytes") >= (USED / 2) << 20);
    // Memory that was given back can be used again.
    guest.run(&format!("mem-fill {USED}"));
    guest.power_off();
}

#[test]
fn the_entropy_device_gives_bytes_that_differ() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    let (one, other) = (guest.run("rng 64"), guest.run("rng 64"));
    assert!(one.len() == 128 && one != other, "{one} {other}");
    guest.power_off();
}
