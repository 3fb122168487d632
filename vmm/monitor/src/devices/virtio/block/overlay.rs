//! The overlay file, which holds what a microVM has written over its read-only base.
//!
//! ```text
//! 0         4 KiB               data offset (a multiple of 1 MiB)
//! ├─ header ─┼─ block map ──┄ hole ─┼─ data, laid out as the disk is; holes where nothing was written ─┤
//! ```
//!
//! The header (little-endian): magic, version, disk size, data offset, CRC-32 of the preceding fields. A set bit
//! in the map means that the sector is read from the data area, where a hole reads as zeros; discarded and zeroed
//! sectors are stored in that way. A clear bit means that the sector is read from below: from the base or another
//! overlay. The writer of the map ensures that data is durable before the bits that point to it.
//!
//! A *layer* is a frozen overlay: the file is no longer written, and any number of disks read it.
//! [`locate`] searches overlays that lie on top of each other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::SECTOR_SIZE;
use super::map::{MAP_PAGE_SIZE, OverlayMap};
use crate::files::seek;

/// The first bytes of an overlay file.
const MAGIC: [u8; 8] = *b"HRTHOVLY";
/// The format version that this code writes, and the only one that it reads.
const VERSION: u32 = 1;
/// Offset of the block map in the file, in bytes.
pub(super) const MAP_OFFSET: u64 = 4096;
/// Alignment of the data area in bytes.
const DATA_ALIGNMENT: u64 = 1 << 20;
/// The largest disk that may have an overlay, in bytes: the size of the largest file on ext4, minus the map.
pub const MAX_OVERLAY_DISK: u64 = 15 << 40;
/// Length in bytes of the fields that the checksum covers: magic, version, disk size, data offset.
const CHECKED_LEN: usize = 28;
pub(super) const HEADER_LEN: usize = CHECKED_LEN + 4;

/// Why an overlay could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The file is not a regular file.
    #[error("the overlay is not a regular file; give one that an earlier run left (a new one begins empty)")]
    NotAFile,
    /// The file of a layer is empty: it does not even have a header.
    #[error("the file is empty, but a layer is an overlay that was frozen; give that overlay's file")]
    Empty,
    /// The disk is larger than the format allows.
    #[error("a disk of {0} bytes is too large for an overlay; the limit is {MAX_OVERLAY_DISK} bytes")]
    DiskTooLarge(u64),
    /// The file is something else, or an overlay whose creation was interrupted.
    #[error(
        "the file is not an overlay: it does not begin with the overlay magic; give one that an earlier run left \
         (a new one begins empty)"
    )]
    NotAnOverlay,
    /// Another release has written the file in another format.
    #[error("the overlay has format version {0}, this release reads version {VERSION}")]
    Version(u32),
    /// The header was damaged.
    #[error("the overlay's header is damaged: checksum {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The checksum in the file.
        found: u32,
        /// The checksum computed from the header.
        computed: u32,
    },
    /// The overlay belongs to another disk.
    #[error(
        "the overlay is for a disk of {overlay} bytes, but this one has {disk}; it belongs to another disk"
    )]
    OtherDisk {
        /// Disk size in the overlay's header.
        overlay: u64,
        /// Size of the disk, in bytes.
        disk: u64,
    },
    /// The header is intact but contains an impossible disk size.
    #[error("the overlay is for a disk of {0} bytes, which is not a positive multiple of 512")]
    DiskSize(u64),
    /// The header is intact but contains a data offset that this version never writes.
    #[error("the overlay's data offset is {0}, which version {VERSION} never writes")]
    DataOffset(u64),
    /// The end of the file is missing.
    #[error("the overlay is truncated: {found} bytes instead of {expected}; restore it from its source")]
    Truncated {
        /// Length of the file in bytes.
        found: u64,
        /// Smallest valid length of the file in bytes.
        expected: u64,
    },
    /// The host refused an operation.
    #[error("{what} of the overlay failed: {source}")]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// Error from the host.
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> OverlayError {
    move |source| OverlayError::Io { what, source }
}

/// An opened overlay: its map and the offset of its data.
#[derive(Debug)]
pub struct Overlay {
    /// The sectors that the overlay contains.
    pub map: OverlayMap,
    /// Offset of the disk's first byte in the file, in bytes.
    pub data_offset: u64,
    /// Whether the overlay was created by this call of [`Self::open`].
    pub fresh: bool,
}

impl Overlay {
    /// Opens `file` as the overlay of a disk of `disk_size` bytes, a multiple of 512. An empty file becomes a
    /// new overlay, which is durable after the first flush.
    ///
    /// # Errors
    /// [`OverlayError`] when the file is not an overlay, is damaged, belongs to another disk, or cannot be read or
    /// written.
    pub fn open(file: &File, disk_size: u64) -> Result<Self, OverlayError> {
        if disk_size > MAX_OVERLAY_DISK {
            return Err(OverlayError::DiskTooLarge(disk_size));
        }
        if regular_length(file)? > 0 {
            return Self::open_layer(file, disk_size);
        }
        write_header(file, disk_size).map_err(io_error("writing the header"))?;
        file.set_len(file_length(disk_size)).map_err(io_error("sizing"))?;
        let map = OverlayMap::new(disk_size / SECTOR_SIZE);
        Ok(Self { map, data_offset: data_offset(disk_size), fresh: true })
    }

