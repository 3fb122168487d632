//! Tests of the block device on a disk with layers, from the driver's side.

use std::os::unix::fs::FileExt as _;

use hearth_vmm_api::config::LAYERS_MAX;
use virtio_bindings::virtio_blk as blk;

use super::super::testing::{Guest, OK, content, disk_file, layered, memory_file};
use crate::devices::virtio::VirtioDevice as _;

const MIB: u64 = 1 << 20;
/// Number of sectors of the disk.
const SECTORS: usize = 8192;

/// Adds a layer to `layers` that holds the changes that `change` makes to the disk over them.
fn add_layer(base: &std::fs::File, layers: &mut Vec<std::fs::File>, change: impl FnOnce(&mut Guest)) {
    let top = disk_file(0);
    let mut guest = Guest::new(layered(base, layers, &top));
    change(&mut guest);
    guest.rig.device.quiesce().unwrap();
    drop(guest);
    layers.push(top);
}

#[test]
fn a_driver_reads_through_all_layers_and_writes_to_the_overlay_alone() {
    let base = disk_file(4 * MIB);
    let mut expected: Vec<u8> = (0..SECTORS * 512).map(|n| u8::try_from(n / 512 % 251).unwrap()).collect();
    base.write_all_at(&expected, 0).unwrap();
    let mut layers = Vec::new();
    // Every layer has one sector in eight to itself, and one range that all layers have; layers 2 and 5 discard there.
    for layer in 0..LAYERS_MAX {
        let byte = 0xa0 + u8::try_from(layer).unwrap();
        add_layer(&base, &mut layers, |guest| {
            for sector in (layer..512).step_by(8) {
                assert_eq!(guest.write(sector as u64, &[byte; 512]), OK);
                expected[sector * 512..][..512].fill(byte);
            }
            let common = 4000 + layer..4020;
            let length = common.len() * 512;
            if layer % 3 == 2 {
                let segment = (common.start as u64, u32::try_from(common.len()).unwrap(), 0);
                assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[segment]), OK);
                expected[common.start * 512..][..length].fill(0);
            } else {
                assert_eq!(guest.write(common.start as u64, &vec![byte; length]), OK);
                expected[common.start * 512..][..length].fill(byte);
            }
        });
    }
    let before: Vec<_> = layers.iter().chain([&base]).map(content).collect();
    let top = disk_file(0);
    let mut guest = Guest::new(layered(&base, &layers, &top));
    let read = |guest: &mut Guest| [guest.read(0, 2 << 20), guest.read(4096, 2 << 20)].concat();
    let all = [guest.read(0, 1 << 20), guest.read(2048, 1 << 20)].concat();
    assert!(all == expected[..2 << 20], "the layers' sectors");
    assert!(read(&mut guest) == expected);
    for (kind, sector, sectors, flags) in [
        (blk::VIRTIO_BLK_T_DISCARD, 3, 100, 0),
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, 4010, 3, 1),
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, 4015, 3, 0),
    ] {
        assert_eq!(guest.segments(kind, &[(sector, sectors, flags)]), OK);
        expected[sector as usize * 512..][..sectors as usize * 512].fill(0);
    }
    assert_eq!((guest.write(200, &[0x77; 2048]), guest.flush()), (OK, OK));
    expected[200 * 512..][..2048].fill(0x77);
    assert!(read(&mut guest) == expected);
    drop(guest);
    assert!(read(&mut Guest::new(layered(&base, &layers, &top))) == expected, "after a flush and a death");
    let after: Vec<_> = layers.iter().chain([&base]).map(content).collect();
    assert!(before == after, "a layer or the base was written");
}

#[test]
fn a_discard_in_a_layer_hides_what_lies_below_and_a_death_shows_the_layers_again() {
    let base = memory_file(4 * MIB);
    base.write_all_at(&[1; 4096], 0).unwrap();
    let mut layers = Vec::new();
    add_layer(&base, &mut layers, |guest| assert_eq!(guest.write(2, &[2; 1024]), OK));
    add_layer(&base, &mut layers, |guest| {
        assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[(1, 2, 0)]), OK);
    });
    let top = memory_file(0);
    let mut guest = Guest::new(layered(&base, &layers, &top));
    let layers_alone = [[1; 512], [0; 512], [0; 512], [2; 512], [1; 512]].concat();
    assert_eq!(guest.read(0, 5 * 512), layers_alone);
    assert_eq!(guest.write(1, &[3; 1024]), OK);
    assert_eq!(guest.read(0, 5 * 512), [[1; 512], [3; 512], [3; 512], [2; 512], [1; 512]].concat());
    drop(guest);
    assert_eq!(Guest::new(layered(&base, &layers, &top)).read(0, 5 * 512), layers_alone, "never flushed");
}

#[test]
fn a_layer_is_read_by_many_disks_and_each_has_its_own_writes() {
    let base = memory_file(4 * MIB);
    let mut layers = Vec::new();
    add_layer(&base, &mut layers, |guest| assert_eq!(guest.write(0, &[1; 1024]), OK));
    let mut clones: Vec<Guest> =
        (0..3).map(|_| Guest::new(layered(&base, &layers, &memory_file(0)))).collect();
    for (byte, guest) in (10..).zip(&mut clones) {
        assert_eq!(guest.write(1, &[byte; 512]), OK);
    }
    for (byte, guest) in (10..).zip(&mut clones) {
        assert_eq!(guest.read(0, 1536), [[1; 512], [byte; 512], [0; 512]].concat());
    }
}
