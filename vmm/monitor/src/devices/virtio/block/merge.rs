//! Merges several layers into one, so that a snapshot depends on fewer files.
//!
//! All layers of a disk have their data at the same offsets, so nothing moves. In order of preference:
//! 1. If only one layer contains sectors, the new file shares its blocks (`FICLONE`), and the merge is complete.
//! 2. The new file shares the blocks of the layer that takes most storage; then the sectors of the other layers
//!    above and below it are applied.
//! 3. If the file system cannot share blocks, the topmost version of every sector is copied.
//!
//! Only sectors that the maps contain are copied, and holes stay holes. The merge uses only descriptors that are
//! open already and system calls that the jail's memory threads may make. The header is written last, so that the
//! file of a monitor that died during a merge is refused as a layer.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use hearth_proto::vmm::v1::SavedMap;

use super::SECTOR_SIZE;
use super::map::{MAP_PAGE_BYTES, MAP_PAGE_SIZE, OverlayMap};
use super::overlay::{
    HEADER_LEN, MAP_OFFSET, Overlay, OverlayError, disk_size_of, file_length, locate, write_header,
};
use crate::files::{copy_range, is_unsupported, seek};

/// Largest number of bytes that are copied between two checks for a cancellation.
const CHUNK: u64 = 1 << 20;
/// Number of bytes copied at a time where the kernel cannot copy.
const BUFFER: usize = 256 << 10;
/// Largest number of sectors that are looked up at a time, 4 MiB: it bounds the walk through empty maps.
const LOOKUP_SECTORS: u64 = 1 << 13;
/// Number of bytes after which the host is requested to write them back; the merge then waits for the write-back of
/// the preceding bytes.
const WRITE_BACK: u64 = 8 << 20;

/// Result of a merge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Bytes of storage that the new layer shares with a merged one, or shared before other layers were applied to it.
    pub cloned: u64,
    /// Number of bytes of data that were copied.
    pub copied: u64,
}

/// Why layers could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The list of layers is empty.
    #[error("there is no layer to merge; give at least one")]
    NoLayers,
    /// A layer is not usable.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Index of the layer; 0 is the lowest.
        layer: usize,
        /// Error from the layer.
        source: OverlayError,
    },
    /// The map of a layer is not what it was when the layer was frozen.
    #[error(
        "layer {layer}: its block map is damaged: which of the sectors {start} to {end} it has is not what was written"
    )]
    Map {
        /// Index of the layer; 0 is the lowest.
        layer: usize,
        /// The first sector in doubt.
        start: u64,
        /// The sector behind the last one in doubt.
        end: u64,
    },
    /// The file to merge into is not empty, or is not a regular file.
    #[error("the file to merge into is not an empty regular file; give a new one")]
    Target,
    /// The caller cancelled the merge.
    #[error("the merge was cancelled")]
    Cancelled,
    /// The host refused an operation.
    #[error("{what} the merged layer failed: {source}")]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// Error from the host.
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> MergeError {
    move |source| MergeError::Io { what, source }
}

/// Writes one layer into the empty regular file `into` that is equal to all `layers` on top of each other, listed
/// from the lowest up. The layers must not be written meanwhile. The merged layer is durable when this returns;
/// the caller chooses the name of its file. `cancelled` is called before each MiB. After an error `into` is empty.
///
/// # Errors
/// [`MergeError`] when a file is not usable, the host refuses, or `cancelled` returns `true`.
pub fn merge(layers: &[File], into: &File, cancelled: &dyn Fn() -> bool) -> Result<Merged, MergeError> {
    merge_by(&KERNEL, layers, into, cancelled)
}

/// A layer that goes into a merge.
#[derive(Debug)]
pub struct LayerToMerge {
    /// The file.
    pub file: File,
    /// Checksums of its map, if they are known.
    pub map: Option<SavedMap>,
}

/// Does the same as [`merge()`], and compares the maps of the layers with their checksums before anything is written.
/// Returns the checksums of the merged layer's map.
///
/// # Errors
/// [`MergeError`]; [`MergeError::Map`] for the first layer whose map is damaged.
pub fn merge_checked(
    layers: &[LayerToMerge],
    into: &File,
    cancelled: &dyn Fn() -> bool,
) -> Result<SavedMap, MergeError> {
    let sums: Vec<_> = layers.iter().map(|layer| layer.map.as_ref()).collect();
    let layers = layers.iter().map(|layer| layer.file.try_clone()).collect::<io::Result<Vec<_>>>();
    let layers = layers.map_err(io_error("duplicating descriptors for"))?;
    let (disk_size, opened) = open(&layers)?;
    for (layer, (overlay, sums)) in opened.iter().zip(sums).enumerate() {
        if let Some(Range { start, end }) = sums.and_then(|sums| overlay.map.difference(sums)) {
            return Err(MergeError::Map { layer, start, end });
        }
    }
    merge_opened(&KERNEL, &layers, disk_size, &opened, into, cancelled)?;
    let mut map = OverlayMap::new(disk_size / SECTOR_SIZE);
    opened.iter().for_each(|overlay| map.unite(&overlay.map));
    Ok(map.sums())
}

