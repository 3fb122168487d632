//! A hostile guest harms nobody but itself.

use std::fs::File;
use std::io::{Read as _, Seek as _};

use hearth_test_guest::pattern;
use hearth_vmm::config::{BalloonConfig, DiskSource};

use crate::support::{Guest, Machine, Metal, Tap, disk, rounds};

const MIB: u64 = 1 << 20;
/// Steps of each vCPU.
const STEPS: u32 = 2000;
const VCPUS: u32 = 2;

/// A machine with every device, for the hostile guest.
fn attack(metal: &Metal, tap: &Tap, base: &File, read_only: &File, arguments: &str) -> Guest {
    let mut machine = Machine::new(metal);
    machine.config.kernel = File::open(&metal.hostile).unwrap();
    machine.config.initramfs = None;
    machine.config.vcpus = VCPUS;
    let ram = machine.config.memory_mib;
    machine.config.command_line = format!("ram={ram} cpus={VCPUS} {arguments}");
    let overlay = machine.empty_file("overlay");
    machine.config.disks = vec![
        disk(DiskSource::Overlay { base: base.try_clone().unwrap(), overlay }, "overlaid"),
        disk(DiskSource::ReadOnly(read_only.try_clone().unwrap()), "read-only"),
        disk(DiskSource::Writable(machine.disk_file("raw", 3, 4 * MIB)), "raw"),
    ];
    machine.config.nets = vec![tap.card()];
    machine.config.balloon = Some(BalloonConfig { target_mib: 16, free_page_reporting: true });
    let guest = machine.create();
    guest.ports.echo(1024);
    guest.client().boot().unwrap();
    guest
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
    for seed in 1..=rounds(6, 60) {
        let mut guest = attack(&metal, &tap, &base, &read_only, &format!("seed={seed} steps={STEPS}"));
        guest.console.wait_for("HOSTILE-START");
        let ended = std::thread::spawn(move || guest.wait());
        while !ended.is_finished() {
            assert_eq!(neighbour.run("ping"), "pong");
        }
        let ended = ended.join().unwrap();
        ended.assert_kind("power_off");
        assert_unchanged(&base, 1);
        assert_unchanged(&read_only, 2);
        eprintln!("seed {seed}: {}", ended.report.trim_end());
    }
    assert_eq!(neighbour.run("ping"), "pong");
    neighbour.power_off();
}

#[test]
fn an_access_that_kvm_cannot_decode_ends_the_guest_with_a_reason() {
    let Some(metal) = Metal::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = crate::support::patterned(&folder.path().join("base"), 1, 4 * MIB);
    let guest = attack(&metal, &Tap::new(), &base, &base, "seed=1 steps=1 end=nisv");
    let ended = guest.wait();
    ended.assert_kind("guest_error");
    assert!(ended.report.contains("vCPU 0"), "{ended:?}");
}
