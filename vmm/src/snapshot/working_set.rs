//! The file `working-set`: the pages that a restored guest touches first, in the order in which it did, and their
//! content packed together.
//!
//! ```text
//!  0  magic "HRTHWSET"             32  id of the snapshot
//!  8  version (u32)                48  offset of the packed pages (u64), a multiple of 4096
//! 12  zero (u32)                   56  CRC-32 of bytes 0–55 and the list (u32)
//! 16  number of pages (u64)        60  zero (u32)
//! 24  number of runs (u64)         64  the list: first page (u64), pages (u32), 1 if written (u32)
//! ```
//!
//! Where the snapshot's memory is in the page cache, its pages are only entered into this process's page tables,
//! on a thread of their own while the rest of the restore goes on. Where it is not, the packed copy is read, in one
//! go, before the guest runs: those pages are private then, as if the guest had written them, and the memory file is
//! read ahead in the background, so that the next clone finds it warm.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::thread;

use super::load::{self, Backing, LoadError, Source, address};
use super::pages::Range;
use super::runs::{Run, Runs};
use super::{PAGE, PAGE_BYTES, id_text};
use crate::jail::{Filters, ThreadRole};
use crate::memory::GuestMemory;

const MAGIC: [u8; 8] = *b"HRTHWSET";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const CHECKED: usize = 56;
const ENTRY: usize = 16;
/// Most runs that are read: as many pages as 32 GiB have.
const MOST_RUNS: u64 = 8 << 20;

/// Gaps of up to so many pages are populated with what is around them: the kernel maps 16 pages around a fault.
const GAP: u64 = 15;
/// Places at which it is tried whether the memory is in the page cache.
const SAMPLES: usize = 16;
/// Buffers of one `preadv` (`UIO_MAXIOV`).
const MOST_BUFFERS: usize = 1024;
/// Stack of the thread in bytes.
const STACK: usize = 128 << 10;

/// Why a working set cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum WorkingSetError {
    /// Something else, or damaged.
    #[error("the file is not a working set: {0}; record it again")]
    NotOne(&'static str),
    /// Written by another release.
    #[error(
        "the working set has format version {0}, this hearth-vmm reads version {VERSION}; record it again"
    )]
    Version(u32),
    /// Another snapshot's.
    #[error(
        "the working set was recorded of snapshot {found}, not of {expected}; pass the one of this snapshot"
    )]
    Other {
        /// Whose it is.
        found: String,
        /// Whose is wanted.
        expected: String,
    },
    /// The host refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] LoadError),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> WorkingSetError {
    move |source| WorkingSetError::Io { what, source }
}

/// Neighbouring pages that were touched one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// The pages.
    pub run: Run,
    /// Whether they were written.
    pub written: bool,
}

