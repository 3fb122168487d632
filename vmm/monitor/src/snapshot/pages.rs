//! Finds the private copies among the pages of a private mapping, and checks the contents of pages.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use super::runs::Runs;
use super::{PAGE, PAGE_BYTES};

/// `PAGEMAP_SCAN` (Linux, include/uapi/linux/fs.h).
const PAGEMAP_SCAN: u64 = 0xc060_6610;

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// Maximum number of runs that one call requests.
const BATCH: usize = 512;

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// A range of memory of this process that holds guest memory.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// Address of the first byte, on a page boundary.
    pub start: *mut u8,
    /// Length in bytes, a multiple of the page size.
    pub bytes: usize,
}

// SAFETY: an address and a length; the code that dereferences the pointer states why that is sound.
unsafe impl Send for Range {}

/// The pages of a range that do not show a file's content. Pages count from the start of the range.
#[derive(Debug, Default)]
pub struct Found {
    /// This process's own copies, present or swapped out.
    pub own: Runs,
    /// Pages at which the kernel's page of zeros is mapped.
    ///
    /// In anonymous memory that was never written, a read has mapped it there. Anywhere else it stands in for a page of
    /// this process that contained zeros: the kernel replaces such pages when it splits a huge page (Linux ≥ 6.12, under
    /// memory pressure) and, where enabled, when it merges equal pages (KSM). The two cannot be told apart by the page.
    pub zero: Runs,
    /// How many of the own copies are swapped out.
    pub swapped: u64,
}

/// Returns the pages of `range` that do not show a file's content. `pagemap` is `/proc/self/pagemap`.
///
/// # Errors
/// The error of the kernel; Linux before 6.7 does not know the request.
pub fn scan(pagemap: &File, range: Range) -> io::Result<Found> {
    let mut regions = vec![PageRegion::default(); BATCH];
    let mut found = Found::default();
    let first = range.start as u64;
    let end = first + range.bytes as u64;
    let mut at = first;
    while at < end {
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            start: at,
            end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: BATCH as u64,
            category_inverted: PAGE_IS_FILE,
            category_mask: PAGE_IS_FILE,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_SWAPPED | PAGE_IS_PFNZERO,
            ..ScanArguments::default()
        };
        // SAFETY: the arguments live across the call, and `vec` has room for `vec_len` regions.
        let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        };
        for region in regions.iter().take(count) {
            let (at, pages) = ((region.start - first) / PAGE, (region.end - region.start) / PAGE);
            if region.categories & PAGE_IS_PFNZERO != 0 {
                found.zero.push(at, pages);
                continue;
            }
            found.own.push(at, pages);
            if region.categories & PAGE_IS_SWAPPED != 0 {
                found.swapped += pages;
            }
        }
        if arguments.walk_end <= at {
            return Err(io::Error::other("PAGEMAP_SCAN does not get on"));
        }
        at = arguments.walk_end;
    }
    Ok(found)
}

/// Number of bytes that are combined before each check whether all of them are zero.
const STRIDE: usize = 64;

/// Whether the page at `page` contains only zeros.
///
/// # Safety
/// `page` must be on a page boundary and mapped for reading. If the guest writes to the page meanwhile, the write may
/// or may not be seen.
#[must_use]
pub unsafe fn is_zero(page: *const u8) -> bool {
    let words = page.cast::<u64>();
    (0..PAGE_BYTES / STRIDE).all(|block| {
        let mut all = 0;
        for word in 0..STRIDE / 8 {
            // SAFETY: inside the page, which the caller guarantees to be mapped, and aligned as the page is. Volatile,
            // since the guest may write to it.
            all |= unsafe { words.add(block * (STRIDE / 8) + word).read_volatile() };
        }
        all == 0
    })
}

