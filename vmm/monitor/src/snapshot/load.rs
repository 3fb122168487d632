//! Restores guest memory from files.
//!
//! All of guest memory is first mapped as anonymous memory, which provides the zeros of the holes. Then the data of the
//! snapshot's files is mapped over it, privately. If a hole of the file were mapped from the file, it would cost two
//! pages once it is written: one in the page cache and the private copy. A separate mapping for each small hole would
//! cost more than that. So only large holes are left anonymous; small ones are mapped from the file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use hearth_proto::vmm::v1::SavedMachine;
use hearth_vmm_api::limits::MEMORY_MIB_RANGE;
use hearth_vmm_api::snapshot::memory_file::{self, MemoryFileError};
use hearth_vmm_api::snapshot::state_file::StateError;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::pages::Range;
use super::runs::{Run, Runs};
use super::{PAGE, PAGE_BYTES};
use crate::memory::{self, GuestMemory, MIB, MemoryError};

/// Runs of a diff that are shorter than this number of pages are read instead of mapped.
const SHORTEST_MAPPED: u64 = 16;
/// Maximum number of runs of a diff that are mapped.
const MOST_MAPPED: usize = 256;

/// The reason for which memory could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The state is invalid.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file is not the one that belongs to the state.
    #[error(transparent)]
    File(#[from] MemoryFileError),
    /// Guest memory could not be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The file of a base or of a diff is missing, or was given although the snapshot does not need it.
    #[error("{0}")]
    Files(&'static str),
    /// The page size of the host differs from that of snapshots.
    #[error(
        "this host's memory pages have {0} bytes, snapshots have pages of {PAGE}: use a host kernel with 4 KiB pages"
    )]
    PageSize(u64),
    /// The host refused a mapping.
    #[error("mapping the file `{name}`: {source}; is the host out of memory, or vm.max_map_count reached?")]
    Map {
        /// Name of the file.
        name: &'static str,
        /// The error that the host returned.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("reading the file `{name}`: {source}")]
    Read {
        /// Name of the file.
        name: &'static str,
        /// The error that the host returned.
        source: io::Error,
    },
}

/// The files of the snapshot. They hold the content of the pages that a restored machine has not written.
#[derive(Debug)]
pub struct Backing {
    /// The full snapshot's memory.
    pub base: File,
    /// The id of the full snapshot.
    pub base_id: Vec<u8>,
    /// The runs of pages that the full snapshot's file contains; all other pages are zero.
    pub base_data: Runs,
    /// The diff, if the machine was restored from one.
    pub diff: Option<DiffBacking>,
}

/// A diff on top of the base.
#[derive(Debug)]
pub struct DiffBacking {
    /// The memory file of the diff.
    pub file: File,
    /// The runs of pages that are mapped from the diff.
    pub mapped: Runs,
    /// The runs of pages that are zero in the diff but not in the base.
    pub zero: Runs,
}

/// The source of a page's content for a page of which the machine has no private copy.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In a file, at the page's offset.
    File(&'a File),
    /// The page is zero.
    Zero,
}

impl Backing {
    /// Returns the source of page `page`.
    #[must_use]
    pub fn source(&self, page: u64) -> Source<'_> {
        let has = |runs: &Runs| runs.contains(page);
        match &self.diff {
            Some(diff) if has(&diff.mapped) => Source::File(&diff.file),
            Some(diff) if has(&diff.zero) => Source::Zero,
            _ if has(&self.base_data) => Source::File(&self.base),
            _ => Source::Zero,
        }
    }

    /// Returns the runs of pages that are mapped from the base.
    #[must_use]
    pub fn base_mapped(&self) -> Runs {
        match &self.diff {
            Some(diff) => self.base_data.without(&diff.mapped).without(&diff.zero),
            None => self.base_data.clone(),
        }
    }

    /// Returns the runs of pages whose source is a file.
    #[must_use]
    pub fn in_files(&self) -> Runs {
        match &self.diff {
            Some(diff) => self.base_data.without(&diff.zero).union(&diff.mapped),
            None => self.base_data.clone(),
        }
    }
}

