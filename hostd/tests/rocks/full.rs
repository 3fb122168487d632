//! A store on a disk that is full: what ends and deletes is stored, everything else when there is room again.

use hearth_hostd::store::{CommitError, Reserved};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::super::*;

/// Size of the disk. The reserve has 64 MiB, and is made where twice as much is free.
const SIZE: &str = "size=200m";
/// Most attempts of something that comes about by and by.
const TRIES: u32 = 600;

/// A small disk, which goes with it.
struct Disk {
    at: TempDir,
}

impl Disk {
    /// None for whoever may not mount.
    fn new() -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let data = std::ffi::CString::new(SIZE).unwrap();
        match mount("tmpfs", at.path(), "tmpfs", MountFlags::empty(), Some(data.as_c_str())) {
            Ok(()) => Some(Self { at }),
            Err(error) => {
                eprintln!("not run: mounting a tmpfs: {error}");
                None
            }
        }
    }

    fn store(&self) -> Reserved<RocksStore> {
        let path = self.at.path().join("store");
        Reserved::open(&path, 0, || open(&path)).unwrap()
    }

    /// Fills the disk to the last byte.
    fn fill(&self) {
        hearth_testing::fill_disk(&self.at.path().join("fill"));
    }

    fn clear(&self) {
        fs::remove_file(self.at.path().join("fill")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.at.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// Stores a value; returns whether there was room.
fn stored(store: &Reserved<RocksStore>, batch: Batch) -> bool {
    match store.commit(&[batch]).remove(0) {
        Ok(()) => true,
        Err(CommitError::Store(StoreError::NoRoom { .. })) => false,
        Err(error) => panic!("{error}"),
    }
}

fn value(key: u32, bytes: u32) -> Batch {
    let noise = (0..bytes / 200).flat_map(|part| noise(key.wrapping_mul(100_003) ^ part)).collect();
    Batch::new().put(T, key.to_be_bytes().to_vec(), noise)
}

#[test]
fn on_a_full_disk_ends_are_stored_also_by_the_next_daemon_and_all_else_when_there_is_room() {
    let Some(disk) = Disk::new() else { return };
    let store = disk.store();
    assert!(stored(&store, value(0, 1000)));
    disk.fill();
    // Until also the room is used up that the log has taken beforehand.
    let first_refused = (1..).find(|key| !stored(&store, value(*key, 64 << 10))).unwrap();
    let kept = |store: &Reserved<RocksStore>| {
        for key in 0..first_refused {
            assert!(store.get(T, &key.to_be_bytes()).unwrap().is_some(), "{key} was acknowledged");
        }
    };
    kept(&store);
    let endings = first_refused + 1..first_refused + 20;
    for key in endings.clone() {
        assert!(stored(&store, value(key, 1000).ending()), "{key}");
        assert!(!stored(&store, value(u32::MAX, 1000)), "nothing else");
    }
    // The next daemon begins with what is left of the reserve.
    drop(store);
    let store = disk.store();
    kept(&store);
    assert!(!stored(&store, value(u32::MAX, 1000)));
    assert!(stored(&store, value(first_refused, 1000).ending()));

    disk.clear();
    assert!((0..TRIES).any(|_| {
        let has_room = stored(&store, value(u32::MAX, 1000));
        if !has_room {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        has_room
    }));
    let reserve = disk.at.path().join("store/reserve");
    assert!(reserve.exists(), "the reserve is back");

    // One that begins on a full disk gives the reserve up.
    disk.fill();
    drop(store);
    let store = disk.store();
    assert!(!reserve.exists());
    kept(&store);
    assert!(!stored(&store, value(u32::MAX, 1000)));
    assert!(stored(&store, value(first_refused, 1000).ending()));
}
