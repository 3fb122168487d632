//! The overlay's block map in memory: one bit per sector, set when the sector's data is in the overlay.
//!
//! Because there is one bit per 512-byte sector, a write never has to copy up the rest of a larger block first. The
//! size of the map is that of the disk divided by 4096, in memory that is mapped only where bits are set. The
//! overlay file holds the map in pages of 4 KiB; the map in memory records which pages differ from the file.

use std::ops::Range;

use hearth_proto::vmm::v1::SavedMap;

/// Most checksums of a map: in the map of a larger disk, one covers several pages.
const PIECES: usize = 4096;

/// Size in bytes of a page of the map, which is written back as a unit; each page maps 16 MiB of disk.
pub const MAP_PAGE_SIZE: usize = 4096;

/// [`MAP_PAGE_SIZE`] for file offsets.
pub(super) const MAP_PAGE_BYTES: u64 = 4096;

const WORDS_PER_PAGE: usize = MAP_PAGE_SIZE / 8;

/// Adjacent sectors that lie in the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Whether the sectors are in the overlay; if not, they are read from the layer or base below.
    pub in_overlay: bool,
    /// Number of sectors.
    pub sectors: u64,
}

/// The set of a disk's sectors that are in the overlay.
#[derive(Debug)]
pub struct OverlayMap {
    words: Vec<u64>,
    /// One bit per page of `words`.
    dirty: Vec<u64>,
    /// One bit per page of `words`, set when the page has set bits: the others are not even read.
    used: Vec<u64>,
    sectors: u64,
}

impl OverlayMap {
    /// Makes a map for a disk of `sectors` 512-byte sectors, none of which is in the overlay. The map costs address
    /// space, not memory, until bits are set.
    #[must_use]
    pub fn new(sectors: u64) -> Self {
        let pages = usize::try_from(Self::file_bytes(sectors) / MAP_PAGE_BYTES).unwrap_or(0);
        let bits = vec![0; pages.div_ceil(64)];
        Self { words: vec![0; pages * WORDS_PER_PAGE], dirty: bits.clone(), used: bits, sectors }
    }

    /// Number of bytes that the map of a disk of `sectors` sectors takes in the file: whole pages.
    #[must_use]
    pub fn file_bytes(sectors: u64) -> u64 {
        sectors.div_ceil(8).next_multiple_of(MAP_PAGE_BYTES)
    }

    /// Number of sectors of the disk.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The run of sectors from `sector` on that lie in the same file, at most `limit` of them. The run is empty past
    /// the end of the disk.
    #[must_use]
    pub fn run(&self, sector: u64, limit: u64) -> Run {
        let limit = limit.min(self.sectors.saturating_sub(sector));
        let (mut index, bit) = Self::position(sector);
        let Some(first) = self.words.get(index).filter(|_| limit > 0) else {
            return Run { in_overlay: false, sectors: 0 };
        };
        let in_overlay = first >> bit & 1 == 1;
        // With the bits flipped where needed, the run consists of zeros.
        let flip = if in_overlay { u64::MAX } else { 0 };
        let mut sectors = u64::from(((first ^ flip) >> bit).trailing_zeros()).min(64 - u64::from(bit));
        if sectors == 64 - u64::from(bit) {
            while sectors < limit {
                index += 1;
                let Some(word) = self.words.get(index) else { break };
                let same = (word ^ flip).trailing_zeros();
                sectors += u64::from(same);
                if same < 64 {
                    break;
                }
            }
        }
        Run { in_overlay, sectors: sectors.min(limit) }
    }

    /// Marks `count` sectors from `sector` on as being in the overlay. Sectors past the end of the disk are ignored.
    pub fn set(&mut self, sector: u64, count: u64) {
        let mut sector = sector;
        let end = sector.saturating_add(count).min(self.sectors);
        while sector < end {
            let (index, bit) = Self::position(sector);
            let in_word = (end - sector).min(64 - u64::from(bit));
            let mask = if in_word == 64 { u64::MAX } else { ((1 << in_word) - 1) << bit };
            if let Some(word) = self.words.get_mut(index)
                && *word & mask != mask
            {
                *word |= mask;
                self.mark_dirty(index / WORDS_PER_PAGE);
                mark(&mut self.used, index / WORDS_PER_PAGE);
            }
            sector += in_word;
        }
    }