/// Restored memory.
#[derive(Debug)]
pub struct Loaded {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The files from which the memory was restored.
    pub backing: Backing,
    /// Pages that were mapped from files.
    pub mapped_pages: u64,
    /// Pages that were read from files.
    pub read_pages: u64,
}

/// How memory is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// Memory is mapped from the files.
    Map,
    /// Memory stays empty: the recorder copies each page from its [`Backing::source`] when it is first accessed.
    Record,
}

/// Restores the memory of `state` from `base` and, if the snapshot builds on it, from `diff`.
///
/// # Errors
/// [`LoadError`]; no mapping remains.
pub fn load(
    state: &SavedMachine,
    base: File,
    diff: Option<File>,
    mode: LoadMode,
) -> Result<Loaded, LoadError> {
    check_page_size()?;
    let saved = state.memory.as_ref().ok_or_else(|| StateError::content("its memory is missing"))?;
    let (bytes, total) = (saved.bytes, saved.bytes / PAGE);
    let mib = bytes / MIB;
    if !bytes.is_multiple_of(MIB) || !MEMORY_MIB_RANGE.contains(&mib) {
        return Err(StateError::content(format!("its memory has {bytes} bytes")).into());
    }
    let runs = |pairs: &[u64]| {
        Runs::from_pairs(pairs, total)
            .ok_or_else(|| StateError::content("its list of pages is no list of pages"))
    };
    let (data, zero) = (runs(&saved.data)?, runs(&saved.zero)?);
    let backing = if state.base_id.is_empty() {
        if diff.is_some() {
            return Err(LoadError::Files(
                "the snapshot stands for itself: pass one memory, not that of a base, too",
            ));
        }
        memory_file::check(&base, "memory", bytes, &state.snapshot_id)?;
        Backing { base, base_id: state.snapshot_id.clone(), base_data: data, diff: None }
    } else {
        let needs = "the snapshot builds on another one: pass that one's memory, too";
        let file = diff.ok_or(LoadError::Files(needs))?;
        memory_file::check(&base, "memory of the base", bytes, &state.base_id)?;
        memory_file::check(&file, "memory", bytes, &state.snapshot_id)?;
        let diff = Some(DiffBacking { file, mapped: data, zero });
        Backing { base, base_id: state.base_id.clone(), base_data: runs(&saved.base_data)?, diff }
    };
    let memory = memory::map_anonymous(mib)?;
    let range = range_of(&memory)?;
    without_huge_pages(range).map_err(|source| LoadError::Map { name: "memory", source })?;
    let mut loaded = Loaded { memory, backing, mapped_pages: 0, read_pages: 0 };
    if mode == LoadMode::Map {
        loaded.fill(range)?;
    }
    Ok(loaded)
}

impl Loaded {
    /// Size of the memory in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u64 {
        self.memory.iter().map(vm_memory::GuestMemoryRegion::len).sum::<u64>() / MIB
    }

    fn fill(&mut self, range: Range) -> Result<(), LoadError> {
        let Self { backing, .. } = self;
        let mut read = Runs::default();
        let mut cleared = Runs::default();
        if let Some(diff) = &mut backing.diff {
            (diff.mapped, read) = split(&diff.mapped);
            (diff.zero, cleared) = split(&diff.zero);
        }
        for run in backing.base_mapped().as_slice() {
            map_file(range, *run, &backing.base, "memory")?;
            self.mapped_pages += run.pages;
        }
        if let Some(diff) = &backing.diff {
            for run in diff.mapped.as_slice() {
                map_file(range, *run, &diff.file, "memory")?;
                self.mapped_pages += run.pages;
            }
            for run in read.as_slice() {
                // SAFETY: nothing else uses this memory yet.
                let to = unsafe { slice(range, *run) };
                diff.file
                    .read_exact_at(to, run.offset())
                    .map_err(|source| LoadError::Read { name: "memory", source })?;
                self.read_pages += run.pages;
            }
        }
        for run in cleared.as_slice() {
            // SAFETY: nothing else uses this memory yet.
            unsafe { slice(range, *run) }.fill(0);
            self.read_pages += run.pages;
        }
        Ok(())
    }
}