/// Whether the page at `page` contains exactly the bytes `other`.
///
/// # Safety
/// The same as for [`is_zero`].
#[must_use]
pub unsafe fn is_equal(page: *const u8, other: &[u8]) -> bool {
    let words = page.cast::<u64>();
    let (others, rest) = other.as_chunks::<8>();
    others.len() == PAGE_BYTES / 8
        && rest.is_empty()
        && others.chunks(STRIDE / 8).enumerate().all(|(block, others)| {
            let mut difference = 0;
            for (word, other) in others.iter().enumerate() {
                // SAFETY: as in `is_zero`; there are as many words as in the page.
                let own = unsafe { words.add(block * (STRIDE / 8) + word).read_volatile() };
                difference |= own ^ u64::from_ne_bytes(*other);
            }
            difference == 0
        })
}

/// Returns the bytes of the page at `page`.
///
/// # Safety
/// The same as for [`is_zero`]. A copy of a page to which the guest writes meanwhile may have parts of before and after.
#[must_use]
pub unsafe fn copy_of(page: *const u8) -> [u8; PAGE_BYTES] {
    let mut copy = [0; PAGE_BYTES];
    // SAFETY: both have the size of a page; the caller guarantees that `page` is mapped.
    unsafe { libc::memcpy(copy.as_mut_ptr().cast(), page.cast(), PAGE_BYTES) };
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps `file` privately, or anonymous memory if there is no file.
    fn map(file: Option<&File>, pages: usize) -> Range {
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_PRIVATE, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        let (bytes, protection) = (pages * PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: the test's own mapping.
        unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
        Range { start: start.cast(), bytes }
    }

    fn touch(range: Range, page: usize, value: Option<u8>) -> u8 {
        // SAFETY: inside a mapping that the test never unmaps.
        unsafe {
            let byte = range.start.add(page * PAGE_BYTES);
            if let Some(value) = value {
                byte.write_volatile(value);
            }
            byte.read_volatile()
        }
    }

    /// Returns the process's own pages and the zero pages; `None` if the kernel does not support the request.
    fn found(range: Range) -> Option<(Vec<u64>, Vec<u64>)> {
        let numbers = |runs: Runs| runs.as_slice().iter().flat_map(|run| run.first..run.end()).collect();
        match scan(&File::open("/proc/self/pagemap").unwrap(), range) {
            Ok(found) => Some((numbers(found.own), numbers(found.zero))),
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                hearth_testing::skip("this kernel has no PAGEMAP_SCAN");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn only_written_pages_of_a_file_are_its_mappers_own() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 * PAGE).unwrap();
        let range = map(Some(&file), 16);
        for page in 0..10 {
            touch(range, page, None);
        }
        touch(range, 3, Some(1));
        touch(range, 4, Some(1));
        touch(range, 15, Some(0));
        let Some(all) = found(range) else { return };
        assert_eq!(all, (vec![3, 4, 15], vec![]));
        // SAFETY: the test's own mapping.
        unsafe { libc::madvise(range.start.add(4 * PAGE_BYTES).cast(), PAGE_BYTES, libc::MADV_DONTNEED) };
        assert_eq!(found(range).unwrap(), (vec![3, 15], vec![]));
        assert_eq!(touch(range, 4, None), 0, "the file's content is back");
    }

    #[test]
    fn pages_of_nothing_that_were_only_read_are_the_page_of_zeros() {
        let range = map(None, 4000);
        for page in (0..4000).step_by(3) {
            touch(range, page, None);
        }
        // This makes more runs than fit into one batch.
        for page in (1..4000).step_by(2) {
            touch(range, page, Some(9));
        }
        let Some((own, zero)) = found(range) else { return };
        assert!(own.into_iter().eq((1..4000).step_by(2)));
        assert!(zero.into_iter().eq((0..4000).step_by(6)));
    }

    #[test]
    fn a_single_bit_anywhere_makes_a_page_not_zero() {
        let range = map(None, 1);
        // SAFETY: the page is mapped.
        let zero = || unsafe { is_zero(range.start) };
        assert!(zero());
        for at in (0..PAGE_BYTES).step_by(13).chain([PAGE_BYTES - 1]) {
            // SAFETY: inside the page.
            unsafe { range.start.add(at).write_volatile(0x80) };
            assert!(!zero(), "byte {at}");
            // SAFETY: inside the page.
            unsafe { range.start.add(at).write_volatile(0) };
        }
        assert!(zero());
    }
}
