//! A model of a disk under random requests. The guest sends the requests to a real disk and checks what it reads. The
//! host can repeat the same requests without a disk and check the file behind it.

use std::ops::Range;

use crate::pattern::{self, Random, mix};

/// Size of a sector in bytes.
pub const SECTOR: usize = 512;

/// Maximum number of sectors of one request: 256 KiB.
pub const MAX_SECTORS: u64 = 512;

/// The expected content of a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The initial content of the disk: the stream of the base's seed.
    Base,
    /// Zeros.
    Zeros,
    /// Undefined, because the sector was discarded or its initial content is not known.
    Anything,
    /// The content of the write with this number.
    Written(u64),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read these sectors and check them.
    Read(Range<u64>),
    /// Write these sectors, see [`DiskModel::fill`].
    Write(Range<u64>),
    /// Write zeros to these sectors.
    WriteZeros(Range<u64>),
    /// Discard these sectors.
    Discard(Range<u64>),
    /// Make everything written durable.
    Flush,
}

/// The model of a range of a disk's sectors.
#[derive(Debug)]
pub struct DiskModel {
    seed: u64,
    base_seed: u64,
    first: u64,
    sectors: Vec<Content>,
    random: Random,
    writes: u64,
}

impl DiskModel {
    /// Creates a model of a range of sectors that initially contain the stream of `base_seed`. The requests follow from
    /// `seed`.
    pub fn new(seed: u64, base_seed: u64, range: Range<u64>) -> Self {
        let count = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let random = Random::new(mix(seed));
        Self { seed, base_seed, first: range.start, sectors: vec![Content::Base; count], random, writes: 0 }
    }

    /// Does the same as [`Self::new`], for sectors whose content is unknown until they are written.
    pub fn of_unknown(seed: u64, range: Range<u64>) -> Self {
        let mut model = Self::new(seed, 0, range);
        model.sectors.fill(Content::Anything);
        model
    }

    /// Returns the range of sectors of the model.
    pub fn sectors(&self) -> Range<u64> {
        self.first..self.first + self.sectors.len() as u64
    }

    /// Chooses the next request and records its effect.
    pub fn next_request(&mut self) -> Request {
        let kind = self.random.below(100);
        let range = self.random_range();
        match kind {
            0..45 => Request::Read(range),
            45..85 => {
                self.writes += 1;
                self.record(&range, Content::Written(self.writes));
                Request::Write(range)
            }
            85..90 => {
                self.record(&range, Content::Zeros);
                Request::WriteZeros(range)
            }
            90..95 => {
                self.record(&range, Content::Anything);
                Request::Discard(range)
            }
            _ => Request::Flush,
        }
    }

    /// Fills `bytes` with what the last chosen write writes to the sectors from `sector`.
    pub fn fill(&self, sector: u64, bytes: &mut [u8]) {
        pattern::fill(self.stream_of_write(self.writes), sector * SECTOR as u64, bytes);
    }

    /// Compares what was read from the sectors from `sector` with their expected content.
    ///
    /// # Errors
    /// A description of the sector that is wrong, and of its expected content.
    pub fn check(&self, sector: u64, bytes: &[u8]) -> Result<(), String> {
        for (sector, bytes) in (sector..).zip(bytes.chunks(SECTOR)) {
            let content = self.index(sector).and_then(|index| self.sectors.get(index)).copied();
            let offset = sector * SECTOR as u64;
            let right = match content {
                None => return Err(format!("sector {sector} is outside the model")),
                Some(Content::Anything) => true,
                Some(Content::Zeros) => bytes.iter().all(|byte| *byte == 0),
                Some(Content::Base) => pattern::mismatch(self.base_seed, offset, bytes).is_none(),
                Some(Content::Written(write)) => {
                    pattern::mismatch(self.stream_of_write(write), offset, bytes).is_none()
                }
            };
            if !right {
                let start = bytes.get(..8).unwrap_or(bytes);
                return Err(format!("sector {sector} should hold {content:?} but starts with {start:02x?}"));
            }
        }
        Ok(())
    }

    fn stream_of_write(&self, write: u64) -> u64 {
        mix(self.seed).wrapping_add(write)
    }

    /// Returns a random range. Small and large ranges, aligned to pages and not, are all frequent. The range of the
    /// model is short, so that requests overlap.
    fn random_range(&mut self) -> Range<u64> {
        let total = self.sectors.len() as u64;
        let longest = if self.random.below(4) == 0 { MAX_SECTORS } else { 16 };
        let mut count = 1 + self.random.below(longest.min(total));
        let mut start = self.random.below(total - count + 1);
        if self.random.below(2) == 0 && total >= 8 {
            count = (count & !7).max(8);
            start = (start & !7).min((total - count) & !7);
        }
        self.first + start..self.first + start + count
    }

    fn record(&mut self, range: &Range<u64>, content: Content) {
        for sector in range.clone() {
            if let Some(known) = self.index(sector).and_then(|index| self.sectors.get_mut(index)) {
                *known = content;
            }
        }
    }

    fn index(&self, sector: u64) -> Option<usize> {
        usize::try_from(sector.checked_sub(self.first)?).ok()
    }
}

/// Splits a disk's sectors among `workers`, each of which has its own model and seed.
pub fn models(seed: u64, base_seed: u64, sectors: u64, workers: u64) -> Vec<DiskModel> {
    let share = sectors / workers.max(1);
    let model = |worker: u64| {
        DiskModel::new(seed.wrapping_add(worker), base_seed, worker * share..(worker + 1) * share)
    };
    (0..workers).map(model).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_disk_agrees_with_the_model() {
        let (first, sectors) = (64_u64, 2048_usize);
        let mut disk = vec![0; sectors * SECTOR];
        pattern::fill(9, first * SECTOR as u64, &mut disk);
        let mut model = DiskModel::new(5, 9, first..first + sectors as u64);
        let mut kinds = [0; 5];
        for _ in 0..3000 {
            let request = model.next_request();
            let (kind, range) = match &request {
                Request::Read(range) => (0, range.clone()),
                Request::Write(range) => (1, range.clone()),
                Request::WriteZeros(range) => (2, range.clone()),
                Request::Discard(range) => (3, range.clone()),
                Request::Flush => (4, first..first),
            };
            kinds[kind] += 1;
            let at = |sector: u64| usize::try_from(sector - first).unwrap() * SECTOR;
            let bytes = &mut disk[at(range.start)..at(range.end)];
            match request {
                Request::Read(_) => model.check(range.start, bytes).unwrap(),
                Request::Write(_) => model.fill(range.start, bytes),
                Request::WriteZeros(_) | Request::Discard(_) => bytes.fill(0),
                Request::Flush => {}
            }
        }
        assert!(kinds.iter().all(|count| *count > 50), "{kinds:?}");
        model.check(first, &disk).unwrap();
    }

    #[test]
    fn of_an_unknown_disk_what_was_written_is_known() {
        let mut model = DiskModel::of_unknown(5, 0..64);
        model.check(0, &[7; 64 * SECTOR]).unwrap();
        let range = loop {
            if let Request::Write(range) = model.next_request() {
                break range;
            }
        };
        model.check(range.start, &[7; SECTOR]).unwrap_err();
    }

    #[test]
    fn a_lost_write_is_noticed() {
        let mut model = DiskModel::new(1, 2, 0..4096);
        let range = loop {
            if let Request::Write(range) = model.next_request() {
                break range;
            }
        };
        let mut old = [0; SECTOR];
        pattern::fill(2, range.start * SECTOR as u64, &mut old);
        assert!(model.check(range.start, &old).unwrap_err().contains("Written(1)"));
    }
}
