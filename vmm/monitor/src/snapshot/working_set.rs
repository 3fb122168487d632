//! The file `working-set`: the pages that a restored guest touches first, in the order in which it touched them, and
//! their content packed together.
//!
//! ```text
//!  0  magic "HRTHWSET"             32  id of the snapshot
//!  8  version (u32)                48  offset of the packed pages (u64), a multiple of 4096
//! 12  zero (u32)                   56  CRC-32 of bytes 0–55 and the list (u32)
//! 16  number of pages (u64)        60  zero (u32)
//! 24  number of runs (u64)         64  the list: first page (u64), pages (u32), 1 if written (u32)
//! ```
//!
//! The packed part contains the pages of the list in the order of their addresses, together with the gaps of up to 15
//! pages between them. Including the gaps makes the number of pieces small. Behind it is the CRC-32 of each packed page
//! (u32 each), which no restore reads; version 1 has none.
//!
//! If the snapshot's memory is in the page cache, the pages are only entered into this process's page tables, on a
//! separate thread while the guest already runs. If it is not, the packed copy is read in one go before the guest runs,
//! and its pieces are moved to their addresses: those pages are private then, as if the guest had written them. (It
//! would not help to read them directly to their addresses: the kernel reads a page of a private mapping's file before
//! it makes a copy, even if that copy is about to be overwritten.) The memory file is then read ahead in the
//! background, so that the next clone finds it in the page cache and shares it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::thread;

use hearth_vmm_api::snapshot::bulk::{Bulk, CHUNK};
use hearth_vmm_api::snapshot::checksums::PageChecksums;
use hearth_vmm_api::snapshot::id_text;
use hearth_vmm_jail::{Filters, ThreadRole};

use super::load::{self, Backing, LoadError, Source, address};
use super::pages::Range;
use super::runs::{Run, Runs};
use super::{PAGE, PAGE_BYTES};
use crate::memory::GuestMemory;

const MAGIC: [u8; 8] = *b"HRTHWSET";
const VERSION: u32 = 2;
/// The version without checksums of the packed pages.
const PLAIN: u32 = 1;
const HEADER: usize = 64;
const CHECKED: usize = 56;
const ENTRY: usize = 16;
/// Size of a page's checksum in bytes.
const SUM: usize = size_of::<u32>();
/// Maximum number of runs that are read: the number of pages in 32 GiB.
const MOST_RUNS: u64 = 8 << 20;

/// Gaps of up to this number of pages are packed with the pages around them. Part of the format. The kernel, too, maps
/// 16 pages around a fault.
const GAP: u64 = 15;
/// Number of places at which the page cache is checked for the snapshot's memory.
const SAMPLES: usize = 16;
/// Stack size of the thread in bytes.
const STACK: usize = 128 << 10;

/// The reason for which a working set cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum WorkingSetError {
    /// The file is not a working set, or is damaged.
    #[error("the file is not a working set: {0}; record it again")]
    NotOne(&'static str),
    /// The file was written by another release, in another version of the format.
    #[error(
        "the working set has format version {0}, this hearth-vmm reads versions {PLAIN} and {VERSION}; record it again"
    )]
    Version(u32),
    /// A packed page is not what was written.
    #[error("the working set is damaged: its packed page {0} is not what was written; record it again")]
    Page(u64),
    /// The working set belongs to another snapshot.
    #[error(
        "the working set was recorded of snapshot {found}, not of {expected}; pass the one of this snapshot"
    )]
    Other {
        /// Id of the snapshot to which the file belongs.
        found: String,
        /// Id of the snapshot that is expected.
        expected: String,
    },
    /// A system call on the host failed.
    #[error("{what}: {source}")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The error that the host returned.
        source: io::Error,
    },
    /// Guest memory cannot be used.
    #[error(transparent)]
    Memory(#[from] LoadError),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> WorkingSetError {
    move |source| WorkingSetError::Io { what, source }
}

/// A run of neighbouring pages that were touched one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// The pages.
    pub run: Run,
    /// Whether the pages were written.
    pub written: bool,
}