/// Splits the runs into the longest ones, which are mapped, and the others.
fn split(runs: &Runs) -> (Runs, Runs) {
    let mut lengths: Vec<u64> = runs.as_slice().iter().map(|run| run.pages).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let limit = lengths.get(MOST_MAPPED).map_or(SHORTEST_MAPPED, |&length| SHORTEST_MAPPED.max(length + 1));
    let (long, short): (Vec<Run>, Vec<Run>) = runs.as_slice().iter().partition(|run| run.pages >= limit);
    (long.into_iter().collect(), short.into_iter().collect())
}

/// Returns an error if the host's pages are larger than those of snapshots.
///
/// # Errors
/// [`LoadError::PageSize`].
pub fn check_page_size() -> Result<(), LoadError> {
    // SAFETY: no pointers are involved.
    let size = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    if size == PAGE { Ok(()) } else { Err(LoadError::PageSize(size)) }
}

/// Returns the range of this process's memory that holds guest memory.
///
/// # Errors
/// Fails if there is no guest memory, which cannot happen. Guest memory is one contiguous region.
pub fn range_of(memory: &GuestMemory) -> Result<Range, LoadError> {
    let region = memory.iter().next().ok_or(LoadError::Files("the machine has no memory"))?;
    let bytes = usize::try_from(region.len()).unwrap_or(0);
    Ok(Range { start: region.as_ptr(), bytes })
}

/// Keeps huge pages out of anonymous memory, so that writing to one page costs one page only. Mappings of files need no
/// such advice: the kernel makes their private copies page by page.
///
/// # Errors
/// The error of the kernel.
pub(super) fn without_huge_pages(range: Range) -> io::Result<()> {
    // SAFETY: the range is mapped; the advice changes no content.
    let result = unsafe { libc::madvise(range.start.cast(), range.bytes, libc::MADV_NOHUGEPAGE) };
    // A kernel without support for huge pages rejects the advice, but needs none.
    let error = io::Error::last_os_error();
    if result == 0 || error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) }
}

/// Returns the address of the first byte of `run`.
pub(super) fn address(range: Range, run: Run) -> *mut u8 {
    // Runs lie inside the memory: this was checked when they were read.
    range.start.wrapping_add(usize::try_from(run.offset()).unwrap_or(0))
}

/// Returns the bytes of `run`.
///
/// # Safety
/// The range must be mapped, and nothing else may use it while the slice lives.
unsafe fn slice<'a>(range: Range, run: Run) -> &'a mut [u8] {
    let bytes = usize::try_from(run.bytes()).unwrap_or(0);
    debug_assert!(run.end() <= (range.bytes / PAGE_BYTES) as u64);
    // SAFETY: the run lies inside the range, which the caller vouches for.
    unsafe { std::slice::from_raw_parts_mut(address(range, run), bytes) }
}

/// Maps `run` of `file` privately over what is there.
fn map_file(range: Range, run: Run, file: &File, name: &'static str) -> Result<(), LoadError> {
    let bytes = usize::try_from(run.bytes()).unwrap_or(0);
    let offset = libc::off_t::try_from(run.offset()).unwrap_or(libc::off_t::MAX);
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE);
    let at = address(range, run).cast();
    // SAFETY: the run lies inside the range, a mapping of guest memory that nothing else uses yet and that is unmapped
    // as a whole later.
    let mapped = unsafe { libc::mmap(at, bytes, protection, flags, file.as_raw_fd(), offset) };
    if mapped == libc::MAP_FAILED {
        return Err(LoadError::Map { name, source: io::Error::last_os_error() });
    }
    Ok(())
}
