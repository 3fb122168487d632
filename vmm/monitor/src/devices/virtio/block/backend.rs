//! The backend of a disk: its files, which arrive as descriptors, and the file in which each sector lies.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;

use hearth_vmm_api::config::DiskSource;

use super::SECTOR_SIZE;
use super::map::OverlayMap;
use super::overlay::{Overlay, OverlayError, locate};

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The size is not a whole number of sectors.
    #[error(
        "the disk has {0} bytes, which is not a positive multiple of 512; pad the image to whole sectors"
    )]
    Size(u64),
    /// The size or the access mode could not be determined.
    #[error("cannot find out the disk's size and access mode: {0}; give a regular file or a block device")]
    Inspect(#[source] io::Error),
    /// A file was opened with another access mode than the disk needs.
    #[error("the {file} was not opened for {needed}; open it so, or give the disk as another kind")]
    Access {
        /// The file: `disk`, `base`, `layer` or `overlay`.
        file: &'static str,
        /// The access that the disk needs.
        needed: &'static str,
    },
    /// The overlay is not usable.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A layer is not usable.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Index of the layer; 0 is the one next to the base.
        layer: usize,
        /// Error from the layer.
        source: Box<DiskError>,
    },
}

/// Index, among the files registered with the ring, of a disk's only file or of its base. The layers follow, then
/// the overlay.
const BASE: u32 = 0;

/// The place of adjacent sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Index among [`Disk::files`].
    pub(super) file: u32,
    /// Offset in that file, in bytes.
    pub(super) offset: u64,
    /// Number of sectors.
    pub(super) sectors: u64,
}

/// An opened disk.
#[derive(Debug)]
pub(super) struct Disk {
    /// The disk's only file, or the base, the layers and the overlay, in that order.
    files: Vec<File>,
    sectors: u64,
    read_only: bool,
    fresh: bool,
    /// The overlays over the base: the layers and, last, the overlay. Empty for a disk without an overlay.
    overlays: Vec<Overlay>,
}

impl Disk {
    pub(super) fn open(source: DiskSource) -> Result<Self, DiskError> {
        let size = size_of(match &source {
            DiskSource::ReadOnly(file) | DiskSource::Writable(file) => file,
            DiskSource::Overlay { base, .. } => base,
        })?;
        let sectors = size / SECTOR_SIZE;
        let plain = |file, read_only| Self {
            files: vec![file],
            sectors,
            read_only,
            fresh: read_only,
            overlays: Vec::new(),
        };
        Ok(match source {
            DiskSource::ReadOnly(file) => {
                check_access(&file, "disk", false)?;
                plain(file, true)
            }
            DiskSource::Writable(file) => {
                check_access(&file, "disk", true)?;
                plain(file, false)
            }
            DiskSource::Overlay { base, layers, overlay } => {
                check_access(&base, "base", false)?;
                let mut overlays = Vec::with_capacity(layers.len() + 1);
                for (layer, file) in layers.iter().enumerate() {
                    let opened = open_layer(file, size);
                    overlays
                        .push(opened.map_err(|source| DiskError::Layer { layer, source: Box::new(source) })?);
                }
                // The overlay is opened last, so that it stays empty if another file is refused.
                check_access(&overlay, "overlay", true)?;
                let opened = Overlay::open(&overlay, size)?;
                let fresh = opened.fresh;
                overlays.push(opened);
                let files = [vec![base], layers, vec![overlay]].into_iter().flatten().collect();
                Self { files, sectors, read_only: false, fresh, overlays }
            }
        })
    }

    /// The disk's files, in the order of their indexes.
    pub(super) fn files(&self) -> &[File] {
        &self.files
    }

    /// The disk's size in sectors.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the guest may only read the disk.
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether the disk certainly holds no data from before this process that is not durable yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Index of the file to which data is written.
    pub(super) fn written_file(&self) -> u32 {
        file_index(self.overlays.len().checked_sub(1))
    }

    /// The place from which the first of `sectors` sectors from `sector` on must be read.
    pub(super) fn locate_for_read(&self, sector: u64, sectors: u64) -> Extent {
        let (position, sectors) = locate(&self.overlays, sector, sectors);
        self.extent(position, sector, sectors)
    }

    /// The place to which `sectors` sectors from `sector` on must be written.
    pub(super) fn locate_for_write(&self, sector: u64, sectors: u64) -> Extent {
        self.extent(self.overlays.len().checked_sub(1), sector, sectors)
    }

