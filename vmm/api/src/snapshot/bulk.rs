//! Reading all of a file, to compare it with checksums.
//!
//! What is compared has to come from the disk: a page that is still in the page cache may be whole while its block is not.
//! So files are read past the page cache where their file system can (`O_DIRECT`, open(2)), which also leaves the cache to
//! those that need it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

/// Number of bytes that are read at a time, at most.
pub const CHUNK: u64 = 1 << 20;
/// Offsets of reads, and addresses of buffers, are multiples of this.
const ALIGNMENT: usize = 4096;

/// Is called with the number of bytes after each read; an error ends the reading.
pub type OnRead<'a> = &'a mut dyn FnMut(u64) -> io::Result<()>;

/// Reads files in pieces into a buffer of its own.
pub struct Bulk<'a> {
    buffer: Vec<u8>,
    on_read: OnRead<'a>,
    direct: bool,
}

impl std::fmt::Debug for Bulk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bulk").field("direct", &self.direct).finish_non_exhaustive()
    }
}

impl<'a> Bulk<'a> {
    /// Reads from the disk, past the page cache, where the file system can.
    #[must_use]
    pub fn from_disk(on_read: OnRead<'a>) -> Self {
        Self { buffer: vec![0; to_usize(CHUNK) + ALIGNMENT], on_read, direct: true }
    }

    /// Reads through the page cache: what was just written is what was meant, whatever the disk has made of it.
    #[must_use]
    pub fn through_cache(on_read: OnRead<'a>) -> Self {
        Self { direct: false, ..Self::from_disk(on_read) }
    }

    /// Begins to read a file.
    pub fn file<'f>(&mut self, file: &'f File) -> BulkFile<'_, 'f, 'a> {
        let direct = self.direct && set_direct(file, true).is_ok();
        BulkFile { bulk: self, file, direct }
    }
}

/// A file that is being read.
#[derive(Debug)]
pub struct BulkFile<'b, 'f, 'a> {
    bulk: &'b mut Bulk<'a>,
    file: &'f File,
    direct: bool,
}

impl BulkFile<'_, '_, '_> {
    /// Reads `length` bytes, at most [`CHUNK`], at `at`, a multiple of 4096.
    ///
    /// # Errors
    /// The error that the host returned, `UnexpectedEof` where the file ends before, or the error of the caller of each
    /// read.
    pub fn read(&mut self, at: u64, length: u64) -> io::Result<&[u8]> {
        let length = to_usize(length.min(CHUNK));
        let start = self.bulk.buffer.as_ptr().align_offset(ALIGNMENT);
        let (mut done, all) = (0, length.next_multiple_of(ALIGNMENT));
        while done < length {
            let Some(rest) = self.bulk.buffer.get_mut(start + done..start + all) else { break };
            match self.file.read_at(rest, at + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.direct => {
                    self.stop_direct()?
                }
                Err(error) => return Err(error),
            }
            // The rest of a short read may begin anywhere.
            if self.direct && done < length {
                self.stop_direct()?;
            }
        }
        (self.bulk.on_read)(length as u64)?;
        Ok(self.bulk.buffer.get(start..start + length).unwrap_or_default())
    }

    /// Returns the start of the next data at or after `at`; `None` when there is none. Holes read as zeros.
    ///
    /// # Errors
    /// The error that the host returned.
    pub fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        let offset = libc::off_t::try_from(at).map_err(io::Error::other)?;
        // SAFETY: no pointers; the descriptor is the file's own.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), offset, libc::SEEK_DATA) };
        if let Ok(found) = u64::try_from(found) {
            return Ok(Some(found));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
    }

    fn stop_direct(&mut self) -> io::Result<()> {
        self.direct = false;
        set_direct(self.file, false)
    }
}

impl Drop for BulkFile<'_, '_, '_> {
    fn drop(&mut self) {
        if self.direct {
            let _ = set_direct(self.file, false); // it could be set, so it can be reset
        }
    }
}

/// Sets whether a file is read past the page cache; fails where its file system cannot.
fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is the file's own.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = if direct { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
    // SAFETY: as above.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_whatever_its_length() {
        let mut read = 0;
        let mut count = |bytes| {
            read += bytes;
            Ok(())
        };
        for folder in [std::env::temp_dir(), "/dev/shm".into()] {
            let file = tempfile::tempfile_in(folder).unwrap();
            let content: Vec<u8> = (0..10_000_u32).map(|number| number as u8).collect();
            file.write_all_at(&content, 0).unwrap();
            let mut bulk = Bulk::from_disk(&mut count);
            let mut reading = bulk.file(&file);
            assert_eq!(reading.read(0, 4096).unwrap(), &content[..4096]);
            assert_eq!(reading.read(8192, 1808).unwrap(), &content[8192..]);
            let error = reading.read(8192, 4096).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            drop(reading);
            let mut bytes = [0; 3];
            file.read_exact_at(&mut bytes, 77).unwrap();
            assert_eq!(bytes, content[77..80], "the file is read through the cache again");
        }
        assert_eq!(read, 2 * (4096 + 1808));
    }

    #[test]
    fn who_is_told_of_each_read_can_end_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mut refuse = |_| Err(io::ErrorKind::Interrupted.into());
        Bulk::through_cache(&mut refuse).file(&file).read(0, 4096).unwrap_err();
    }
}
