//! Fuzzes a disk with a layer and an overlay with a hostile driver. Whatever the driver does, base and layer must not
//! change.
#![no_main]

use std::fs::File;
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::FileExt as _;

use hearth_vmm::devices::virtio::block::{Block, Overlay};
use hearth_vmm::devices::virtio::testing::fuzz_device;
use hearth_vmm_api::config::{DiskConfig, DiskSource};
use libfuzzer_sys::fuzz_target;

/// Size of the disk in bytes. It is small, so that requests reach its end.
const DISK: usize = 64 << 10;

/// Creates a file in memory.
fn memory_file() -> Option<File> {
    // SAFETY: the name is a C string; the result is checked before it is owned.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: a fresh descriptor that nothing else owns.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}

/// Makes `file` a layer that contains every other 4 KiB of the disk.
fn freeze(file: &File) -> Option<()> {
    let layer = Overlay::open(file, DISK as u64).ok()?;
    // The block map begins at 4 KiB: one bit for each sector.
    file.write_all_at(&[0xff, 0].repeat(DISK / 8192), 4096).ok()?;
    file.write_all_at(&[0xa5; DISK], layer.data_offset).ok()
}

/// Returns the whole contents of `file`.
fn content(file: &File) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata().ok()?.len()).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

fuzz_target!(|data: &[u8]| {
    let (Some(base), Some(layer), Some(overlay)) = (memory_file(), memory_file(), memory_file()) else {
        return;
    };
    if base.write_all_at(&[0x5a; DISK], 0).is_err() || freeze(&layer).is_none() {
        return;
    }
    let (Ok(base_kept), Ok(layer_kept)) = (base.try_clone(), layer.try_clone()) else { return };
    let before = content(&base_kept).zip(content(&layer_kept));
    let source = DiskSource::Overlay { base, layers: vec![layer], overlay };
    let Ok(device) = Block::new(DiskConfig { source, serial: "fuzz".into(), rate_limiter: None, room: None }) else {
        return;
    };
    fuzz_device(device, data);
    assert!(before == content(&base_kept).zip(content(&layer_kept)), "the base or the layer has changed");
});
