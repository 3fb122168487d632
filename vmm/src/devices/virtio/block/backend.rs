//! What is behind a disk: the files it was given as descriptors, and in which of them a sector lies.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;

use super::SECTOR_SIZE;
use super::map::OverlayMap;
use super::overlay::{Overlay, OverlayError};

/// A disk's files. All but the overlay may also be block device nodes.
#[derive(Debug)]
pub enum DiskBacking {
    /// The guest may only read.
    ReadOnly(File),
    /// The guest writes the file itself.
    Writable(File),
    /// The guest's writes go to `overlay`; `base` is only read and may be shared.
    Overlay {
        /// The disk as it was, opened for reading.
        base: File,
        /// Overlays that were frozen, opened for reading, the one next to the base first.
        layers: Vec<File>,
        /// An empty file or an earlier overlay of the same base, opened for reading and writing.
        overlay: File,
    },
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The size is no number of sectors.
    #[error(
        "the disk has {0} bytes, which is not a positive multiple of 512; pad the image to whole sectors"
    )]
    Size(u64),
    /// The size or the access mode could not be found out.
    #[error("cannot find out the disk's size and access mode: {0}; give a regular file or a block device")]
    Inspect(#[source] io::Error),
    /// A file was opened for something else than it is needed for.
    #[error("the {file} was not opened for {needed}; open it so, or give the disk as another kind")]
    Access {
        /// Which of the disk's files.
        file: &'static str,
        /// What it is needed for.
        needed: &'static str,
    },
    /// The overlay is not usable.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

/// Index of a disk's only file, or its base, among the files registered with the ring.
pub(super) const BASE: u32 = 0;
/// Index of the overlay.
pub(super) const OVERLAY: u32 = 1;

/// Where neighbouring sectors lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// [`BASE`] or [`OVERLAY`].
    pub(super) file: u32,
    /// Offset in that file, in bytes.
    pub(super) offset: u64,
    /// How many sectors lie there.
    pub(super) sectors: u64,
}

/// An opened disk.
#[derive(Debug)]
pub(super) struct Disk {
    /// Indexed by [`BASE`] and [`OVERLAY`].
    files: Vec<File>,
    sectors: u64,
    read_only: bool,
    fresh: bool,
    overlay: Option<Overlay>,
}

impl Disk {
    pub(super) fn open(backing: DiskBacking) -> Result<Self, DiskError> {
        let size = size_of(match &backing {
            DiskBacking::ReadOnly(file) | DiskBacking::Writable(file) => file,
            DiskBacking::Overlay { base, .. } => base,
        })?;
        let sectors = size / SECTOR_SIZE;
        Ok(match backing {
            DiskBacking::ReadOnly(file) => {
                check_access(&file, "disk", false)?;
                Self { files: vec![file], sectors, read_only: true, fresh: true, overlay: None }
            }
            DiskBacking::Writable(file) => {
                check_access(&file, "disk", true)?;
                Self { files: vec![file], sectors, read_only: false, fresh: false, overlay: None }
            }
            DiskBacking::Overlay { base, layers: _, overlay } => {
                check_access(&base, "base", false)?;
                check_access(&overlay, "overlay", true)?;
                let opened = Overlay::open(&overlay, size)?;
                let (files, fresh) = (vec![base, overlay], opened.fresh);
                Self { files, sectors, read_only: false, fresh, overlay: Some(opened) }
            }
        })
    }

    /// Its files, in the order of their indexes.
    pub(super) fn files(&self) -> &[File] {
        &self.files
    }

    /// Its size in sectors.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the guest may only read.
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether nothing can have been written to it before this process that is not durable yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Index of the file that writes go to.
    pub(super) fn written_file(&self) -> u32 {
        if self.overlay.is_some() { OVERLAY } else { BASE }
    }

    /// Where the first of `sectors` sectors from `sector` on are to be read from.
    pub(super) fn locate_for_read(&self, sector: u64, sectors: u64) -> Extent {
        let Some(overlay) = &self.overlay else { return self.locate_for_write(sector, sectors) };
        let run = overlay.map.run(sector, sectors);
        if run.in_overlay {
            self.locate_for_write(sector, run.sectors)
        } else {
            Extent { file: BASE, offset: byte_offset(sector), sectors: run.sectors }
        }
    }

    /// Where `sectors` sectors from `sector` on are to be written.
    pub(super) fn locate_for_write(&self, sector: u64, sectors: u64) -> Extent {
        let data_offset = self.overlay.as_ref().map_or(0, |overlay| overlay.data_offset);
        Extent { file: self.written_file(), offset: data_offset.saturating_add(byte_offset(sector)), sectors }
    }

    /// The data of `sectors` sectors from `sector` on was written where [`Self::locate_for_write`] said.
    pub(super) fn written(&mut self, sector: u64, sectors: u64) {
        if let Some(overlay) = &mut self.overlay {
            overlay.map.set(sector, sectors);
        }
    }

    /// The overlay's map, where there is an overlay.
    pub(super) fn map(&self) -> Option<&OverlayMap> {
        self.overlay.as_ref().map(|overlay| &overlay.map)
    }

    /// The overlay's map, to be saved.
    pub(super) fn map_mut(&mut self) -> Option<&mut OverlayMap> {
        self.overlay.as_mut().map(|overlay| &mut overlay.map)
    }
}

/// The disk offset of a sector, in bytes.
fn byte_offset(sector: u64) -> u64 {
    sector.saturating_mul(SECTOR_SIZE)
}

/// The size in bytes, also of block devices.
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

    fn file(size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        file
    }

    #[test]
    fn a_size_that_is_no_number_of_sectors_is_refused_by_name() {
        for size in [0, 511, 513, (1 << 20) + 1] {
            let message = Disk::open(DiskBacking::ReadOnly(file(size))).unwrap_err().to_string();
            assert!(message.contains(&format!("{size} bytes")) && message.contains("pad"), "{message}");
        }
    }

    #[test]
    fn a_file_opened_for_the_wrong_access_is_refused_by_name() {
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().set_len(4096).unwrap();
        let read_only = || File::open(named.path()).unwrap();
        Disk::open(DiskBacking::ReadOnly(read_only())).unwrap();
        let refused = |backing| Disk::open(backing).unwrap_err().to_string();
        assert!(refused(DiskBacking::Writable(read_only())).contains("disk was not opened for reading and"));
        let overlay = DiskBacking::Overlay { base: read_only(), layers: Vec::new(), overlay: read_only() };
        assert!(refused(overlay).contains("overlay was not opened for reading and"));
        let write_only = std::fs::OpenOptions::new().write(true).open(named.path()).unwrap();
        assert!(refused(DiskBacking::ReadOnly(write_only)).contains("disk was not opened for reading;"));
    }

    #[test]
    fn sectors_are_found_in_the_base_until_they_are_written() {
        let backing = DiskBacking::Overlay {
            base: file(1 << 20),
            layers: Vec::new(),
            overlay: tempfile::tempfile().unwrap(),
        };
        let mut disk = Disk::open(backing).unwrap();
        assert!(disk.is_fresh() && !disk.is_read_only() && disk.sectors() == 2048);
        disk.written(10, 5);
        let read = |sector, sectors| disk.locate_for_read(sector, sectors);
        assert_eq!(read(3, 100), Extent { file: BASE, offset: 3 * 512, sectors: 7 });
        assert_eq!(read(10, 100), Extent { file: OVERLAY, offset: (1 << 20) + 10 * 512, sectors: 5 });
        assert_eq!(read(15, 100), Extent { file: BASE, offset: 15 * 512, sectors: 100 });
    }
}