    /// The place of `sectors` sectors from `sector` on in the overlay or layer at `position`, or in the base.
    fn extent(&self, position: Option<usize>, sector: u64, sectors: u64) -> Extent {
        let overlay = position.and_then(|position| self.overlays.get(position));
        let data_offset = overlay.map_or(0, |overlay| overlay.data_offset);
        Extent {
            file: file_index(position),
            offset: data_offset.saturating_add(byte_offset(sector)),
            sectors,
        }
    }

    /// Records that the data of `sectors` sectors from `sector` on was written to the place that
    /// [`Self::locate_for_write`] returned.
    pub(super) fn written(&mut self, sector: u64, sectors: u64) {
        if let Some(map) = self.map_mut() {
            map.set(sector, sectors);
        }
    }

    /// The overlay's map, if there is an overlay.
    pub(super) fn map(&self) -> Option<&OverlayMap> {
        self.overlays.last().map(|overlay| &overlay.map)
    }

    /// The overlay's map, for changes and for saving it.
    pub(super) fn map_mut(&mut self) -> Option<&mut OverlayMap> {
        self.overlays.last_mut().map(|overlay| &mut overlay.map)
    }
}

/// The index of the file of the overlay or layer at `position`, or of the base.
fn file_index(position: Option<usize>) -> u32 {
    position.map_or(BASE, |position| u32::try_from(position + 1).unwrap_or(u32::MAX))
}

fn open_layer(file: &File, disk_size: u64) -> Result<Overlay, DiskError> {
    check_access(file, "layer", false)?;
    Ok(Overlay::open_layer(file, disk_size)?)
}

/// The offset of a sector on the disk, in bytes.
fn byte_offset(sector: u64) -> u64 {
    sector.saturating_mul(SECTOR_SIZE)
}

/// The size in bytes of a file or a block device.
fn size_of(mut file: &File) -> Result<u64, DiskError> {
    let size = file.seek(SeekFrom::End(0)).map_err(DiskError::Inspect)?;
    if size == 0 || !size.is_multiple_of(SECTOR_SIZE) { Err(DiskError::Size(size)) } else { Ok(size) }
}

