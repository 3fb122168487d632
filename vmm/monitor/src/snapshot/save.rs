//! Saves guest memory to files: all of it, or what differs from the snapshot that the machine was restored from.
//!
//! The kernel reports which pages a machine has written ([`pages::scan`]). Pages that are swapped out count. So does the
//! kernel's page of zeros where the content would otherwise come from a file: it stands there for a page of zeros that
//! the machine has written, or that it has read in a piece of a working set after it gave the page back. Other pages
//! that the guest gave back (balloon, free page reporting) do not count, since dropping a private copy makes the content
//! below it visible again. Such a page is restored with that same content, so a snapshot contains exactly what the
//! guest would have seen. (A page of a working set's piece that was given back and not touched since has no content yet:
//! the guest does not know what is in it.)

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_vmm_api::snapshot::checksums::PageChecksums;
use hearth_vmm_api::snapshot::{SnapshotId, memory_file};

use super::load::{Backing, LoadError, address, range_of};
use super::pages::{self, Found, Range};
use super::runs::{Run, Runs};
use super::{PAGE, PAGE_BYTES};
use crate::files::{copy_range, is_unsupported, seek};
use crate::memory::GuestMemory;

/// Number of pages that are handled between two checks whether the save was cancelled: 1 MiB.
const CHUNK: u64 = 256;
/// Holes of a full snapshot that are shorter than this number of pages are mapped with the rest of its file: 512 KiB.
const SHORTEST_HOLE: u64 = 128;
/// Maximum number of pieces of a full snapshot that are mapped separately.
const MOST_PIECES: usize = 64;

/// The reason for which memory could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A controller cancelled the save.
    #[error("the save was cancelled; the machine goes on as before")]
    Cancelled,
    /// The guest restarted itself, so the machine that was being saved no longer exists.
    #[error("the guest restarted itself just when it was to be saved; save it again")]
    Restarted,
    /// Guest memory cannot be saved, for example because of the host's page size.
    #[error(transparent)]
    Memory(#[from] LoadError),
    /// A diff of a machine that was not restored has no base to be compared with.
    #[error("there is nothing to compare with: the machine was booted, not restored; take a full snapshot")]
    NoBase,
    /// The kernel does not report which pages were written.
    #[error("asking the kernel which pages were written (PAGEMAP_SCAN): {0}; it takes Linux 6.7")]
    Scan(#[source] io::Error),
    /// A file could not be written.
    #[error("{what}: {source}; the machine goes on as before")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The error that the host returned.
        source: io::Error,
    },
    /// A disk's layers could not be merged.
    #[error("disk {index}: {message}; the machine goes on as before")]
    Disk {
        /// Index of the disk.
        index: usize,
        /// The reason.
        message: String,
    },
}

impl SaveError {
    /// For `map_err`: the step `what` failed on the host.
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Shared flag by which the controller's thread cancels a save.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Cancels the save that is under way.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the save was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Checks whether the save was cancelled.
    ///
    /// # Errors
    /// [`SaveError::Cancelled`] if it was.
    pub(super) fn check(&self) -> Result<(), SaveError> {
        if self.is_cancelled() { Err(SaveError::Cancelled) } else { Ok(()) }
    }
}

/// Numbers of pages of 4 KiB, by how the save handled them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCounts {
    /// Pages whose content is the machine's own.
    pub own: u64,
    /// Private copies that were swapped out.
    pub swapped: u64,
    /// Pages that were written to the file.
    pub data: u64,
    /// Pages that were not written because they are zero.
    pub zero: u64,
    /// Pages that were not written because they equal the base.
    pub equal: u64,
    /// Pages that were copied from the files that the machine was restored from.
    pub carried: u64,
}

impl PageCounts {
    /// Returns the counts with their names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("own", self.own),
            ("swapped", self.swapped),
            ("data", self.data),
            ("zero", self.zero),
            ("equal", self.equal),
            ("carried", self.carried),
        ]
    }
}

/// The result of writing memory to a file.
#[derive(Debug, Default)]
pub struct Written {
    /// Runs of pages that the file contains.
    pub data: Runs,
    /// Runs of pages that are zero here and not in the base.
    pub zero: Runs,
    /// Numbers of pages, by how they were handled.
    pub pages: PageCounts,
    /// Checksums of the pages that the file contains.
    checksums: PageChecksums,
}

impl Written {
    /// Takes over the checksums of pages that were copied from a file. Pages that have none there have none here.
    fn carry_checksums(&mut self, from: &File, carried: &Runs) {
        let known = memory_file::read(from, "memory")
            .and_then(|trailer| memory_file::checksums(from, "memory", &trailer));
        if let Ok(Some(known)) = known {
            self.checksums = self.checksums.with(&known, |page| carried.contains(page));
        }
    }
}

/// The memory to save, and the sources of information about its pages.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Guest memory. If the machine is not paused, the result must be discarded.
    pub memory: &'a GuestMemory,
    /// `/proc/self/pagemap`.
    pub pagemap: &'a File,
    /// The files below guest memory, if the machine was restored.
    pub backing: Option<&'a Backing>,
}