/// A working set: a list of pages that a guest has touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkingSet {
    /// The pages that were touched, in order.
    pub touched: Vec<Touched>,
}

impl WorkingSet {
    /// Adds a page.
    pub fn push(&mut self, page: u64, written: bool) {
        match self.touched.last_mut() {
            Some(last) if last.run.end() == page && last.written == written => last.run.pages += 1,
            _ => self.touched.push(Touched { run: Run { first: page, pages: 1 }, written }),
        }
    }

    /// Returns the number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.touched.iter().map(|touched| touched.run.pages).sum()
    }

    /// Writes the working set into the empty file `to`, with the content of its pages from `backing`, and syncs the
    /// file.
    ///
    /// # Errors
    /// [`WorkingSetError::Io`].
    pub fn write(&self, to: &File, backing: &Backing) -> Result<(), WorkingSetError> {
        let mut list = Vec::with_capacity(self.touched.len() * ENTRY);
        for Touched { run, written } in &self.touched {
            list.extend_from_slice(&run.first.to_le_bytes());
            list.extend_from_slice(&u32::try_from(run.pages).unwrap_or(u32::MAX).to_le_bytes());
            list.extend_from_slice(&u32::from(*written).to_le_bytes());
        }
        let packed = ((HEADER + list.len()) as u64).next_multiple_of(PAGE);
        let mut bytes = Vec::with_capacity(HEADER + list.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.pages().to_le_bytes());
        bytes.extend_from_slice(&(self.touched.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&backing.base_id);
        bytes.extend_from_slice(&packed.to_le_bytes());
        let checksum = checksum(&bytes, &list);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&list);
        to.write_all_at(&bytes, 0).map_err(failed("writing the working set"))?;
        let mut at = packed;
        let mut content = [0; PAGE_BYTES];
        let mut sums = Vec::new();
        for page in self.pieces().as_slice().iter().flat_map(|run| run.first..run.end()) {
            if let Source::File(file) = backing.source(page) {
                file.read_exact_at(&mut content, page * PAGE)
                    .map_err(failed("reading the snapshot's memory"))?;
            } else {
                content.fill(0);
            }
            to.write_all_at(&content, at).map_err(failed("writing the working set"))?;
            sums.extend_from_slice(&PageChecksums::of(&content).to_le_bytes());
            at += PAGE;
        }
        to.write_all_at(&sums, at).map_err(failed("writing the working set"))?;
        to.sync_all().map_err(failed("making the working set durable"))
    }

    /// Reads the list of `file`, which belongs to the snapshot `id` of `total` pages. Returns the list and the offset
    /// of the packed pages.
    ///
    /// # Errors
    /// [`WorkingSetError`].
    pub fn read(file: &File, id: &[u8], total: u64) -> Result<(Self, u64), WorkingSetError> {
        let reading = || failed("reading the working set");
        let length = file.metadata().map_err(reading())?.len();
        let mut header = [0; HEADER];
        match file.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(WorkingSetError::NotOne("it is too short"));
            }
            result => result.map_err(reading())?,
        }
        let (checked, sum) = header.split_at(CHECKED);
        let number = |at: usize| {
            checked.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        if !checked.starts_with(&MAGIC) {
            return Err(WorkingSetError::NotOne("it does not begin with the working set's magic"));
        }
        let version = u32::try_from(number(8) & 0xffff_ffff).unwrap_or(0);
        let sum_bytes = match version {
            PLAIN => 0,
            VERSION => SUM as u64,
            _ => return Err(WorkingSetError::Version(version)),
        };
        let (pages, runs, packed) = (number(16), number(24), number(48));
        let wrong = WorkingSetError::NotOne("its length is not what its header says");
        if runs > MOST_RUNS || packed < HEADER as u64 + runs * ENTRY as u64 || packed > length {
            return Err(wrong);
        }
        let mut list = vec![0; usize::try_from(runs).unwrap_or(0) * ENTRY];
        file.read_exact_at(&mut list, HEADER as u64).map_err(reading())?;
        if !sum.starts_with(&checksum(checked, &list).to_le_bytes()) {
            return Err(WorkingSetError::NotOne("its checksum is wrong"));
        }
        let own = checked.get(32..48).unwrap_or_default();
        if own != id {
            return Err(WorkingSetError::Other { found: id_text(own), expected: id_text(id) });
        }
        let mut set = Self::default();
        for entry in list.as_chunks::<ENTRY>().0 {
            let [f0, f1, f2, f3, f4, f5, f6, f7, p0, p1, p2, p3, w0, ..] = *entry;
            let first = u64::from_le_bytes([f0, f1, f2, f3, f4, f5, f6, f7]);
            let pages = u64::from(u32::from_le_bytes([p0, p1, p2, p3]));
            if pages == 0 || first.checked_add(pages).is_none_or(|end| end > total) {
                return Err(WorkingSetError::NotOne("it lists pages that the memory does not have"));
            }
            set.touched.push(Touched { run: Run { first, pages }, written: w0 != 0 });
        }
        if set.pages() != pages {
            return Err(WorkingSetError::NotOne("its number of pages is wrong"));
        }
        if packed.checked_add(set.pieces().pages() * (PAGE + sum_bytes)) != Some(length) {
            return Err(wrong);
        }
        Ok((set, packed))
    }

    /// Reads all packed pages of `file` and compares them with their checksums; returns how many there are. `None` if the
    /// file was written by a release that made no checksums. The arguments are those of [`Self::read`].
    ///
    /// # Errors
    /// [`WorkingSetError`]; [`WorkingSetError::Page`] for the first page that differs.
    pub fn verify(
        file: &File,
        id: &[u8],
        total: u64,
        bulk: &mut Bulk<'_>,
    ) -> Result<Option<u64>, WorkingSetError> {
        let reading = || failed("reading the working set");
        let (set, packed) = Self::read(file, id, total)?;
        let pages = set.pieces().pages();
        let sums = packed + pages * PAGE;
        if file.metadata().map_err(reading())?.len() == sums {
            return Ok(None);
        }
        let mut expected = vec![0; usize::try_from(pages).unwrap_or(0) * SUM];
        file.read_exact_at(&mut expected, sums).map_err(reading())?;
        let mut expected = (0..).zip(expected.as_chunks::<SUM>().0);
        let mut file = bulk.file(file);
        for at in (packed..sums).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
            let content = file.read(at, (sums - at).min(CHUNK)).map_err(reading())?;
            for (content, (page, sum)) in content.chunks(PAGE_BYTES).zip(&mut expected) {
                if PageChecksums::of(content).to_le_bytes() != *sum {
                    return Err(WorkingSetError::Page(page));
                }
            }
        }
        Ok(Some(pages))
    }

    /// Returns the pages in the order of their addresses, together with the gaps that are packed with them.
    pub(super) fn pieces(&self) -> Runs {
        let mut runs: Vec<Run> = self.touched.iter().map(|touched| touched.run).collect();
        runs.sort_unstable_by_key(|run| run.first);
        let mut sorted: Vec<Run> = Vec::with_capacity(runs.len());
        for run in runs {
            match sorted.last_mut() {
                Some(last) if run.first <= last.end() + GAP => {
                    last.pages = run.end().max(last.end()) - last.first;
                }
                _ => sorted.push(run),
            }
        }
        sorted.into_iter().collect()
    }
}