/// A working set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkingSet {
    /// What was touched, in order.
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

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.touched.iter().map(|touched| touched.run.pages).sum()
    }

    /// Writes it, with the content that `backing` has for its pages, into the empty file `to`, and makes that durable.
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
        for page in self.touched.iter().flat_map(|touched| touched.run.first..touched.run.end()) {
            if let Source::File(file) = backing.source(page) {
                file.read_exact_at(&mut content, page * PAGE)
                    .map_err(failed("reading the snapshot's memory"))?;
            } else {
                content.fill(0);
            }
            to.write_all_at(&content, at).map_err(failed("writing the working set"))?;
            at += PAGE;
        }
        to.sync_all().map_err(failed("making the working set durable"))
    }

    /// Reads the list of `file`, which belongs to the snapshot `id` of `total` pages; returns it with the offset of the
    /// packed pages.
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
        if version != VERSION {
            return Err(WorkingSetError::Version(version));
        }
        let (pages, runs, packed) = (number(16), number(24), number(48));
        let whole = packed.checked_add(pages.saturating_mul(PAGE));
        if runs > MOST_RUNS || whole != Some(length) || packed < HEADER as u64 + runs * ENTRY as u64 {
            return Err(WorkingSetError::NotOne("its length is not what its header says"));
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
        Ok((set, packed))
    }

    /// Its pages in the order of their addresses, with the gaps between them that come along anyway.
    fn ranges(&self) -> Runs {
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

/// Brings the working set in `file` into the memory of a machine that does not run yet; returns counts of pages.
///
/// # Errors
/// [`WorkingSetError`].
pub fn bring_in(
    file: &File,
    backing: &Backing,
    memory: &GuestMemory,
    filters: &Filters,
) -> Result<Vec<(&'static str, u64)>, WorkingSetError> {
    let range = load::range_of(memory)?;
    let (set, packed) = WorkingSet::read(file, &backing.base_id, (range.bytes / PAGE_BYTES) as u64)?;
    let cold = is_cold(&set, &backing.base);
    if cold {
        set.read_packed(file, packed, backing, range)?;
    }
    let advice = if cold { libc::MADV_WILLNEED } else { libc::MADV_POPULATE_READ };
    // Both only make later faults cheaper: whatever fails here, the guest is none the wiser.
    let (memory, filters) = (memory.clone(), filters.clone());
    let ranges = set.ranges();
    let work = move || {
        let _keep = memory;
        if filters.install(ThreadRole::Memory).is_err() {
            return;
        }
        for run in ranges.as_slice() {
            let bytes = usize::try_from(run.bytes()).unwrap_or(0);
            // SAFETY: the run lies inside guest memory, which `memory` keeps mapped; no content changes.
            unsafe { libc::madvise(address(range, *run).cast(), bytes, advice) };
        }
    };
    // The handle is dropped: the thread ends by itself, soon.
    let spawned = thread::Builder::new().name("working-set".into()).stack_size(STACK).spawn(work);
    drop(spawned.map_err(failed("starting the working set's thread"))?);
    Ok(vec![("working_set", set.pages()), ("working_set_copied", if cold { set.pages() } else { 0 })])
}

/// Whether the memory has to come from the disk: samples of it are not in the page cache.
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

impl WorkingSet {
    /// Reads the packed pages to where they belong, in one go from front to back.
    fn read_packed(
        &self,
        file: &File,
        packed: u64,
        backing: &Backing,
        range: Range,
    ) -> Result<(), WorkingSetError> {
        let mut scratch = vec![0_u8; PAGE_BYTES];
        let mut buffers: Vec<libc::iovec> = Vec::with_capacity(MOST_BUFFERS);
        let mut at = packed;
        let pages = self.touched.iter().flat_map(|touched| touched.run.first..touched.run.end());
        for page in pages {
            // What a diff has over the base stays as it is.
            let from_base = matches!(backing.source(page), Source::File(file) if std::ptr::eq(file, &raw const backing.base));
            let to =
                if from_base { address(range, Run { first: page, pages: 1 }) } else { scratch.as_mut_ptr() };
            match buffers.last_mut() {
                Some(last) if from_base && last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == to => {
                    last.iov_len += PAGE_BYTES;
                }
                _ => {
                    if buffers.len() == MOST_BUFFERS {
                        at += read_into(file, &buffers, at)?;
                        buffers.clear();
                    }
                    buffers.push(libc::iovec { iov_base: to.cast(), iov_len: PAGE_BYTES });
                }
            }
        }
        read_into(file, &buffers, at)?;
        Ok(())
    }
}

/// Fills `buffers` from `offset` on; returns how many bytes that were.
fn read_into(file: &File, buffers: &[libc::iovec], offset: u64) -> Result<u64, WorkingSetError> {
    let wanted: u64 = buffers.iter().map(|buffer| buffer.iov_len as u64).sum();
    if wanted == 0 {
        return Ok(0);
    }
    let count = libc::c_int::try_from(buffers.len()).unwrap_or(0);
    let at = libc::off_t::try_from(offset).unwrap_or(libc::off_t::MAX);
    // SAFETY: the buffers are guest memory that nobody uses yet, or a page of ours.
    let done = unsafe { libc::preadv(file.as_raw_fd(), buffers.as_ptr(), count, at) };
    match u64::try_from(done) {
        Ok(done) if done == wanted => Ok(done),
        Ok(_) => Err(failed("reading the packed working set")(io::ErrorKind::UnexpectedEof.into())),
        Err(_) => Err(failed("reading the packed working set")(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests;