impl Memory<'_> {
    /// Writes all of memory into the empty file `to`, without syncing it.
    ///
    /// # Errors
    /// [`SaveError`]; the content of the file is unusable then.
    pub fn write_full(&self, to: &File, id: &SnapshotId, cancel: &Cancel) -> Result<Written, SaveError> {
        let (range, own, swapped) = self.begin()?;
        let mut writer = Writer::new(range, to, cancel, swapped);
        for run in own.as_slice() {
            writer.unless_zero(*run, |counts| counts.zero += 1)?;
        }
        writer.flush()?;
        let mut written = writer.written;
        if let Some(backing) = self.backing {
            let mut carry = |from: &File, runs: &Runs| -> Result<(), SaveError> {
                let carried = copy(from, to, &runs.without(&own), cancel)?;
                written.pages.carried += carried.pages();
                written.data = written.data.union(&carried);
                written.carry_checksums(from, &carried);
                Ok(())
            };
            carry(&backing.base, &backing.base_mapped())?;
            if let Some(diff) = &backing.diff {
                carry(&diff.file, &diff.mapped)?;
            }
        }
        written.data = written.data.coarse(SHORTEST_HOLE, MOST_PIECES);
        end(to, range, id, None, &written)?;
        Ok(written)
    }

    /// Writes the pages that differ from the base into the empty file `to`, without syncing it.
    ///
    /// # Errors
    /// [`SaveError`]; the content of the file is unusable then.
    pub fn write_diff(&self, to: &File, id: &SnapshotId, cancel: &Cancel) -> Result<Written, SaveError> {
        let backing = self.backing.ok_or(SaveError::NoBase)?;
        let base_id = SnapshotId::try_from(backing.base_id.as_slice()).map_err(|_| SaveError::NoBase)?;
        let (range, own, swapped) = self.begin()?;
        let mut writer = Writer::new(range, to, cancel, swapped);
        let in_base = own.intersection(&backing.base_data);
        let elsewhere = own.without(&in_base);
        let mut pieces: Vec<(Run, bool)> = in_base.as_slice().iter().map(|run| (*run, true)).collect();
        pieces.extend(elsewhere.as_slice().iter().map(|run| (*run, false)));
        pieces.sort_unstable_by_key(|(run, _)| run.first);
        let mut base = vec![0; usize::try_from(CHUNK).unwrap_or(0) * PAGE_BYTES];
        for (run, in_base) in pieces {
            if in_base {
                writer.against(run, &backing.base, &mut base)?;
            } else {
                // The base has no data here, so a page that is zero equals the base.
                writer.unless_zero(run, |counts| counts.equal += 1)?;
            }
        }
        writer.flush()?;
        let mut written = writer.written;
        if let Some(diff) = &backing.diff {
            let carried = diff.mapped.without(&own);
            copy(&diff.file, to, &carried, cancel)?;
            written.carry_checksums(&diff.file, &carried);
            written.pages.carried += carried.pages();
            written.data = written.data.union(&carried);
            written.zero = written.zero.union(&diff.zero.without(&own));
        }
        end(to, range, id, Some(&base_id), &written)?;
        Ok(written)
    }

    /// Finds the pages whose content is the machine's own, and how many of them are swapped
    /// out.
    fn begin(&self) -> Result<(Range, Runs, u64), SaveError> {
        super::load::check_page_size()?;
        let range = range_of(self.memory)?;
        let Found { mut own, zero, swapped } = pages::scan(self.pagemap, range).map_err(SaveError::Scan)?;
        if let Some(backing) = self.backing {
            own = own.union(&zero.intersection(&backing.in_files()));
        }
        Ok((range, own, swapped))
    }
}

/// Writes what follows the pages in the file.
fn end(
    to: &File,
    range: Range,
    id: &SnapshotId,
    base: Option<&SnapshotId>,
    written: &Written,
) -> Result<(), SaveError> {
    let bytes = range.bytes as u64;
    to.write_all_at(&memory_file::ending(bytes, id, base, &written.checksums), bytes)
        .map_err(SaveError::io("writing the memory's checksums and trailer"))
}

/// Writes pages into a file; collects neighbouring pages into one write.
struct Writer<'a> {
    range: Range,
    to: &'a File,
    cancel: &'a Cancel,
    /// The run of pages that is still to be written.
    pending: Option<Run>,
    written: Written,
}

impl<'a> Writer<'a> {
    fn new(range: Range, to: &'a File, cancel: &'a Cancel, swapped: u64) -> Self {
        let written =
            Written { pages: PageCounts { swapped, ..PageCounts::default() }, ..Written::default() };
        Self { range, to, cancel, pending: None, written }
    }

    /// Calls `each` for every page of `run`.
    fn each_page(
        &mut self,
        run: Run,
        mut each: impl FnMut(&mut Self, u64, *const u8) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        for page in run.first..run.end() {
            if page.is_multiple_of(CHUNK) {
                self.cancel.check()?;
            }
            self.written.pages.own += 1;
            each(self, page, address(self.range, Run { first: page, pages: 1 }))?;
        }
        Ok(())
    }