/// The system calls that not every file system supports. If one is not supported, it returns an error that
/// [`is_unsupported`] recognises. Tests replace them.
pub(super) struct Ways {
    /// Makes the second file share all blocks of the first.
    pub(super) clone: fn(&File, &File) -> io::Result<()>,
    /// Copies bytes at an offset (third argument) from the first file to the second; the fourth argument is their
    /// largest number.
    pub(super) copy: fn(&File, &File, u64, u64) -> io::Result<u64>,
    /// Turns a range of bytes into a hole.
    pub(super) punch: fn(&File, Range<u64>) -> io::Result<()>,
}

pub(super) const KERNEL: Ways = Ways { clone: clone_file, copy: copy_range, punch: punch_hole };

pub(super) fn merge_by(
    ways: &Ways,
    layers: &[File],
    into: &File,
    cancelled: &dyn Fn() -> bool,
) -> Result<Merged, MergeError> {
    let (disk_size, opened) = open(layers)?;
    merge_opened(ways, layers, disk_size, &opened, into, cancelled)
}

fn merge_opened(
    ways: &Ways,
    layers: &[File],
    disk_size: u64,
    opened: &[Overlay],
    into: &File,
    cancelled: &dyn Fn() -> bool,
) -> Result<Merged, MergeError> {
    let metadata = into.metadata().map_err(io_error("fstat of"))?;
    if !metadata.is_file() || metadata.len() != 0 {
        return Err(MergeError::Target);
    }
    let mut merger = Merger {
        ways,
        layers: layers.iter().zip(opened).map(|(file, overlay)| Layer::new(file, overlay)).collect(),
        opened,
        into,
        cancelled,
        base: None,
        can_copy: true,
        can_punch: true,
        buffer: Vec::new(),
        write_back: WriteBack::default(),
        merged: Merged::default(),
    };
    let result = merger.run(disk_size);
    if result.is_err() {
        let _ = into.set_len(0); // the error that is returned is more useful
    }
    result.map(|()| merger.merged)
}

fn open(layers: &[File]) -> Result<(u64, Vec<Overlay>), MergeError> {
    let refused = |layer| move |source| MergeError::Layer { layer, source };
    let disk_size = disk_size_of(layers.first().ok_or(MergeError::NoLayers)?).map_err(refused(0))?;
    let open = |(layer, file)| Overlay::open_layer(file, disk_size).map_err(refused(layer));
    Ok((disk_size, layers.iter().enumerate().map(open).collect::<Result<_, _>>()?))
}

/// A layer to merge.
struct Layer<'a> {
    file: &'a File,
    data_offset: u64,
    /// Number of sectors that the layer contains.
    sectors: u64,
    /// Start of the range, up to the end of `data`, in which the position of data is known.
    known_from: u64,
    /// The first range of data at or after `known_from`.
    data: Range<u64>,
}

impl<'a> Layer<'a> {
    fn new(file: &'a File, overlay: &Overlay) -> Self {
        Self {
            file,
            data_offset: overlay.data_offset,
            sectors: overlay.map.count(),
            known_from: 0,
            data: 0..0,
        }
    }

    /// Whether there is data (not a hole) at `at`, and where the data or the hole ends, at most at `end`. If called
    /// with ascending offsets, this takes two system calls for each range of data.
    fn extent(&mut self, at: u64, end: u64) -> io::Result<(bool, u64)> {
        if at < self.known_from || at >= self.data.end {
            let start = seek(self.file, at, libc::SEEK_DATA)?.unwrap_or(u64::MAX);
            let hole = if start < u64::MAX { seek(self.file, start, libc::SEEK_HOLE)? } else { None };
            (self.known_from, self.data) = (at, start..hole.unwrap_or(u64::MAX).max(start.saturating_add(1)));
        }
        let is_data = at >= self.data.start;
        Ok((is_data, end.min(if is_data { self.data.end } else { self.data.start })))
    }
}

