//! A hostile driver against a disk with an overlay. Whatever it does, the base stays as it was.
#![no_main]

use std::fs::File;
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::FileExt as _;

use hearth_vmm::devices::virtio::block::{Block, BlockConfig, DiskBacking};
use hearth_vmm::devices::virtio::testing::fuzz_device;
use libfuzzer_sys::fuzz_target;

/// Size of the disk in bytes: small, so that requests hit its end.
const DISK: usize = 64 << 10;

/// A file in memory.
fn memory_file() -> Option<File> {
    // SAFETY: the name is a C string; the result is checked before it is owned.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: a fresh descriptor that nothing else owns.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}

fuzz_target!(|data: &[u8]| {
    let (Some(base), Some(overlay)) = (memory_file(), memory_file()) else { return };
    let content = vec![0x5a; DISK];
    let Ok(kept) = base.try_clone() else { return };
    if base.write_all_at(&content, 0).is_err() {
        return;
    }
    let backing = DiskBacking::Overlay { base, layers: Vec::new(), overlay };
    let Ok(device) = Block::new(BlockConfig { backing, serial: "fuzz".into(), rate_limiter: None }) else {
        return;
    };
    fuzz_device(device, data);
    let mut after = vec![0; DISK];
    assert!(kept.read_exact_at(&mut after, 0).is_ok() && after == content, "the base has changed");
});
