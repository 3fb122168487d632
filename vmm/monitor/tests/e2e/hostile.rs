//! Tests that a hostile guest harms nothing but itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};

use hearth_test_guest::pattern;
use hearth_vmm_api::config::{BalloonConfig, DiskSource};
use hearth_vmm_client::Client;

use crate::support::{Guest, Machine, Metal, Tap, disk, rounds};

const MIB: u64 = 1 << 20;
/// Number of steps of each vCPU.
const STEPS: u32 = 800;
const VCPUS: u32 = 2;

/// Creates a machine with every device for the hostile guest.
fn create(metal: &Metal, tap: &Tap, base: &File, read_only: &File, arguments: &str) -> Guest {
    let mut machine = Machine::new(metal);
    machine.config.kernel = Some(File::open(&metal.hostile).unwrap());
    machine.config.initramfs = None;
    machine.config.vcpus = VCPUS;
    let ram = machine.config.memory_mib;
    machine.config.command_line = format!("ram={ram} cpus={VCPUS} {arguments}");
    let overlay = machine.empty_file("overlay");
    machine.config.disks = vec![
        disk(
            DiskSource::Overlay { base: base.try_clone().unwrap(), layers: Vec::new(), overlay },
            "overlaid",
        ),
        disk(DiskSource::ReadOnly(read_only.try_clone().unwrap()), "read-only"),
        disk(DiskSource::Writable(machine.disk_file("raw", 3, 4 * MIB)), "raw"),
    ];
    machine.config.nets = vec![tap.card()];
    machine.config.balloon = Some(BalloonConfig { target_mib: 16, free_page_reporting: true });
    let guest = machine.create();
    guest.ports.echo(1024);
    guest
}

/// What the attacks have reached: counters by `group/name`, with the largest value of all runs.
#[derive(Default)]
struct Reached(BTreeMap<String, u64>);

impl Reached {
    /// Records the counters of a monitor, unless it has exited already.
    fn note(&mut self, client: &Client) {
        let Ok(metrics) = client.metrics() else { return };
        for group in &metrics.groups {
            for counter in &group.counters {
                let largest = self.0.entry(format!("{}/{}", group.name, counter.name)).or_default();
                *largest = counter.value.max(*largest);
            }
        }
    }

    fn assert(&self, counters: &[&str]) {
        for counter in counters {
            assert!(self.0.get(*counter).is_some_and(|value| *value > 0), "no {counter}: {:?}", self.0);
        }
    }
}

fn assert_unchanged(mut file: &File, seed: u64) {
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!((content.len() as u64, pattern::mismatch(seed, 0, &content)), (4 * MIB, None));
}

#[test]
fn a_hostile_guest_ends_with_a_reason_and_harms_nobody() {
    let Some(metal) = Metal::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = crate::support::patterned(&folder.path().join("base"), 1, 4 * MIB);
    crate::support::patterned(&folder.path().join("read-only"), 2, 4 * MIB);
    let read_only = File::open(folder.path().join("read-only")).unwrap();
    let tap = Tap::new();
    let neighbour = Machine::new(&metal).boot();
    let mut reached = Reached::default();
    for seed in 1..=rounds(6, 60) {
        let mut guest = create(&metal, &tap, &base, &read_only, &format!("seed={seed} steps={STEPS}"));
        let exit = guest.waiting_for_exit();
        guest.client().boot().unwrap();
        let exit = std::thread::spawn(move || exit.answer());
        while !exit.is_finished() {
            assert_eq!(neighbour.run("ping"), "pong");
            reached.note(guest.client());
        }
        guest.console.wait_for("HOSTILE-DONE");
        guest.wait().assert_kind("power_off");
        assert_unchanged(&base, 1);
        assert_unchanged(&read_only, 2);
    }
    eprintln!("the most of each counter: {:?}", reached.0);
    // The attacks have reached the devices, and devices have stopped because of them.
    reached.assert(&["disk0/reads", "disk0/writes", "disk2/discards", "net0/tx_packets", "vsock/tx_packets"]);
    reached.assert(&["rng/bytes", "vcpu1/exits_mmio_write"]);
    reached.assert(&["disk0/device_failures", "net0/device_failures", "vsock/device_failures"]);
    reached.assert(&["balloon/device_failures", "rng/device_failures"]);
    assert_eq!(neighbour.run("ping"), "pong");
    neighbour.power_off();
}

#[test]
fn an_access_that_kvm_cannot_decode_ends_the_guest_with_a_reason() {
    let Some(metal) = Metal::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = crate::support::patterned(&folder.path().join("base"), 1, 4 * MIB);
    let guest = create(&metal, &Tap::new(), &base, &base, "seed=1 steps=1 end=nisv");
    guest.client().boot().unwrap();
    let ended = guest.wait();
    ended.assert_kind("guest_error");
    assert!(ended.report.contains("vCPU 0"), "{ended:?}");
}

#[test]
fn a_guest_has_neither_el2_nor_an_its() {
    let Some(metal) = Metal::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = crate::support::patterned(&folder.path().join("base"), 1, 4 * MIB);
    let mut guest = create(&metal, &Tap::new(), &base, &base, "seed=1 steps=0 end=el2");
    guest.client().boot().unwrap();
    let found = guest.console.wait_for("WALLS");
    assert_eq!(found, "WALLS el=1 gicd_lpis=0 gicr_plpis=0 fdt_its=0");
    // What comes next is either the undefined instruction or what the guest does if the access succeeds.
    let next = guest.console.wait_for("HOSTILE-E");
    assert_eq!(next, "HOSTILE-EXCEPTION");
    guest.wait().assert_kind("power_off");
}