    /// Opens `file` as a layer of a disk of `disk_size` bytes, a multiple of 512. The file is only read.
    ///
    /// # Errors
    /// [`OverlayError`] when the file is empty, is not an overlay, is damaged, belongs to another disk, or cannot be
    /// read.
    pub fn open_layer(file: &File, disk_size: u64) -> Result<Self, OverlayError> {
        let found = regular_length(file)?;
        if found == 0 {
            return Err(OverlayError::Empty);
        }
        let (overlay, offset) = read_header(file)?;
        if overlay != disk_size {
            return Err(OverlayError::OtherDisk { overlay, disk: disk_size });
        }
        // This check is also needed where the disk size comes from another overlay's header.
        if disk_size > MAX_OVERLAY_DISK {
            return Err(OverlayError::DiskTooLarge(disk_size));
        }
        let data_offset = data_offset(disk_size);
        if offset != data_offset {
            return Err(OverlayError::DataOffset(offset));
        }
        let expected = file_length(disk_size);
        if found < expected {
            return Err(OverlayError::Truncated { found, expected });
        }
        let mut map = OverlayMap::new(disk_size / SECTOR_SIZE);
        load_map(file, &mut map).map_err(io_error("reading the block map"))?;
        Ok(Self { map, data_offset, fresh: false })
    }
}

/// Finds the topmost of `overlays`, which belong to one disk and are listed from the lowest up, that contains the
/// sector `sector`. Returns its position (`None` when no overlay contains the sector) and the number of sectors, of
/// the `sectors` from there on, for which the same is true.
pub(super) fn locate(overlays: &[Overlay], sector: u64, sectors: u64) -> (Option<usize>, u64) {
    let mut sectors = sectors;
    for (position, overlay) in overlays.iter().enumerate().rev() {
        let run = overlay.map.run(sector, sectors);
        sectors = run.sectors;
        if run.in_overlay {
            return (Some(position), sectors);
        }
    }
    (None, sectors)
}

/// Reads the block map of a layer, whatever its disk's size.
///
/// # Errors
/// Those of [`Overlay::open_layer`].
pub fn read_layer_map(file: &File) -> Result<OverlayMap, OverlayError> {
    Ok(Overlay::open_layer(file, disk_size_of(file)?)?.map)
}

/// The size in bytes of the disk to which the overlay in `file` belongs.
pub(super) fn disk_size_of(file: &File) -> Result<u64, OverlayError> {
    if regular_length(file)? == 0 {
        return Err(OverlayError::Empty);
    }
    let (size, _) = read_header(file)?;
    if size == 0 || !size.is_multiple_of(SECTOR_SIZE) { Err(OverlayError::DiskSize(size)) } else { Ok(size) }
}

/// Writes the header of an overlay of a disk of `disk_size` bytes to `file`.
pub(super) fn write_header(file: &File, disk_size: u64) -> io::Result<()> {
    file.write_all_at(&header(disk_size, data_offset(disk_size)), 0)
}

/// The length in bytes of an overlay of a disk of `disk_size` bytes.
pub(super) fn file_length(disk_size: u64) -> u64 {
    data_offset(disk_size) + disk_size
}

fn regular_length(file: &File) -> Result<u64, OverlayError> {
    let metadata = file.metadata().map_err(io_error("fstat"))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(OverlayError::NotAFile) }
}

fn data_offset(disk_size: u64) -> u64 {
    (MAP_OFFSET + OverlayMap::file_bytes(disk_size / SECTOR_SIZE)).next_multiple_of(DATA_ALIGNMENT)
}

fn header(disk_size: u64, data_offset: u64) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    let fields: [&[u8]; 4] =
        [&MAGIC, &VERSION.to_le_bytes(), &disk_size.to_le_bytes(), &data_offset.to_le_bytes()];
    let (checked, checksum) = bytes.split_at_mut(CHECKED_LEN);
    for (to, from) in checked.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    checksum.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
    bytes
}

/// Reads the disk size and the data offset from a header and checks its magic, version and checksum.
fn read_header(file: &File) -> Result<(u64, u64), OverlayError> {
    let mut bytes = [0; HEADER_LEN];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(OverlayError::NotAnOverlay),
        result => result.map_err(io_error("reading the header"))?,
    }
    let [m0, m1, m2, m3, m4, m5, m6, m7, v0, v1, v2, v3, rest @ ..] = bytes;
    if [m0, m1, m2, m3, m4, m5, m6, m7] != MAGIC {
        return Err(OverlayError::NotAnOverlay);
    }
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    if version != VERSION {
        return Err(OverlayError::Version(version));
    }
    let [d0, d1, d2, d3, d4, d5, d6, d7, o0, o1, o2, o3, o4, o5, o6, o7, checksum @ ..] = rest;
    let found = u32::from_le_bytes(checksum);
    let computed = crc32fast::hash(bytes.split_at(CHECKED_LEN).0);
    if found != computed {
        return Err(OverlayError::Checksum { found, computed });
    }
    let disk_size = u64::from_le_bytes([d0, d1, d2, d3, d4, d5, d6, d7]);
    Ok((disk_size, u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7])))
}

