//! The bound on the storage that the file of a disk's writes takes.
//!
//! A disk is sparse: it takes storage as the guest writes, up to its whole size. The host, which all guests share, hands
//! out storage in steps and sets the bound anew as it is used. A write that would take more than the bound allows waits in
//! its queue, as under a rate limit, until the bound is raised: the guest loses nothing, and sees no error from which its
//! file system would not recover.
//!
//! What counts is what the host's file system says that the file takes. It is asked only when the bytes of all writes since
//! it was asked last could have reached the bound. So the bound holds for every moment, also while writes are in progress,
//! but for what the file system needs to find the file's blocks, and for the pages of the overlay's map.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use crate::files::seek;

/// Unit in which file systems of hosts take storage, in bytes.
const BLOCK: u64 = 4096;
/// Unit of [`MetadataExt::blocks`], in bytes.
const STAT_BLOCK: u64 = 512;

/// The bound of one file.
#[derive(Debug)]
pub(super) struct Room {
    /// Storage in bytes that the file may take; `None`: as much as it needs.
    bound: Option<u64>,
    /// What the file took when that was found out last, in bytes; before that, more than any bound.
    taken: u64,
    /// Bytes of the writes that may have taken storage since then.
    since: u64,
}

impl Room {
    pub(super) fn new(bound: Option<u64>) -> Self {
        Self { bound, taken: u64::MAX, since: 0 }
    }

    /// Changes the bound; returns whether it is another one than before.
    pub(super) fn set(&mut self, bound: Option<u64>) -> bool {
        std::mem::replace(&mut self.bound, bound) != bound
    }

    /// Whether storage is bounded.
    pub(super) fn is_bounded(&self) -> bool {
        self.bound.is_some()
    }

    /// Whether a write of `bytes` bytes at `offset` in `file` may begin; then its bytes are counted. `in_progress` returns
    /// the bytes of all writes that have begun and not ended.
    ///
    /// # Errors
    /// The host's, when it cannot say what the file takes.
    pub(super) fn admit(
        &mut self,
        file: &File,
        offset: u64,
        bytes: u64,
        in_progress: impl FnOnce() -> u64,
    ) -> io::Result<bool> {
        let Some(bound) = self.bound else { return Ok(true) };
        let end = offset.saturating_add(bytes);
        let blocks = end.next_multiple_of(BLOCK).saturating_sub(offset - offset % BLOCK);
        if bytes == 0 || self.fits(bound, blocks) {
            return Ok(true);
        }
        self.taken = file.metadata()?.blocks().saturating_mul(STAT_BLOCK);
        self.since = in_progress();
        // A guest that is out of room goes on to write where it has written before.
        Ok(self.fits(bound, blocks) || seek(file, offset, libc::SEEK_HOLE)?.is_some_and(|hole| hole >= end))
    }

    /// Counts bytes if the bound allows them whatever they take.
    fn fits(&mut self, bound: u64, bytes: u64) -> bool {
        let since = self.since.saturating_add(bytes);
        let fits = self.taken.saturating_add(since) <= bound;
        if fits {
            self.since = since;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use proptest::prelude::*;

    use super::*;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        file
    }

    fn taken(file: &File) -> u64 {
        file.metadata().unwrap().blocks() * STAT_BLOCK
    }

    #[test]
    fn what_takes_storage_is_admitted_up_to_the_bound_and_what_takes_none_beyond_it() {
        let file = file();
        let mut room = Room::new(Some(64 << 10));
        let admit = |room: &mut Room, offset, bytes: usize| {
            let admitted = room.admit(&file, offset, bytes as u64, || 0).unwrap();
            if admitted {
                file.write_all_at(&vec![7; bytes], offset).unwrap();
            }
            admitted
        };
        assert!(admit(&mut room, 1 << 20, 48 << 10));
        assert!(!admit(&mut room, 0, 32 << 10), "more than is left");
        assert!(admit(&mut room, 0, 8 << 10));
        // Over and over again: what is there takes nothing.
        for _ in 0..100 {
            assert!(admit(&mut room, 1 << 20, 48 << 10));
        }
        assert!(!admit(&mut room, 32 << 10, 64 << 10));
        assert!(room.set(Some(1 << 20)) && !room.set(Some(1 << 20)));
        assert!(admit(&mut room, 32 << 10, 64 << 10));
        assert!(room.set(None) && admit(&mut room, 2 << 20, 4 << 20) && !room.is_bounded());
    }

    #[test]
    fn writes_in_progress_count_until_they_have_ended() {
        let file = file();
        let mut room = Room::new(Some(64 << 10));
        assert!(room.admit(&file, 0, 40 << 10, || 0).unwrap());
        assert!(
            !room.admit(&file, 1 << 20, 40 << 10, || 40 << 10).unwrap(),
            "the first one has not written yet"
        );
        assert!(room.admit(&file, 1 << 20, 40 << 10, || 0).unwrap(), "the first one has failed");
    }

    proptest! {
        /// Whatever is written where, the file never takes more than the bound, but for what finds its blocks.
        #[test]
        fn no_writes_take_more_than_the_bound(
            bound in 0..512_u64 << 10,
            writes in proptest::collection::vec((0..1_u64 << 21, 1..64_usize << 10), 1..60),
        ) {
            let file = file();
            let empty = taken(&file);
            let mut room = Room::new(Some(bound + empty));
            for (offset, bytes) in writes {
                if room.admit(&file, offset, bytes as u64, || 0).unwrap() {
                    file.write_all_at(&vec![1; bytes], offset).unwrap();
                }
                prop_assert!(taken(&file) <= bound + empty + (16 << 10), "{} > {bound}", taken(&file));
            }
        }
    }
}