fn check_access(file: &File, name: &'static str, write: bool) -> Result<(), DiskError> {
    // SAFETY: F_GETFL takes no argument; the descriptor is the file's own.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(DiskError::Inspect(io::Error::last_os_error()));
    }
    match flags & libc::O_ACCMODE {
        libc::O_RDWR => Ok(()),
        libc::O_RDONLY if !write => Ok(()),
        _ if write => Err(DiskError::Access { file: name, needed: "reading and writing" }),
        _ => Err(DiskError::Access { file: name, needed: "reading" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::block::map::MAP_PAGE_SIZE;
    use crate::devices::virtio::block::overlay::MAP_OFFSET;

    fn file(size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        file
    }

    #[test]
    fn a_size_that_is_no_number_of_sectors_is_refused_by_name() {
        for size in [0, 511, 513, (1 << 20) + 1] {
            let message = Disk::open(DiskSource::ReadOnly(file(size))).unwrap_err().to_string();
            assert!(message.contains(&format!("{size} bytes")) && message.contains("pad"), "{message}");
        }
    }

    #[test]
    fn a_file_opened_for_the_wrong_access_is_refused_by_name() {
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().set_len(4096).unwrap();
        let read_only = || File::open(named.path()).unwrap();
        Disk::open(DiskSource::ReadOnly(read_only())).unwrap();
        let refused = |backing| Disk::open(backing).unwrap_err().to_string();
        assert!(refused(DiskSource::Writable(read_only())).contains("disk was not opened for reading and"));
        let overlay = DiskSource::Overlay { base: read_only(), layers: Vec::new(), overlay: read_only() };
        assert!(refused(overlay).contains("overlay was not opened for reading and"));
        let write_only = std::fs::OpenOptions::new().write(true).open(named.path()).unwrap();
        assert!(refused(DiskSource::ReadOnly(write_only)).contains("disk was not opened for reading;"));
    }

    #[test]
    fn sectors_are_found_in_the_base_until_they_are_written() {
        let backing = DiskSource::Overlay {
            base: file(1 << 20),
            layers: Vec::new(),
            overlay: tempfile::tempfile().unwrap(),
        };
        let mut disk = Disk::open(backing).unwrap();
        assert!(disk.is_fresh() && !disk.is_read_only() && disk.sectors() == 2048);
        disk.written(10, 5);
        let read = |sector, sectors| disk.locate_for_read(sector, sectors);
        assert_eq!(read(3, 100), Extent { file: BASE, offset: 3 * 512, sectors: 7 });
        assert_eq!(read(10, 100), Extent { file: 1, offset: (1 << 20) + 10 * 512, sectors: 5 });
        assert_eq!(read(15, 100), Extent { file: BASE, offset: 15 * 512, sectors: 100 });
    }

    /// Makes a layer that contains these ranges of sectors (first sector, number of sectors).
    fn layer(ranges: &[(u64, u64)]) -> File {
        use std::os::unix::fs::FileExt as _;
        let file = tempfile::tempfile().unwrap();
        let mut map = Overlay::open(&file, 1 << 20).unwrap().map;
        ranges.iter().for_each(|(sector, sectors)| map.set(*sector, *sectors));
        let mut page = [0; MAP_PAGE_SIZE];
        assert!(map.take_page(0, &mut page));
        file.write_all_at(&page, MAP_OFFSET).unwrap();
        file
    }

    #[test]
    fn sectors_are_found_in_the_topmost_file_that_has_them_and_written_to_the_overlay() {
        let mut disk = Disk::open(DiskSource::Overlay {
            base: file(1 << 20),
            layers: vec![layer(&[(0, 100), (300, 10)]), layer(&[(50, 100)])],
            overlay: layer(&[(60, 10)]),
        })
        .unwrap();
        assert_eq!((disk.files().len(), disk.written_file(), disk.is_fresh()), (4, 3, false));
        let extents = |disk: &Disk| {
            let mut at = 0;
            let next = || {
                let extent = disk.locate_for_read(at, u64::MAX);
                let start = if extent.file == BASE { 0 } else { 1 << 20 };
                assert!(extent.sectors == 0 || extent.offset == start + at * 512);
                at += extent.sectors;
                (extent.sectors > 0).then_some((extent.file, extent.sectors))
            };
            std::iter::from_fn(next).collect::<Vec<_>>()
        };
        let before = [(1, 50), (2, 10), (3, 10), (2, 80), (0, 150), (1, 10), (0, 2048 - 310)];
        assert_eq!(extents(&disk), before);
        let place = disk.locate_for_write(40, 20);
        assert_eq!(place, Extent { file: 3, offset: (1 << 20) + 40 * 512, sectors: 20 });
        disk.written(40, 20);
        assert_eq!(extents(&disk)[..3], [(1, 40), (3, 30), (2, 80)]);
        assert_eq!(disk.map_mut().unwrap().next_dirty(0), Some(0));
    }

    #[test]
    fn a_layer_that_is_none_of_this_disk_is_refused_by_name_and_the_overlay_stays_empty() {
        let refused = |layers| {
            let overlay = tempfile::tempfile().unwrap();
            let given = overlay.try_clone().unwrap();
            let message =
                Disk::open(DiskSource::Overlay { base: file(1 << 20), layers, overlay: given }).unwrap_err();
            assert_eq!(overlay.metadata().unwrap().len(), 0);
            message.to_string()
        };
        let other_disk = tempfile::tempfile().unwrap();
        Overlay::open(&other_disk, 2 << 20).unwrap();
        let truncated = layer(&[]);
        truncated.set_len(1 << 20).unwrap();
        let damaged = layer(&[]);
        std::os::unix::fs::FileExt::write_all_at(&damaged, &[1], 12).unwrap();
        let named = tempfile::NamedTempFile::new().unwrap();
        let write_only = std::fs::OpenOptions::new().write(true).open(named.path()).unwrap();
        let wrong = [
            (tempfile::tempfile().unwrap(), "layer 1: the file is empty"),
            (file(1 << 20), "layer 1: the file is not an overlay"),
            (other_disk, "layer 1: the overlay is for a disk of 2097152 bytes, but this one has 1048576"),
            (truncated, "layer 1: the overlay is truncated"),
            (damaged, "layer 1: the overlay's header is damaged"),
            (File::open("/").unwrap(), "layer 1: the overlay is not a regular file"),
            (write_only, "layer 1: the layer was not opened for reading"),
        ];
        for (file, expected) in wrong {
            let message = refused(vec![layer(&[]), file, layer(&[])]);
            assert!(message.contains(expected), "{message}");
        }
    }
}