/// A merge in progress.
struct Merger<'a> {
    ways: &'a Ways,
    layers: Vec<Layer<'a>>,
    opened: &'a [Overlay],
    into: &'a File,
    cancelled: &'a dyn Fn() -> bool,
    /// Index of the layer of which `into` is a clone, if there is one.
    base: Option<usize>,
    can_copy: bool,
    can_punch: bool,
    /// Buffer for copies and zeros; empty until it is needed.
    buffer: Vec<u8>,
    write_back: WriteBack,
    merged: Merged,
}

impl Merger<'_> {
    fn run(&mut self, disk_size: u64) -> Result<(), MergeError> {
        self.check()?;
        self.base = self.clone_largest()?;
        let only = self.layers.iter().filter(|layer| layer.sectors > 0).count() == 1;
        if self.base.is_none() || !only {
            // Without its header, the clone is not a valid layer until the rest is applied.
            self.into.write_all_at(&[0; HEADER_LEN], 0).map_err(io_error("beginning"))?;
            // The file is sized before the data is written: file systems reserve storage for files that grow.
            self.into.set_len(file_length(disk_size)).map_err(io_error("sizing"))?;
            self.apply_all(disk_size / SECTOR_SIZE)?;
            write_header(self.into, disk_size).map_err(io_error("writing the header of"))?;
        }
        self.check()?;
        // The sync includes metadata: the file system stores there which blocks are shared.
        self.into.sync_all().map_err(io_error("syncing"))
    }

    fn check(&self) -> Result<(), MergeError> {
        if (self.cancelled)() { Err(MergeError::Cancelled) } else { Ok(()) }
    }

    /// Clones the layer that takes most storage into `into`, if the file system can and any layer contains sectors.
    /// Returns the layer's index.
    fn clone_largest(&mut self) -> Result<Option<usize>, MergeError> {
        let mut largest = None;
        for (index, layer) in self.layers.iter().enumerate().filter(|(_, layer)| layer.sectors > 0) {
            let blocks = layer.file.metadata().map_err(io_error("fstat of what goes into"))?.blocks();
            if largest.is_none_or(|(_, _, most)| blocks > most) {
                largest = Some((index, layer.file, blocks));
            }
        }
        let Some((index, file, blocks)) = largest else { return Ok(None) };
        match (self.ways.clone)(file, self.into) {
            Ok(()) => {
                self.merged.cloned = blocks.saturating_mul(512);
                Ok(Some(index))
            }
            Err(error) if is_unsupported(&error) => Ok(None),
            Err(error) => Err(io_error("cloning blocks into")(error)),
        }
    }

    /// Applies the sectors that `into` does not have yet, then writes the united map.
    fn apply_all(&mut self, sectors: u64) -> Result<(), MergeError> {
        let mut map = OverlayMap::new(sectors);
        self.opened.iter().for_each(|overlay| map.unite(&overlay.map));
        let mut at = 0;
        while at < sectors {
            let run = map.run(at, u64::MAX);
            let end = at + run.sectors;
            while run.in_overlay && at < end {
                self.check()?;
                let (position, found) = locate(self.opened, at, (end - at).min(LOOKUP_SECTORS));
                if let Some(layer) = position.filter(|position| self.base != Some(*position)) {
                    self.apply(layer, at, found)?;
                }
                at += found;
            }
            at = end;
        }
        self.write_map(&mut map).map_err(io_error("writing the block map of"))
    }

    fn write_map(&self, map: &mut OverlayMap) -> io::Result<()> {
        let mut bytes = vec![0; MAP_PAGE_SIZE];
        let mut from = 0;
        while let Some(page) = map.next_dirty(from) {
            map.take_page(page, &mut bytes);
            self.into.write_all_at(&bytes, MAP_OFFSET + page as u64 * MAP_PAGE_BYTES)?;
            from = page + 1;
        }
        Ok(())
    }

    /// Gives `sectors` sectors from `sector` on the contents that they have in layer `index`.
    fn apply(&mut self, index: usize, sector: u64, sectors: u64) -> Result<(), MergeError> {
        let Some(layer) = self.layers.get(index) else { return Ok(()) };
        let mut at = layer.data_offset + sector * SECTOR_SIZE;
        let end = at + sectors * SECTOR_SIZE;
        while at < end {
            let Some(layer) = self.layers.get_mut(index) else { return Ok(()) };
            let file = layer.file;
            let (is_data, until) = layer.extent(at, end).map_err(io_error("finding the data for"))?;
            if is_data {
                self.copy(file, at..until)?;
            } else if self.base.is_some() {
                self.clear(at..until)?;
            }
            at = until;
        }
        Ok(())
    }

    fn copy(&mut self, from: &File, range: Range<u64>) -> Result<(), MergeError> {
        let mut at = range.start;
        while at < range.end {
            self.check()?;
            let done =
                self.copy_some(from, at, (range.end - at).min(CHUNK)).map_err(io_error("copying to"))?;
            self.merged.copied += done;
            self.write_back.wrote(self.into, at..at + done).map_err(io_error("writing back"))?;
            at += done;
        }
        Ok(())
    }

    /// Copies at least one of the `length` bytes at `at`; returns the number of bytes copied.
    fn copy_some(&mut self, from: &File, at: u64, length: u64) -> io::Result<u64> {
        while self.can_copy {
            match (self.ways.copy)(from, self.into, at, length) {
                Ok(0) => break, // the read below returns the reason
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_unsupported(&error) => self.can_copy = false,
                result => return result,
            }
        }
        let buffer = buffer(&mut self.buffer, length);
        from.read_exact_at(buffer, at)?;
        self.into.write_all_at(buffer, at)?;
        Ok(buffer.len() as u64)
    }

    /// Makes a range read as zeros; uses a hole where that is possible.
    fn clear(&mut self, range: Range<u64>) -> Result<(), MergeError> {
        while self.can_punch {
            match (self.ways.punch)(self.into, range.clone()) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_unsupported(&error) => self.can_punch = false,
                Err(error) => return Err(io_error("making holes in")(error)),
            }
        }
        let mut at = range.start;
        while at < range.end {
            self.check()?;
            let zeros = buffer(&mut self.buffer, range.end - at);
            zeros.fill(0);
            self.into.write_all_at(zeros, at).map_err(io_error("zeroing parts of"))?;
            at += zeros.len() as u64;
        }
        Ok(())
    }
}

