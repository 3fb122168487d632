//! Numbered records on a disk, for tests of what remains after the monitor was killed. The order and places of all
//! records follow from a seed. Places are written repeatedly, so that lost, torn and resurrected writes are all
//! detected.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::pattern::{self, Random, mix};

/// Size of a record in bytes.
pub const RECORD: usize = 4096;

/// Number of bytes that a disk writes atomically.
const SECTOR: usize = 512;

/// A sequence of records.
#[derive(Debug, Clone)]
pub struct Records {
    seed: u64,
    blocks: Vec<u64>,
}

impl Records {
    /// Creates `count` records at random places in `blocks`, the range of the disk's blocks, which have the size of a
    /// record.
    pub fn new(seed: u64, count: u64, blocks: &Range<u64>) -> Self {
        let mut random = Random::new(mix(seed));
        let places = blocks.end.saturating_sub(blocks.start);
        Self { seed, blocks: (0..count).map(|_| blocks.start + random.below(places)).collect() }
    }

    /// Returns the records in order: each with its number and the block of the disk to which it is written.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (0..).zip(self.blocks.iter().copied())
    }

    /// Fills `bytes` with record `number`.
    pub fn fill(&self, number: u64, bytes: &mut [u8]) {
        pattern::fill(self.stream(number), 0, bytes);
    }

    /// Checks a disk after the first `flushed` records were made durable: every place must contain the newest of them
    /// or a newer one. Returns the number of places with durable records.
    ///
    /// # Errors
    /// A description of the place with wrong content, or the error of `read`.
    pub fn verify<R>(&self, flushed: u64, mut read: R) -> Result<usize, String>
    where
        R: FnMut(u64, &mut [u8]) -> Result<(), String>,
    {
        let mut places: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (number, block) in self.iter() {
            let records = places.entry(block).or_default();
            if number < flushed {
                records.clear();
            }
            records.push(number);
        }
        places.retain(|_, records| records.first().is_some_and(|oldest| *oldest < flushed));
        let mut bytes = vec![0; RECORD];
        for (block, records) in &places {
            read(*block, &mut bytes)?;
            for (index, sector) in (0_u64..).zip(bytes.chunks(SECTOR)) {
                let holds = |record: &u64| {
                    pattern::mismatch(self.stream(*record), index * SECTOR as u64, sector).is_none()
                };
                if !records.iter().any(holds) {
                    return Err(format!(
                        "block {block}, sector {index} holds none of the records {records:?} (durable: {flushed})"
                    ));
                }
            }
        }
        Ok(places.len())
    }

    fn stream(&self, number: u64) -> u64 {
        mix(self.seed).wrapping_add(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(records: &Records, up_to: u64) -> BTreeMap<u64, Vec<u8>> {
        let mut disk = BTreeMap::new();
        for (number, block) in records.iter().filter(|(number, _)| *number < up_to) {
            let mut bytes = vec![0; RECORD];
            records.fill(number, &mut bytes);
            disk.insert(block, bytes);
        }
        disk
    }

    fn verify(records: &Records, flushed: u64, disk: &BTreeMap<u64, Vec<u8>>) -> Result<usize, String> {
        records.verify(flushed, |block, bytes| {
            if let Some(record) = disk.get(&block) {
                bytes.copy_from_slice(record);
            }
            Ok(())
        })
    }

    #[test]
    fn what_was_flushed_may_be_newer_but_never_older() {
        let records = Records::new(3, 200, &(10..50));
        let disk = written(&records, 120);
        for flushed in 0..=120 {
            verify(&records, flushed, &disk).unwrap();
        }
        assert!(verify(&records, 121, &disk).unwrap_err().contains("durable: 121"));
    }

    #[test]
    fn a_record_may_be_torn_only_between_sectors_while_it_is_not_flushed() {
        let records = Records::new(3, 2, &(0..1));
        let (old, new) = (written(&records, 1), written(&records, 2));
        let mut disk = old.clone();
        disk.get_mut(&0).unwrap()[512..1024].copy_from_slice(&new[&0][512..1024]);
        verify(&records, 1, &disk).unwrap();
        assert!(verify(&records, 2, &disk).is_err());
        disk.get_mut(&0).unwrap()[600] ^= 1;
        assert!(verify(&records, 1, &disk).is_err());
    }
}
