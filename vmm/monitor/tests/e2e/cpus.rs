//! Tests of the vCPUs and their features.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Machine, Metal};

/// Returns the value of a word in the answer to `cpuinfo`.
fn word<'a>(answer: &'a str, name: &str) -> &'a str {
    let word = answer.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.unwrap_or_else(|| panic!("no {name} in {answer}"))
}

fn brings_up(vcpus: u32, online: &str, ran: &str) {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = vcpus;
    let guest = machine.boot();
    let answer = guest.run("cpuinfo");
    assert_eq!((word(&answer, "online"), word(&answer, "ran")), (online, ran), "{answer}");
    guest.power_off();
}

#[test]
fn two_vcpus_are_brought_up_and_run() {
    brings_up(2, "0-1", "0,1");
}

#[test]
fn four_vcpus_are_brought_up_and_run() {
    brings_up(4, "0-3", "0,1,2,3");
}

#[test]
fn sixteen_vcpus_are_brought_up_and_run() {
    brings_up(16, "0-15", "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15");
}

#[test]
fn sve_and_pointer_authentication_are_there_exactly_when_the_host_has_them() {
    let Some(metal) = Metal::find() else { return };
    let host = fs::read_to_string("/proc/cpuinfo").unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("Features")?.split_once(": ")).unwrap().1;
    let host: BTreeSet<&str> = host.split_whitespace().collect();
    let guest = Machine::new(&metal).boot();
    let answer = guest.run("cpuinfo");
    let features: BTreeSet<&str> = word(&answer, "features").split(',').collect();
    for feature in ["sve", "paca", "pacg"] {
        assert_eq!(features.contains(feature), host.contains(feature), "{feature}: {features:?} on {host:?}");
    }
    // The guest sees no feature that the host does not have.
    assert!(features.is_subset(&host), "{features:?} on {host:?}");
    guest.power_off();
}
