//! A model of memory that is written a page at a time: the expected content of each page. The guest keeps the memory
//! and checks it, also after it has been restored from a snapshot.

use crate::pattern::{self, Random, mix};

/// Size of a page in bytes.
pub const PAGE: usize = 4096;

/// The expected content of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Only zeros.
    Zeros,
    /// A part of this stream: the page with number N contains the bytes from N × [`PAGE`] on.
    Stream(u64),
}

/// A model of pages, which are numbered from 0.
#[derive(Debug, Clone, Default)]
pub struct PageModel {
    pages: Vec<Content>,
}

impl PageModel {
    /// Returns the number of pages.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there are no pages.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Adds `count` pages of zeros at the end.
    pub fn grow(&mut self, count: usize) {
        self.pages.resize(self.pages.len() + count, Content::Zeros);
    }

    /// Removes all pages.
    pub fn clear(&mut self) {
        self.pages.clear();
    }

    /// Chooses `count` different pages at random, in random order; all pages if there are no more.
    pub fn choose(&self, count: usize, seed: u64) -> Vec<usize> {
        let mut random = Random::new(mix(seed));
        let mut numbers: Vec<usize> = (0..self.pages.len()).collect();
        let count = count.min(numbers.len());
        for place in 0..count {
            let left = (numbers.len() - place) as u64;
            numbers.swap(place, place + usize::try_from(random.below(left)).unwrap_or(0));
        }
        numbers.truncate(count);
        numbers
    }

    /// Fills `bytes` with page `number`'s part of the stream `seed`, and records that.
    pub fn fill(&mut self, number: usize, seed: u64, bytes: &mut [u8]) {
        pattern::fill(seed, offset(number), bytes);
        self.record(number, Content::Stream(seed));
    }

    /// Fills the bytes of page `number` with zeros, and records that.
    pub fn zero(&mut self, number: usize, bytes: &mut [u8]) {
        bytes.fill(0);
        self.record(number, Content::Zeros);
    }

    /// Compares the bytes of page `number` with their expected content.
    ///
    /// # Errors
    /// A description of what is wrong.
    pub fn check(&self, number: usize, bytes: &[u8]) -> Result<(), String> {
        let content = self.pages.get(number).copied();
        let right = match content {
            None => return Err(format!("page {number} is outside the model")),
            Some(Content::Zeros) => bytes.iter().all(|byte| *byte == 0),
            Some(Content::Stream(seed)) => pattern::mismatch(seed, offset(number), bytes).is_none(),
        };
        if right {
            return Ok(());
        }
        let start = bytes.get(..8).unwrap_or(bytes);
        Err(format!("page {number} should hold {content:?} but starts with {start:02x?}"))
    }

    fn record(&mut self, number: usize, content: Content) {
        if let Some(known) = self.pages.get_mut(number) {
            *known = content;
        }
    }
}

fn offset(number: usize) -> u64 {
    number as u64 * PAGE as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn model(pages: usize) -> (PageModel, Vec<u8>) {
        let mut model = PageModel::default();
        model.grow(pages);
        (model, vec![0; pages * PAGE])
    }

    fn check_all(model: &PageModel, memory: &[u8]) -> Result<(), String> {
        memory.chunks(PAGE).enumerate().try_for_each(|(number, bytes)| model.check(number, bytes))
    }

    #[test]
    fn memory_that_is_written_as_the_model_says_agrees_with_it() {
        let (mut model, mut memory) = model(64);
        check_all(&model, &memory).unwrap();
        for round in 0..20_u64 {
            for number in model.choose(8, round) {
                let bytes = &mut memory[number * PAGE..][..PAGE];
                if round % 3 == 0 { model.zero(number, bytes) } else { model.fill(number, round, bytes) }
            }
            check_all(&model, &memory).unwrap();
        }
        assert!(model.check(64, &memory[..PAGE]).is_err());
    }

    #[test]
    fn an_old_a_foreign_and_a_damaged_page_are_noticed() {
        let (mut model, mut memory) = model(4);
        model.fill(1, 7, &mut memory[PAGE..2 * PAGE]);
        let old = memory.clone();
        model.fill(1, 8, &mut memory[PAGE..2 * PAGE]);
        model.fill(2, 8, &mut memory[2 * PAGE..3 * PAGE]);
        assert!(model.check(1, &old[PAGE..2 * PAGE]).unwrap_err().starts_with("page 1 should hold"));
        assert!(model.check(1, &memory[2 * PAGE..3 * PAGE]).is_err());
        assert!(model.check(3, &memory[PAGE..2 * PAGE]).is_err());
        memory[2 * PAGE - 1] ^= 1;
        assert!(model.check(1, &memory[PAGE..2 * PAGE]).is_err());
    }

    #[test]
    fn chosen_pages_are_different_ones() {
        let (model, _) = model(100);
        for count in [0, 1, 50, 100, 1000] {
            let chosen = model.choose(count, 3);
            assert_eq!(chosen.len(), count.min(100));
            assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), chosen.len());
        }
        assert_ne!(model.choose(10, 1), model.choose(10, 2));
    }
}
