//! Guest memory becomes files: all of it, or what is not as in the snapshot that the machine was restored from.
//!
//! Which pages a machine has written is asked of the kernel ([`pages::own_pages`]): pages that are swapped out
//! count, pages that the guest gave back (balloon, free page reporting) do not, since dropping a private copy brings
//! back what lies below it. That is the same content with which such a page is restored, so a snapshot is what the
//! guest would have seen.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::load::{Backing, LoadError, address, range_of};
use super::pages::{self, Range};
use super::runs::{Run, Runs};
use super::{PAGE, PAGE_BYTES, SnapshotId, memory_file};
use crate::files::{copy_range, is_unsupported, seek};
use crate::memory::GuestMemory;

/// Pages that are handled between two looks at whether the save was cancelled: 1 MiB.
const CHUNK: u64 = 256;
/// Holes of a full snapshot that are shorter than this many pages are mapped with the rest of its file: 512 KiB.
const SHORTEST_HOLE: u64 = 128;
/// Most pieces of a full snapshot that are mapped each by itself.
const MOST_PIECES: usize = 64;

/// Why memory could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Somebody asked for that.
    #[error("the save was cancelled; the machine goes on as before")]
    Cancelled,
    /// What was being saved is no more.
    #[error("the guest restarted itself just when it was to be saved; save it again")]
    Restarted,
    /// Guest memory is not what snapshots are made of.
    #[error(transparent)]
    Memory(#[from] LoadError),
    /// A machine that was not restored has nothing to be compared with.
    #[error("there is nothing to compare with: the machine was booted, not restored; take a full snapshot")]
    NoBase,
    /// The kernel does not say which pages were written.
    #[error("asking the kernel which pages were written (PAGEMAP_SCAN): {0}; it takes Linux 6.7")]
    Scan(#[source] io::Error),
    /// A file could not be written.
    #[error("{what}: {source}; the machine goes on as before")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
    /// A disk's layers could not be merged.
    #[error("disk {index}: {message}; the machine goes on as before")]
    Disk {
        /// Which disk.
        index: usize,
        /// Why.
        message: String,
    },
}

impl SaveError {
    /// For `map_err`: the host refused `what`.
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Whether the controller has changed its mind.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Gives up what is under way.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether that was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// # Errors
    /// [`SaveError::Cancelled`] when it was.
    pub(super) fn check(&self) -> Result<(), SaveError> {
        if self.is_cancelled() { Err(SaveError::Cancelled) } else { Ok(()) }
    }
}

/// Pages of 4 KiB by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCounts {
    /// The machine's own copies.
    pub own: u64,
    /// Those of them that were swapped out.
    pub swapped: u64,
    /// Written to the file.
    pub data: u64,
    /// Not written, since they are zero.
    pub zero: u64,
    /// Not written, since the base has the same.
    pub equal: u64,
    /// Taken over from the files that the machine was restored from.
    pub carried: u64,
}

impl PageCounts {
    /// By name.
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

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    /// Runs that the file has.
    pub data: Runs,
    /// Runs that are zero here and not in the base.
    pub zero: Runs,
    /// Counts.
    pub pages: PageCounts,
}

/// What memory is to be saved, and how to find out about it.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Guest memory. Its machine stands still, or the result is thrown away.
    pub memory: &'a GuestMemory,
    /// `/proc/self/pagemap`.
    pub pagemap: &'a File,
    /// What lies below it, if the machine was restored.
    pub backing: Option<&'a Backing>,
}

