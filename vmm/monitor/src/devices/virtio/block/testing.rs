//! The driver's side of a disk, for the block device's tests.

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::FileExt as _;

use hearth_vmm_api::config::{DiskConfig, DiskSource};
use virtio_bindings::virtio_blk as blk;
use vm_memory::{Bytes as _, GuestAddress};

use super::Block;
use crate::devices::virtio::VirtioDevice as _;
use crate::devices::virtio::testing::{Buffer, Rig};
use crate::files::seek;

pub(super) const OK: u8 = 0;
pub(super) const IO_ERROR: u8 = 1;
pub(super) const UNSUPPORTED: u8 = 2;

const MEMORY: u64 = 8 << 20;
pub(super) const HEADERS: u64 = Rig::<Block>::FREE;
pub(super) const STATUSES: u64 = HEADERS + 0x1_0000;
pub(super) const DATA: u64 = HEADERS + 0x10_0000;

/// Makes a file of `size` bytes on tmpfs, where a sync costs nothing.
pub(super) fn memory_file(size: u64) -> File {
    // SAFETY: the name is a C string; the result is checked before it is owned.
    let file = unsafe {
        let fd = libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0, "memfd");
        File::from_raw_fd(fd)
    };
    file.set_len(size).unwrap();
    file
}

/// Makes a file of `size` bytes on disk.
pub(super) fn disk_file(size: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    file
}

pub(super) fn config(source: DiskSource) -> DiskConfig {
    DiskConfig { source, serial: "disk-0".into(), rate_limiter: None, room: None }
}

pub(super) fn overlay(base: &File, overlay: &File) -> DiskConfig {
    layered(base, &[], overlay)
}

/// Configuration of a disk with layers. All its files except the overlay can only be read.
pub(super) fn layered(base: &File, layers: &[File], overlay: &File) -> DiskConfig {
    let (base, overlay) = (frozen(base), overlay.try_clone().unwrap());
    config(DiskSource::Overlay { base, layers: layers.iter().map(frozen).collect(), overlay })
}

/// Opens a descriptor of the file that can only be read.
pub(super) fn frozen(file: &File) -> File {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

/// All data of a file, without its holes: offsets and bytes.
pub(super) fn content(file: &File) -> Vec<(u64, Vec<u8>)> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while let Some(start) = seek(file, at, libc::SEEK_DATA).unwrap() {
        at = seek(file, start, libc::SEEK_HOLE).unwrap().unwrap();
        let mut bytes = vec![0; usize::try_from(at - start).unwrap()];
        file.read_exact_at(&mut bytes, start).unwrap();
        pieces.push((start, bytes));
    }
    pieces
}

/// A driver with one disk. Requests are numbered; each number has its own header and status byte.
pub(super) struct Guest {
    pub(super) rig: Rig<Block>,
    next: u64,
}

impl Guest {
    pub(super) fn new(config: DiskConfig) -> Self {
        let block = Block::new(config).unwrap();
        let features = block.offered_features();
        Self::with_features(block, features)
    }

    pub(super) fn with_features(block: Block, features: u64) -> Self {
        Self { rig: Rig::new(block, MEMORY, 256, features), next: 0 }
    }

    /// Writes a header, and a status byte with a value that no device writes; returns their addresses.
    pub(super) fn prepare(&mut self, kind: u32, sector: u64) -> (u64, u64) {
        let slot = self.next % 256;
        self.next += 1;
        let (header, status) = (HEADERS + slot * 16, STATUSES + slot);
        self.put(header, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
        self.put(status, &[0xee]);
        (header, status)
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.rig.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(super) fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.rig.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Makes a request available without notifying the device; returns the address of its status byte.
    pub(super) fn offer(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> u64 {
        let (header, status) = self.prepare(kind, sector);
        let mut buffers = vec![Buffer::Read(header, 16)];
        buffers.extend_from_slice(data);
        buffers.push(Buffer::Write(status, 1));
        self.rig.queues[0].add(&buffers);
        status
    }

    pub(super) fn notify(&mut self) {
        self.rig.device.queue_notified(0).unwrap();
    }

    /// Waits for the next finished request; returns the number of bytes that the device reports as written.
    pub(super) fn wait(&mut self) -> u32 {
        loop {
            if let Some((_, written)) = self.rig.queues[0].used() {
                return written;
            }
            self.rig.pump(-1);
        }
    }

    /// Runs one request to its end; returns its status and the number of bytes that the device reports as written.
    pub(super) fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let status = self.offer(kind, sector, data);
        self.notify();
        let written = self.wait();
        (self.get(status, 1)[0], written)
    }

    pub(super) fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.put(DATA, data);
        let length = u32::try_from(data.len()).unwrap();
        let (status, written) = self.request(blk::VIRTIO_BLK_T_OUT, sector, &[Buffer::Read(DATA, length)]);
        assert_eq!(written, 1);
        status
    }

    /// Reads `length` bytes of the disk from `sector` on.
    pub(super) fn read(&mut self, sector: u64, length: usize) -> Vec<u8> {
        self.put(DATA, &vec![0xdd; length]);
        let buffer = Buffer::Write(DATA, u32::try_from(length).unwrap());
        let answer = self.request(blk::VIRTIO_BLK_T_IN, sector, &[buffer]);
        assert_eq!(answer, (OK, u32::try_from(length).unwrap() + 1));
        self.get(DATA, length)
    }

    pub(super) fn flush(&mut self) -> u8 {
        self.request(blk::VIRTIO_BLK_T_FLUSH, 0, &[]).0
    }

    /// Runs a discard or write-zeroes request with these segments (sector, sectors, flags); returns its status.
    pub(super) fn segments(&mut self, kind: u32, segments: &[(u64, u32, u32)]) -> u8 {
        let bytes: Vec<u8> = segments.iter().flat_map(|segment| segment_bytes(*segment)).collect();
        self.put(DATA, &bytes);
        self.request(kind, 0, &[Buffer::Read(DATA, u32::try_from(bytes.len()).unwrap())]).0
    }

    pub(super) fn counter(&self, name: &str) -> u64 {
        self.rig.device.counters().into_iter().find(|(counter, _)| *counter == name).unwrap().1
    }
}

fn segment_bytes((sector, sectors, flags): (u64, u32, u32)) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}