fn checksum(header: &[u8], list: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(list);
    hasher.finalize()
}

/// The work that remains to be done for a working set while the guest runs.
#[derive(Debug)]
pub struct Rest {
    memory: GuestMemory,
    range: Range,
    backing: Arc<Backing>,
    pieces: Runs,
    cold: bool,
}

impl Rest {
    /// Does the work on a separate thread. It only makes later page faults cheaper, so a failure has no effect on the
    /// guest.
    pub fn start(self, filters: &Filters) {
        let filters = filters.clone();
        let work = move || {
            let Self { memory: _memory, range, backing, pieces, cold } = self;
            if filters.install(ThreadRole::Memory).is_err() {
                return;
            }
            for run in pieces.as_slice() {
                if cold {
                    let part = |bytes: u64| libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
                    let (offset, length) = (part(run.offset()), part(run.bytes()));
                    // SAFETY: no pointers are involved.
                    unsafe {
                        libc::posix_fadvise(
                            backing.base.as_raw_fd(),
                            offset,
                            length,
                            libc::POSIX_FADV_WILLNEED,
                        )
                    };
                } else {
                    let bytes = usize::try_from(run.bytes()).unwrap_or(0);
                    // SAFETY: the run lies inside guest memory, which `_memory` keeps mapped; no content changes.
                    unsafe { libc::madvise(address(range, *run).cast(), bytes, libc::MADV_POPULATE_READ) };
                }
            }
        };
        // The thread is not joined: it finishes by itself soon.
        drop(thread::Builder::new().name("working-set".into()).stack_size(STACK).spawn(work));
    }
}