    /// Marks all sectors that are marked in `other`, the map of a disk of the same size.
    pub(super) fn unite(&mut self, other: &Self) {
        for (index, (word, more)) in self.words.iter_mut().zip(&other.words).enumerate() {
            // Words that do not change are not written: that keeps the memory unmapped.
            if *word | more != *word {
                *word |= more;
                let page = index / WORDS_PER_PAGE;
                mark(&mut self.dirty, page);
                mark(&mut self.used, page);
            }
        }
    }

    /// Number of sectors that are in the overlay.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn position(sector: u64) -> (usize, u32) {
        (usize::try_from(sector / 64).unwrap_or(usize::MAX), u32::try_from(sector % 64).unwrap_or(0))
    }

    /// The first page from `from` on that differs from the file.
    #[must_use]
    pub fn next_dirty(&self, from: usize) -> Option<usize> {
        let mut index = from / 64;
        let mut word = self.dirty.get(index)? & u64::MAX << (from % 64);
        while word == 0 {
            index += 1;
            word = *self.dirty.get(index)?;
        }
        Some(index * 64 + usize::try_from(word.trailing_zeros()).unwrap_or(0))
    }

    /// Records that page `page` differs from the file.
    pub fn mark_dirty(&mut self, page: usize) {
        mark(&mut self.dirty, page);
    }

    /// Copies page `page` into `buffer` in the format of the file, and marks the page as clean. Returns `false` when
    /// there is no such page or the buffer is not [`MAP_PAGE_SIZE`] bytes long.
    pub fn take_page(&mut self, page: usize, buffer: &mut [u8]) -> bool {
        let words = page.checked_mul(WORDS_PER_PAGE).and_then(|at| self.words.get(at..at + WORDS_PER_PAGE));
        let (Some(words), MAP_PAGE_SIZE) = (words, buffer.len()) else { return false };
        for (bytes, word) in buffer.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        if let Some(word) = self.dirty.get_mut(page / 64) {
            *word &= !(1 << (page % 64));
        }
        true
    }

    /// Loads bytes of the file into the map at `offset` bytes, when the overlay is opened. The offset and the number
    /// of bytes are multiples of 8. Bits past the end of the disk are dropped.
    pub(super) fn load(&mut self, offset: usize, bytes: &[u8]) {
        let first = offset / 8;
        for (position, chunk) in bytes.chunks_exact(8).enumerate() {
            let (Some(word), Ok(chunk)) = (self.words.get_mut(first + position), chunk.try_into()) else {
                return;
            };
            let value = u64::from_le_bytes(chunk);
            // Words without set bits are not written: that keeps the memory unmapped.
            if value != 0 {
                *word = value;
                mark(&mut self.used, (first + position) / WORDS_PER_PAGE);
            }
        }
        let (last, used) = Self::position(self.sectors);
        if let Some(word) = self.words.get_mut(last)
            && *word >> used != 0
        {
            *word &= (1 << used) - 1;
        }
    }

    /// Makes checksums of the map as it is in memory, which a snapshot keeps beside the file.
    #[must_use]
    pub fn sums(&self) -> SavedMap {
        let pages = self.words.len() / WORDS_PER_PAGE;
        let each = pages.div_ceil(PIECES).max(1).next_power_of_two();
        let mut saved =
            SavedMap { pages_each: u32::try_from(each).unwrap_or(u32::MAX), ..SavedMap::default() };
        let mut bytes = [0; MAP_PAGE_SIZE];
        for (piece, words) in self.words.chunks(each * WORDS_PER_PAGE).enumerate() {
            let mut sum = crc32fast::Hasher::new();
            let mut any = false;
            for (page, words) in words.chunks(WORDS_PER_PAGE).enumerate() {
                let number = piece * each + page;
                if self.used.get(number / 64).is_none_or(|word| word >> (number % 64) & 1 == 0) {
                    continue;
                }
                for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                // A page that a file has as zeros and another one as a hole is the same.
                if bytes.iter().any(|byte| *byte != 0) {
                    any = true;
                    sum.update(&(number as u64).to_le_bytes());
                    sum.update(&bytes);
                }
            }
            if any {
                saved.pieces.push(u32::try_from(piece).unwrap_or(u32::MAX));
                saved.sums.push(sum.finalize());
            }
        }
        saved
    }

    /// Compares the map with the checksums that [`Self::sums`] has made of it. Returns the first sectors that are marked
    /// differently, or may be.
    #[must_use]
    pub fn difference(&self, saved: &SavedMap) -> Option<Range<u64>> {
        let own = self.sums();
        if own == *saved {
            return None;
        }
        let each = u64::from(own.pages_each) * MAP_PAGE_BYTES * 8;
        let of =
            |map: &SavedMap| map.pieces.iter().copied().zip(map.sums.iter().copied()).collect::<Vec<_>>();
        let (own, saved) = (of(&own), of(saved));
        let first = |these: &[(u32, u32)], those: &[(u32, u32)]| {
            these.iter().find(|piece| !those.contains(piece)).map(|(piece, _)| u64::from(*piece))
        };
        let piece = [first(&own, &saved), first(&saved, &own)].into_iter().flatten().min().unwrap_or(0);
        let start = piece.saturating_mul(each).min(self.sectors);
        Some(start..start.saturating_add(each).min(self.sectors))
    }
}