    /// Writes the pages that are not zero, and calls `count` for the others.
    fn unless_zero(&mut self, run: Run, count: impl Fn(&mut PageCounts)) -> Result<(), SaveError> {
        self.each_page(run, |writer, page, at| {
            // SAFETY: the page is mapped: it is a page of guest memory.
            if unsafe { pages::is_zero(at) } {
                count(&mut writer.written.pages);
                return Ok(());
            }
            writer.data(page, at)
        })
    }

    /// Writes the pages that differ from the base, for pages for which the base has data.
    fn against(&mut self, run: Run, base: &File, buffer: &mut [u8]) -> Result<(), SaveError> {
        let mut first = run.first;
        while first < run.end() {
            let part = Run { first, pages: CHUNK.min(run.end() - first) };
            let bytes = usize::try_from(part.bytes()).unwrap_or(0);
            let Some(content) = buffer.get_mut(..bytes) else { return Ok(()) };
            base.read_exact_at(content, part.offset()).map_err(SaveError::io("reading the base's memory"))?;
            let mut rest = &*content;
            self.each_page(part, |writer, page, at| {
                let (theirs, others) = rest.split_at_checked(PAGE_BYTES).unwrap_or((rest, &[]));
                rest = others;
                // SAFETY: the page is mapped: it is a page of guest memory.
                if unsafe { pages::is_equal(at, theirs) } {
                    writer.written.pages.equal += 1;
                // SAFETY: as above.
                } else if unsafe { pages::is_zero(at) } {
                    writer.written.pages.zero += 1;
                    writer.written.zero.push(page, 1);
                } else {
                    writer.data(page, at)?;
                }
                Ok(())
            })?;
            first = part.end();
        }
        Ok(())
    }

    /// Schedules page `page`, which is at `at`, to be written.
    fn data(&mut self, page: u64, at: *const u8) -> Result<(), SaveError> {
        self.written.pages.data += 1;
        self.written.data.push(page, 1);
        // SAFETY: the page is mapped: it is a page of guest memory.
        self.written.checksums.push(page, PageChecksums::of(&unsafe { pages::copy_of(at) }));
        match &mut self.pending {
            Some(run) if run.end() == page && run.pages < CHUNK => run.pages += 1,
            _ => {
                self.flush()?;
                self.pending = Some(Run { first: page, pages: 1 });
            }
        }
        Ok(())
    }

    /// Writes the pending pages.
    fn flush(&mut self) -> Result<(), SaveError> {
        let Some(run) = self.pending.take() else { return Ok(()) };
        let mut at = address(self.range, run).cast_const();
        let mut offset = libc::off_t::try_from(run.offset()).unwrap_or(libc::off_t::MAX);
        let mut left = usize::try_from(run.bytes()).unwrap_or(0);
        while left > 0 {
            // SAFETY: the kernel reads at most `left` bytes of guest memory, which stays mapped.
            let done = unsafe { libc::pwrite(self.to.as_raw_fd(), at.cast(), left, offset) };
            match usize::try_from(done) {
                Ok(0) => return Err(SaveError::io("writing memory")(io::ErrorKind::WriteZero.into())),
                Ok(done) => {
                    at = at.wrapping_add(done);
                    offset += libc::off_t::try_from(done).unwrap_or(0);
                    left -= done;
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(SaveError::io("writing memory")(error));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Copies `runs` from one file to the same offsets in another, by reference if the file system supports it. Holes stay
/// holes. Returns the runs that were copied.
fn copy(from: &File, to: &File, runs: &Runs, cancel: &Cancel) -> Result<Runs, SaveError> {
    let copying = || SaveError::io("copying memory from the snapshot below");
    let mut copied = Runs::default();
    for run in runs.as_slice() {
        let mut at = run.offset();
        let end = at + run.bytes();
        while let Some(data) = seek(from, at, libc::SEEK_DATA).map_err(copying())?.filter(|data| *data < end)
        {
            let data = data / PAGE * PAGE;
            let hole = seek(from, data, libc::SEEK_HOLE).map_err(copying())?.unwrap_or(end);
            let hole = hole.next_multiple_of(PAGE).min(end);
            copy_bytes(from, to, data.max(at), hole, cancel)?;
            copied.push(data.max(at) / PAGE, (hole - data.max(at)) / PAGE);
            at = hole;
        }
    }
    Ok(copied)
}

fn copy_bytes(from: &File, to: &File, start: u64, end: u64, cancel: &Cancel) -> Result<(), SaveError> {
    let copying = || SaveError::io("copying memory from the snapshot below");
    let mut at = start;
    while at < end {
        cancel.check()?;
        let length = (end - at).min(CHUNK * PAGE);
        match copy_range(from, to, at, length) {
            Ok(0) => return Err(copying()(io::ErrorKind::UnexpectedEof.into())),
            Ok(done) => at += done,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_unsupported(&error) => {
                let mut buffer = vec![0; usize::try_from(length).unwrap_or(PAGE_BYTES)];
                from.read_exact_at(&mut buffer, at).map_err(copying())?;
                to.write_all_at(&buffer, at).map_err(copying())?;
                at += length;
            }
            Err(error) => return Err(copying()(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