/// Reads the parts of the map that are not holes.
fn load_map(file: &File, map: &mut OverlayMap) -> io::Result<()> {
    let end = MAP_OFFSET + OverlayMap::file_bytes(map.sectors());
    let mut buffer = vec![0; 16 * MAP_PAGE_SIZE];
    let mut at = MAP_OFFSET;
    while let Some(data) = seek(file, at, libc::SEEK_DATA)?.filter(|data| *data < end) {
        // Whole pages are read: file systems report extents in blocks, but none guarantees the size of these.
        at = data - data % MAP_OFFSET;
        let hole = seek(file, data, libc::SEEK_HOLE)?.unwrap_or(end).next_multiple_of(MAP_OFFSET).min(end);
        while at < hole {
            let length = usize::try_from(hole - at).unwrap_or(usize::MAX).min(buffer.len());
            let Some(part) = buffer.get_mut(..length) else { break };
            file.read_exact_at(part, at)?;
            map.load(usize::try_from(at - MAP_OFFSET).map_err(io::Error::other)?, part);
            at += length as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 64 << 20;

    fn overlay() -> File {
        tempfile::tempfile().unwrap()
    }

    #[test]
    fn the_checksum_is_the_one_everybody_calls_crc32() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn an_empty_file_becomes_an_overlay_that_takes_no_space_and_opens_again() {
        use std::os::unix::fs::MetadataExt as _;
        let file = overlay();
        let opened = Overlay::open(&file, DISK).unwrap();
        assert_eq!((opened.data_offset, opened.map.count()), (1 << 20, 0));
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), DISK + (1 << 20));
        assert!(metadata.blocks() * 512 <= 64 << 10, "{} blocks", metadata.blocks());
        assert_eq!(Overlay::open(&file, DISK).unwrap().map.count(), 0);
    }

    #[test]
    fn the_map_is_found_where_it_was_written() {
        let file = overlay();
        Overlay::open(&file, DISK).unwrap();
        file.write_all_at(&[0xff; 3], MAP_OFFSET + 2 * MAP_OFFSET + 1).unwrap();
        let map = Overlay::open(&file, DISK).unwrap().map;
        let first = 2 * 4096 * 8 + 8;
        assert_eq!((map.count(), map.run(first, 100).sectors, map.run(0, u64::MAX).sectors), (24, 24, first));
        assert_eq!(map.next_dirty(0), None);
    }

    #[test]
    fn what_is_no_overlay_of_this_disk_is_refused_by_name() {
        let refused = |change: &dyn Fn(&File), expected: &str| {
            let file = overlay();
            Overlay::open(&file, DISK).unwrap();
            change(&file);
            let message = Overlay::open(&file, DISK).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused(&|file| file.write_all_at(b"X", 0).unwrap(), "not an overlay");
        refused(&|file| file.set_len(7).unwrap(), "not an overlay");
        refused(&|file| file.write_all_at(&[2], 8).unwrap(), "version 2, this release reads version 1");
        refused(&|file| file.write_all_at(&[9], 12).unwrap(), "damaged: checksum");
        refused(
            &|file| file.write_all_at(&header(DISK * 2, 1 << 20), 0).unwrap(),
            "134217728 bytes, but this one has 67108864",
        );
        refused(&|file| file.write_all_at(&header(DISK, 2 << 20), 0).unwrap(), "data offset is 2097152");
        refused(&|file| file.set_len(DISK).unwrap(), "truncated: 67108864 bytes instead of 68157440");
        let message = Overlay::open_layer(&overlay(), DISK).unwrap_err().to_string();
        assert!(message.contains("the file is empty"), "{message}");
        // Where the disk size is taken from the header, the header may contain any size.
        for size in [0, 511, 513, MAX_OVERLAY_DISK + 512, u64::MAX, u64::MAX - 511] {
            let file = overlay();
            file.write_all_at(&header(size, 1 << 20), 0).unwrap();
            assert!(disk_size_of(&file).and_then(|size| Overlay::open_layer(&file, size)).is_err(), "{size}");
        }
        let message = Overlay::open(&overlay(), MAX_OVERLAY_DISK + 512).unwrap_err().to_string();
        assert!(message.contains("16492674417152"), "{message}");
        let directory = File::open("/").unwrap();
        assert!(matches!(Overlay::open_layer(&directory, DISK), Err(OverlayError::NotAFile)));
        assert!(matches!(Overlay::open(&directory, DISK), Err(OverlayError::NotAFile)));
    }
}
