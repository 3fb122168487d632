//! Returns guest pages to the host.

use std::io;

use vm_memory::{GuestAddress, GuestMemoryBackend as _};

use super::super::DeviceError;
use super::super::queue::{Chain, QueueError};
use crate::memory::GuestMemory;

/// Size of a balloon page in bytes; it does not depend on the page sizes of the guest and the host (5.5.6).
pub const PAGE_SIZE: u64 = 4096;

/// Largest number of page numbers in one request; Linux sends 256.
pub(super) const MAX_PAGES_PER_REQUEST: usize = 1024;

/// Size in bytes of a page number in a request (`le32`).
const ENTRY: usize = 4;

/// Returns guest memory to the host in whole host pages. Holds the buffer in which page numbers are sorted.
#[derive(Debug)]
pub(super) struct Reclaimer {
    host_page: usize,
    pages: Vec<u32>,
}

impl Reclaimer {
    pub(super) fn new() -> Self {
        // SAFETY: no pointers are involved.
        let host_page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Self {
            host_page: usize::try_from(host_page).unwrap_or(4096),
            pages: Vec::with_capacity(MAX_PAGES_PER_REQUEST),
        }
    }

    /// Returns the pages whose numbers `chain` lists to the host, with one system call per run of adjacent pages. The
    /// result is the number of pages that the driver named. If host pages are larger than the balloon's, a host page
    /// is returned only where a request names all its parts.
    ///
    /// # Errors
    /// When the list is too long or does not consist of whole page numbers, or a page lies outside guest memory.
    pub(super) fn pages(&mut self, memory: &GuestMemory, chain: &Chain) -> Result<u64, DeviceError> {
        let count = page_count(chain)?;
        self.pages.clear();
        let mut entry = [0; ENTRY];
        for index in 0..count {
            // Every entry can be read in full: `count` is computed from the chain's length.
            let _ = chain.read_at(index * ENTRY, &mut entry);
            self.pages.push(u32::from_le_bytes(entry));
        }
        self.pages.sort_unstable();
        self.pages.dedup();
        let mut rest = self.pages.as_slice();
        while let Some(&first) = rest.first() {
            let run = (0..)
                .zip(rest)
                .take_while(|&(step, &page)| u64::from(page) == u64::from(first) + step)
                .count();
            rest = rest.get(run..).unwrap_or_default();
            let (address, bytes) = (u64::from(first) * PAGE_SIZE, run as u64 * PAGE_SIZE);
            // The length is at most `MAX_PAGES_PER_REQUEST` pages, which are 4 MiB.
            let length = u32::try_from(bytes).unwrap_or(u32::MAX);
            let outside = |_| QueueError::OutsideMemory { address, length };
            let slice = memory.get_slice(GuestAddress(address), length as usize).map_err(outside)?;
            // SAFETY: the slice is mapped guest memory, to which no Rust reference exists.
            unsafe { self.range(slice.ptr_guard_mut().as_ptr(), slice.len()) }?;
        }
        Ok(count as u64)
    }

    /// Returns the free memory that the writable buffers of `chain` cover to the host. The result is the number of
    /// bytes that were returned.
    ///
    /// # Errors
    /// When the host refuses.
    pub(super) fn reported(&self, chain: &Chain) -> Result<u64, DeviceError> {
        let mut bytes = 0;
        for buffer in chain.writable() {
            // SAFETY: the chain's buffers are mapped guest memory, to which no Rust reference exists.
            bytes += unsafe { self.range(buffer.iov_base.cast(), buffer.iov_len) }? as u64;
        }
        Ok(bytes)
    }

    /// Returns the whole host pages in `pointer..pointer + length` to the host. The result is their size in bytes.
    ///
    /// # Safety
    /// The range is mapped guest memory: it is private, so dropping it affects no other memory.
    unsafe fn range(&self, pointer: *mut u8, length: usize) -> Result<usize, DeviceError> {
        let before = pointer.align_offset(self.host_page);
        let Some(whole) = length.checked_sub(before).map(|rest| rest / self.host_page * self.host_page)
        else {
            return Ok(0);
        };
        if whole == 0 {
            return Ok(0);
        }
        // SAFETY: `before + whole <= length`, so this stays in the caller's range.
        let result = unsafe { libc::madvise(pointer.add(before).cast(), whole, libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(DeviceError::backend("giving balloon pages back to the host")(
                io::Error::last_os_error(),
            ));
        }
        Ok(whole)
    }
}

/// The number of page numbers that a request lists.
///
/// # Errors
/// When the request lists more than [`MAX_PAGES_PER_REQUEST`], or contains only a part of a page number.
pub(super) fn page_count(chain: &Chain) -> Result<usize, DeviceError> {
    let bytes = chain.readable_len();
    if !bytes.is_multiple_of(ENTRY) || bytes > MAX_PAGES_PER_REQUEST * ENTRY {
        return Err(DeviceError::Protocol("a balloon request is no list of at most 1024 page numbers"));
    }
    Ok(bytes / ENTRY)
}
