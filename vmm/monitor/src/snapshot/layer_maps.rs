//! The checksums of layers' block maps in a saved state: each disk's are those of the layer that the snapshot's folder
//! has of it.

use hearth_proto::vmm::v1::{SavedBoard, SavedDisk, SavedMap, saved_virtio::Device};

fn disks(board: &SavedBoard) -> impl Iterator<Item = &SavedDisk> {
    board.virtio.iter().filter_map(|slot| match &slot.device {
        Some(Device::Disk(disk)) => Some(disk),
        _ => None,
    })
}

/// Returns those of each disk, in the order of the disks.
#[must_use]
pub fn of(board: &SavedBoard) -> Vec<Option<SavedMap>> {
    disks(board).map(|disk| disk.map.clone()).collect()
}

/// Replaces those of disk `index`.
pub fn set(board: &mut SavedBoard, index: usize, map: SavedMap) {
    let disks = board.virtio.iter_mut().filter_map(|slot| match &mut slot.device {
        Some(Device::Disk(disk)) => Some(disk),
        _ => None,
    });
    if let Some(disk) = disks.into_iter().nth(index) {
        disk.map = Some(map);
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::vmm::v1::{SavedBalloon, SavedVirtio};

    use super::*;

    #[test]
    fn disks_are_counted_without_other_devices() {
        let slot = |device| SavedVirtio { device, ..SavedVirtio::default() };
        let disk = || Some(Device::Disk(SavedDisk::default()));
        let balloon = Some(Device::Balloon(SavedBalloon::default()));
        let mut board =
            SavedBoard { virtio: [disk(), None, balloon, disk()].map(slot).into(), ..SavedBoard::default() };
        let map = SavedMap { pages_each: 1, pieces: vec![3], sums: vec![9] };
        set(&mut board, 1, map.clone());
        set(&mut board, 2, map.clone());
        assert_eq!(of(&board), [None, Some(map)]);
    }
}