impl Memory<'_> {
    /// Writes all of it into the empty file `to`, without making it durable.
    ///
    /// # Errors
    /// [`SaveError`]; the file is of no use then.
    pub fn write_full(&self, to: &File, id: &SnapshotId, cancel: &Cancel) -> Result<Written, SaveError> {
        let (range, own) = self.begin(to, id, None)?;
        let mut writer = Writer::new(range, to, cancel, own.1);
        for run in own.0.as_slice() {
            writer.unless_zero(*run, |counts| counts.zero += 1)?;
        }
        writer.flush()?;
        let mut written = writer.written;
        if let Some(backing) = self.backing {
            let mut carry = |from: &File, runs: &Runs| -> Result<(), SaveError> {
                let carried = copy(from, to, &runs.without(&own.0), cancel)?;
                written.pages.carried += carried.pages();
                written.data = written.data.union(&carried);
                Ok(())
            };
            carry(&backing.base, &backing.base_mapped())?;
            if let Some(diff) = &backing.diff {
                carry(&diff.file, &diff.mapped)?;
            }
        }
        written.data = written.data.coarse(SHORTEST_HOLE, MOST_PIECES);
        Ok(written)
    }

    /// Writes what is not as in the base into the empty file `to`, without making it durable.
    ///
    /// # Errors
    /// [`SaveError`]; the file is of no use then.
    pub fn write_diff(&self, to: &File, id: &SnapshotId, cancel: &Cancel) -> Result<Written, SaveError> {
        let backing = self.backing.ok_or(SaveError::NoBase)?;
        let base_id = SnapshotId::try_from(backing.base_id.as_slice()).map_err(|_| SaveError::NoBase)?;
        let (range, own) = self.begin(to, id, Some(&base_id))?;
        let mut writer = Writer::new(range, to, cancel, own.1);
        let in_base = own.0.intersection(&backing.base_data);
        let elsewhere = own.0.without(&in_base);
        let mut pieces: Vec<(Run, bool)> = in_base.as_slice().iter().map(|run| (*run, true)).collect();
        pieces.extend(elsewhere.as_slice().iter().map(|run| (*run, false)));
        pieces.sort_unstable_by_key(|(run, _)| run.first);
        let mut base = vec![0; usize::try_from(CHUNK).unwrap_or(0) * PAGE_BYTES];
        for (run, in_base) in pieces {
            if in_base {
                writer.against(run, &backing.base, &mut base)?;
            } else {
                // Where the base has nothing, what is zero is as in the base.
                writer.unless_zero(run, |counts| counts.equal += 1)?;
            }
        }
        writer.flush()?;
        let mut written = writer.written;
        if let Some(diff) = &backing.diff {
            let carried = diff.mapped.without(&own.0);
            copy(&diff.file, to, &carried, cancel)?;
            written.pages.carried += carried.pages();
            written.data = written.data.union(&carried);
            written.zero = written.zero.union(&diff.zero.without(&own.0));
        }
        Ok(written)
    }

    /// Sizes the file, and finds the machine's own pages.
    fn begin(
        &self,
        to: &File,
        id: &SnapshotId,
        base: Option<&SnapshotId>,
    ) -> Result<(Range, (Runs, u64)), SaveError> {
        super::load::check_page_size()?;
        let range = range_of(self.memory)?;
        let bytes = range.bytes as u64;
        to.write_all_at(&memory_file::trailer(bytes, id, base), bytes)
            .map_err(SaveError::io("writing the memory's trailer"))?;
        Ok((range, pages::own_pages(self.pagemap, range).map_err(SaveError::Scan)?))
    }
}

/// Pages on their way into a file.
struct Writer<'a> {
    range: Range,
    to: &'a File,
    cancel: &'a Cancel,
    /// Pages that are still to be written.
    pending: Option<Run>,
    written: Written,
}

impl<'a> Writer<'a> {
    fn new(range: Range, to: &'a File, cancel: &'a Cancel, swapped: u64) -> Self {
        let written =
            Written { pages: PageCounts { swapped, ..PageCounts::default() }, ..Written::default() };
        Self { range, to, cancel, pending: None, written }
    }

    /// Calls `each` with every page of `run`.
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

    /// Writes pages that hold anything, and has the others counted.
    fn unless_zero(&mut self, run: Run, count: impl Fn(&mut PageCounts)) -> Result<(), SaveError> {
        self.each_page(run, |writer, page, at| {
            // SAFETY: the page is mapped: it is one of guest memory's.
            if unsafe { pages::is_zero(at) } {
                count(&mut writer.written.pages);
                return Ok(());
            }
            writer.data(page)
        })
    }

    /// Handles pages that the base has, too.
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
                // SAFETY: the page is mapped: it is one of guest memory's.
                if unsafe { pages::is_equal(at, theirs) } {
                    writer.written.pages.equal += 1;
                // SAFETY: as above.
                } else if unsafe { pages::is_zero(at) } {
                    writer.written.pages.zero += 1;
                    writer.written.zero.push(page, 1);
                } else {
                    writer.data(page)?;
                }
                Ok(())
            })?;
            first = part.end();
        }
        Ok(())
    }

    /// Has page `page` written.
    fn data(&mut self, page: u64) -> Result<(), SaveError> {
        self.written.pages.data += 1;
        self.written.data.push(page, 1);
        match &mut self.pending {
            Some(run) if run.end() == page && run.pages < CHUNK => run.pages += 1,
            _ => {
                self.flush()?;
                self.pending = Some(Run { first: page, pages: 1 });
            }
        }
        Ok(())
    }

    /// Writes what is still to be written.
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

/// Copies `runs` from one file to the same place in another, by reference where the file system can; holes stay
/// holes. Returns what was copied.
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