/// Brings the working set in `file` into the memory of a machine that does not run yet. Returns the work that remains
/// for when the machine runs, and the numbers of pages that were listed and copied.
///
/// # Errors
/// [`WorkingSetError`].
pub fn bring_in(
    file: &File,
    backing: &Arc<Backing>,
    memory: &GuestMemory,
) -> Result<(Rest, [u64; 2]), WorkingSetError> {
    let range = load::range_of(memory)?;
    let (set, packed) = WorkingSet::read(file, &backing.base_id, (range.bytes / PAGE_BYTES) as u64)?;
    let pieces = set.pieces();
    let cold = is_cold(&set, &backing.base);
    let mut copied = 0;
    // The packed copy does not contain the pages in which a diff differs from the base.
    if cold && backing.diff.is_none() {
        move_in(file, packed, &pieces, range)?;
        copied = pieces.pages();
    }
    let rest = Rest { memory: memory.clone(), range, backing: Arc::clone(backing), pieces, cold };
    Ok((rest, [set.pages(), copied]))
}

/// Reads the packed pages in one go, and moves each piece of them to its address.
pub(super) fn move_in(file: &File, packed: u64, pieces: &Runs, range: Range) -> Result<(), WorkingSetError> {
    let bytes = usize::try_from(pieces.pages() * PAGE).unwrap_or(0);
    if bytes == 0 {
        return Ok(());
    }
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address that the kernel chooses.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(failed("mapping room for the working set")(io::Error::last_os_error()));
    }
    let result = (|| {
        // The pieces stay in the guest's memory, where a page that is written must cost one page.
        load::without_huge_pages(Range { start: start.cast(), bytes })
            .map_err(failed("keeping huge pages out of the working set"))?;
        // SAFETY: the mapping is ours for as long as the slice lives.
        let room = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), bytes) };
        file.read_exact_at(room, packed).map_err(failed("reading the packed working set"))?;
        let mut from = start.cast::<u8>();
        for run in pieces.as_slice() {
            let length = usize::try_from(run.bytes()).unwrap_or(0);
            let to = address(range, *run);
            let move_there = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            // SAFETY: both ranges are mapped and ours: a part of the room that is not used from now on, and guest
            // memory that nothing uses yet, whose mapping is unmapped as a whole in the end.
            let moved = unsafe { libc::mremap(from.cast(), length, length, move_there, to) };
            if moved == libc::MAP_FAILED {
                return Err(failed("moving the working set to its place")(io::Error::last_os_error()));
            }
            from = from.wrapping_add(length);
        }
        Ok(())
    })();
    // SAFETY: the rest of the mapping is ours; where pieces were moved away nothing is mapped.
    unsafe { libc::munmap(start, bytes) };
    result
}

/// Whether the memory has to be read from the disk: samples of it are not in the page cache.
fn is_cold(set: &WorkingSet, base: &File) -> bool {
    let step = set.touched.len().div_ceil(SAMPLES).max(1);
    set.touched.iter().step_by(step).any(|touched| {
        let mut byte = 0_u8;
        let buffer = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let offset = libc::off_t::try_from(touched.run.offset()).unwrap_or(0);
        // SAFETY: one buffer of one byte, which lives across the call.
        let read = unsafe { libc::preadv2(base.as_raw_fd(), &raw const buffer, 1, offset, libc::RWF_NOWAIT) };
        read < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
    })
}

#[cfg(test)]
mod tests;