/// Sets the bit of a page.
fn mark(bits: &mut [u64], page: usize) {
    if let Some(word) = bits.get_mut(page / 64) {
        *word |= 1 << (page % 64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_map_is_one_run_of_base_sectors() {
        let map = OverlayMap::new(1000);
        assert_eq!(map.run(0, u64::MAX), Run { in_overlay: false, sectors: 1000 });
        assert_eq!(map.run(999, 5), Run { in_overlay: false, sectors: 1 });
        for past in [1000, 4096 * 8, u64::MAX] {
            assert_eq!(map.run(past, 1).sectors, 0);
        }
        assert_eq!((map.next_dirty(0), map.count()), (None, 0));
    }

    #[test]
    fn a_set_bit_makes_its_page_dirty_until_it_is_taken() {
        let mut map = OverlayMap::new(100 * 4096 * 8);
        map.set(70 * 4096 * 8, 1);
        map.set(3 * 4096 * 8 - 1, 2);
        assert_eq!((map.next_dirty(0), map.next_dirty(3), map.next_dirty(4)), (Some(2), Some(3), Some(70)));
        let mut page = vec![0; MAP_PAGE_SIZE];
        assert!(map.take_page(2, &mut page));
        assert_eq!((page[MAP_PAGE_SIZE - 1], map.next_dirty(0)), (0x80, Some(3)));
        map.set(3 * 4096 * 8 - 1, 1);
        assert_eq!(map.next_dirty(0), Some(3), "a bit that was set already changes nothing");
        assert!(!map.take_page(100, &mut page) && !map.take_page(usize::MAX, &mut page));
        assert_eq!(map.next_dirty(71), None);
    }

    #[test]
    fn bits_past_the_end_of_the_disk_are_dropped() {
        let mut map = OverlayMap::new(70);
        map.load(0, &[0xff; MAP_PAGE_SIZE][..16]);
        map.set(60, u64::MAX);
        assert_eq!((map.count(), map.run(0, 100)), (70, Run { in_overlay: true, sectors: 70 }));
    }

    #[test]
    fn every_flipped_bit_of_a_map_is_found_by_its_sectors() {
        const PAGE_SECTORS: u64 = 4096 * 8;
        let mut map = OverlayMap::new(10 * PAGE_SECTORS - 5);
        map.set(3 * PAGE_SECTORS - 1, 2);
        map.set(7 * PAGE_SECTORS + 100, 300);
        let sums = map.sums();
        assert_eq!((sums.pages_each, &sums.pieces[..]), (1, &[2, 3, 7][..]));
        assert_eq!(map.difference(&sums), None);
        let loaded = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = vec![0; 10 * MAP_PAGE_SIZE];
            let mut from = 0;
            let mut copy = OverlayMap::new(map.sectors());
            copy.unite(&map);
            while let Some(page) = copy.next_dirty(from) {
                copy.take_page(page, &mut bytes[page * MAP_PAGE_SIZE..][..MAP_PAGE_SIZE]);
                from = page + 1;
            }
            change(&mut bytes);
            let mut read = OverlayMap::new(map.sectors());
            read.load(0, &bytes);
            read
        };
        assert_eq!(loaded(&|_| ()).difference(&sums), None);
        for (at, page) in [(0, 0), (2 * 4096 + 4095, 2), (7 * 4096 + 13, 7), (9 * 4096 + 7, 9)] {
            for bit in 0..8 {
                let found = loaded(&|bytes| bytes[at] ^= 1 << bit).difference(&sums);
                let end = ((page + 1) * PAGE_SECTORS).min(map.sectors());
                assert_eq!(found, Some(page * PAGE_SECTORS..end), "bit {bit} of byte {at}");
            }
        }
        assert_eq!(
            loaded(&|bytes| bytes[7 * 4096..8 * 4096].fill(0)).difference(&sums).unwrap().start,
            7 * PAGE_SECTORS
        );
    }

    #[test]
    fn the_map_of_a_large_disk_has_a_bounded_number_of_checksums() {
        let mut map = OverlayMap::new(15 << 31); // 15 TiB
        map.set(0, 1);
        map.set((15 << 31) - 1, 1);
        let sums = map.sums();
        assert!(sums.pieces.len() == 2 && sums.pieces[1] < 4096 && sums.pages_each == 256, "{sums:?}");
        assert_eq!(map.difference(&sums), None);
        map.set(1, 1);
        assert_eq!(map.difference(&sums), Some(0..256 * 4096 * 8));
    }

    proptest! {
        /// Runs agree with a model of single bits, and a map loaded from its pages equals the one saved.
        #[test]
        fn the_map_agrees_with_its_model(
            sectors in 1..70_000u64,
            sets in proptest::collection::vec((0..70_000u64, 0..300u64), 0..40),
            lookups in proptest::collection::vec((0..70_000u64, 0..2000u64), 1..40),
        ) {
            let mut map = OverlayMap::new(sectors);
            let mut model = vec![false; usize::try_from(sectors).unwrap()];
            for (sector, count) in sets {
                map.set(sector, count);
                model.iter_mut().skip(sector as usize).take(count as usize).for_each(|bit| *bit = true);
            }
            let mut copy = OverlayMap::new(sectors);
            let mut page = vec![0; MAP_PAGE_SIZE];
            while let Some(dirty) = map.next_dirty(0) {
                prop_assert!(map.take_page(dirty, &mut page));
                copy.load(dirty * MAP_PAGE_SIZE, &page);
            }
            for map in [&map, &copy] {
                prop_assert_eq!(map.count(), model.iter().filter(|bit| **bit).count() as u64);
                for &(sector, limit) in &lookups {
                    let rest = model.get(sector as usize..).unwrap_or_default();
                    let in_overlay = rest.first().copied().unwrap_or(false) && limit > 0;
                    let same = rest.iter().take(limit as usize).take_while(|bit| **bit == in_overlay).count();
                    prop_assert_eq!(map.run(sector, limit), Run { in_overlay, sectors: same as u64 });
                }
            }
        }
    }
}
