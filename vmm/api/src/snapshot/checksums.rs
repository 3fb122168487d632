//! Checksums of the pages in a file `memory`, which stand behind the pages and before the trailer.
//!
//! ```text
//! number of runs (u64)
//! each run: first page (u64), pages (u64)          ascending
//! each page of the runs: CRC-32 of its content (u32)
//! ```
//!
//! They are made while the pages are written. No restore reads them, since that would have to read all of memory; what
//! reads all of a snapshot anyway compares them. A page that a diff has taken over from a file without checksums has none.

use std::ops::Range;

/// Size of a page in bytes.
pub const PAGE: u64 = 4096;
/// [`PAGE`] for lengths in memory.
pub const PAGE_BYTES: usize = 4096;

/// Pages and their checksums, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageChecksums {
    /// First page and number of pages of each run. Runs do not overlap.
    runs: Vec<(u64, u64)>,
    /// One per page.
    sums: Vec<u32>,
}

impl PageChecksums {
    /// Computes the checksum of a page.
    #[must_use]
    pub fn of(content: &[u8]) -> u32 {
        crc32fast::hash(content)
    }

    /// Adds a page that follows all pages so far.
    pub fn push(&mut self, page: u64, sum: u32) {
        match self.runs.last_mut() {
            Some((first, pages)) if *first + *pages == page => *pages += 1,
            _ => self.runs.push((page, 1)),
        }
        self.sums.push(sum);
    }

    /// Returns the pages with their checksums, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        let pages = self.runs.iter().flat_map(|&(first, pages)| first..first + pages);
        pages.zip(self.sums.iter().copied())
    }

    /// Returns the pages as ranges of neighbours, at most `most` in each, ascending.
    pub fn chunks(&self, most: u64) -> impl Iterator<Item = Range<u64>> {
        let most = most.max(1);
        self.runs.iter().flat_map(move |&(first, pages)| {
            let parts = 0..pages.div_ceil(most);
            parts.map(move |part| first + part * most..first + pages.min((part + 1) * most))
        })
    }

    /// Returns the number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.sums.len() as u64
    }

    /// Adds those pages of `other` for which `wanted` returns true. None of them is in this list yet.
    #[must_use]
    pub fn with(&self, other: &Self, wanted: impl Fn(u64) -> bool) -> Self {
        let mut result = Self::default();
        let mut others = other.iter().filter(|(page, _)| wanted(*page)).peekable();
        for (page, sum) in self.iter() {
            while let Some((page, sum)) = others.next_if(|(other, _)| *other < page) {
                result.push(page, sum);
            }
            result.push(page, sum);
        }
        others.for_each(|(page, sum)| result.push(page, sum));
        result
    }

    /// Returns the bytes that are stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + 16 * self.runs.len() + 4 * self.sums.len());
        bytes.extend_from_slice(&(self.runs.len() as u64).to_le_bytes());
        for (first, pages) in &self.runs {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&pages.to_le_bytes());
        }
        bytes.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        bytes
    }

    /// Parses what [`Self::encode`] has returned, for a memory of `total` pages. Returns `None` if it is something else.
    #[must_use]
    pub fn decode(bytes: &[u8], total: u64) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        let (runs, sums) = rest.split_at_checked(count.checked_mul(16)?)?;
        let mut result = Self::default();
        let (mut free, mut expected) = (0, 0_u64);
        for pair in runs.as_chunks::<8>().0.as_chunks::<2>().0 {
            let [first, pages] = pair.map(u64::from_le_bytes);
            let end = first.checked_add(pages)?;
            if pages == 0 || first < free || end > total {
                return None;
            }
            (free, expected) = (end, expected + pages);
            result.runs.push((first, pages));
        }
        let (sums, rest) = sums.as_chunks::<4>();
        result.sums.extend(sums.iter().copied().map(u32::from_le_bytes));
        (rest.is_empty() && result.pages() == expected).then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pages: &[u64]) -> PageChecksums {
        let mut sums = PageChecksums::default();
        pages.iter().for_each(|&page| sums.push(page, page as u32 * 3));
        sums
    }

    #[test]
    fn checksums_survive_their_bytes() {
        for pages in [&[][..], &[0], &[1, 2, 3, 7, 9, 10]] {
            let sums = of(pages);
            assert_eq!(PageChecksums::decode(&sums.encode(), 11), Some(sums.clone()));
            assert!(sums.iter().map(|(page, _)| page).eq(pages.iter().copied()));
        }
    }

    #[test]
    fn neighbours_are_read_together_up_to_a_number() {
        let sums = of(&[1, 2, 3, 4, 5, 9]);
        assert_eq!(sums.chunks(2).collect::<Vec<_>>(), [1..3, 3..5, 5..6, 9..10]);
        assert_eq!(sums.chunks(8).collect::<Vec<_>>(), [1..6, 9..10]);
    }

    #[test]
    fn bytes_that_are_no_checksums_are_refused() {
        let good = of(&[1, 2, 7]).encode();
        assert_eq!(PageChecksums::decode(&good, 7), None, "a page that the memory does not have");
        for length in 0..good.len() {
            assert_eq!(PageChecksums::decode(&good[..length], 8), None, "{length} bytes");
        }
        for (at, value) in [(0, 3), (0, 0xff), (7, 0xff), (8, 7), (16, 0), (15, 0xff), (23, 0xff)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(PageChecksums::decode(&bad, 8), None, "byte {at}");
        }
    }

    #[test]
    fn lists_are_joined_in_the_order_of_their_pages() {
        let joined = of(&[2, 3, 8]).with(&of(&[0, 1, 4, 5, 9]), |page| page != 5);
        assert_eq!(joined, of(&[0, 1, 2, 3, 4, 8, 9]));
    }
}