/// The first `length` bytes of the buffer, or the whole buffer if that is less.
fn buffer(buffer: &mut Vec<u8>, length: u64) -> &mut [u8] {
    buffer.resize(BUFFER, 0);
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(BUFFER);
    buffer.get_mut(..length).unwrap_or_default()
}

/// Makes the host write data back during the merge, so that the final sync, which cannot be cancelled, is short.
#[derive(Default)]
struct WriteBack {
    /// The range whose write-back was requested last.
    begun: Option<Range<u64>>,
    /// The range from the first to the last byte written since then.
    written: Option<Range<u64>>,
    /// Number of bytes written since then.
    bytes: u64,
}

impl WriteBack {
    /// Records that `range` was written. Ranges must ascend.
    fn wrote(&mut self, file: &File, range: Range<u64>) -> io::Result<()> {
        self.bytes += range.end - range.start;
        let written = self.written.get_or_insert(range.start..range.start);
        written.end = range.end;
        if self.bytes >= WRITE_BACK {
            const BEGIN: libc::c_uint = libc::SYNC_FILE_RANGE_WRITE;
            const FINISH: libc::c_uint =
                BEGIN | libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
            sync_file_range(file, written, BEGIN)?;
            let begun = std::mem::replace(&mut self.begun, self.written.take());
            self.bytes = 0;
            if let Some(range) = begun {
                sync_file_range(file, &range, FINISH)?;
            }
        }
        Ok(())
    }
}

// === System calls ===

fn check_zero(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn clone_file(from: &File, into: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor, not a pointer; both descriptors are the files' own.
    check_zero(unsafe { libc::ioctl(into.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) })
}

fn punch_hole(file: &File, range: Range<u64>) -> io::Result<()> {
    let offset = libc::off_t::try_from(range.start).map_err(io::Error::other)?;
    let length = libc::off_t::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointers; the descriptor is the file's own.
    check_zero(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) })
}

fn sync_file_range(file: &File, range: &Range<u64>, flags: libc::c_uint) -> io::Result<()> {
    let offset = libc::off64_t::try_from(range.start).map_err(io::Error::other)?;
    let length = libc::off64_t::try_from(range.end - range.start).map_err(io::Error::other)?;
    // SAFETY: no pointers; the descriptor is the file's own.
    let result = check_zero(unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, flags) });
    // This is only an optimisation: where the call is not supported, the final sync writes everything back.
    result.or_else(|error| if is_unsupported(&error) { Ok(()) } else { Err(error) })
}
