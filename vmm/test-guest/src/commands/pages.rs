//! Memory in which the expected content of every page is known, see [`PageModel`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_test_guest::page_model::{PAGE, PageModel};

use super::Words;
use crate::buffer::Buffer;

/// Size of the blocks in which memory is allocated, in bytes.
const BLOCK: usize = 1 << 20;
/// Number of pages in a block.
const BLOCK_PAGES: usize = BLOCK / PAGE;

/// Numbered pages, and the expected content of each.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    model: PageModel,
    blocks: Vec<Buffer>,
}

impl Memory {
    /// Returns the bytes of page `number`, and the model.
    fn page(&mut self, number: usize) -> Result<(&mut [u8], &mut PageModel), String> {
        let start = number % BLOCK_PAGES * PAGE;
        let block = self.blocks.get_mut(number / BLOCK_PAGES).map(Buffer::bytes);
        let page = block.and_then(|block| block.get_mut(start..start + PAGE));
        Ok((page.ok_or_else(|| format!("there is no page {number}"))?, &mut self.model))
    }
}

impl Pages {
    /// `MIB SEED → PAGES`: allocates MIB MiB more, writes the stream SEED to it and holds it; returns the number of
    /// pages that are held now.
    pub(super) fn take(&self, words: &mut Words<'_>) -> Result<String, String> {
        let (mib, seed): (usize, u64) = (words.value("MIB")?, words.value("SEED")?);
        let mut memory = self.lock();
        for _ in 0..mib {
            let first = memory.model.len();
            memory.blocks.push(Buffer::new(BLOCK));
            memory.model.grow(BLOCK_PAGES);
            for number in first..first + BLOCK_PAGES {
                let (bytes, model) = memory.page(number)?;
                model.fill(number, seed, bytes);
            }
        }
        Ok(memory.model.len().to_string())
    }

    /// `COUNT SEED → PAGES`: writes the stream SEED to COUNT different pages, or to all if there are no more. SEED
    /// selects the pages. Returns their number.
    pub(super) fn dirty(&self, words: &mut Words<'_>) -> Result<String, String> {
        self.change(words, |model, number, seed, bytes| model.fill(number, seed, bytes))
    }

    /// `COUNT SEED → PAGES`: does the same as [`Self::dirty`] with zeros.
    pub(super) fn zero(&self, words: &mut Words<'_>) -> Result<String, String> {
        self.change(words, |model, number, _, bytes| model.zero(number, bytes))
    }

    fn change(
        &self,
        words: &mut Words<'_>,
        write: impl Fn(&mut PageModel, usize, u64, &mut [u8]),
    ) -> Result<String, String> {
        let (count, seed): (usize, u64) = (words.value("COUNT")?, words.value("SEED")?);
        let mut memory = self.lock();
        let chosen = memory.model.choose(count, seed);
        for number in &chosen {
            let (bytes, model) = memory.page(*number)?;
            write(model, *number, seed, bytes);
        }
        Ok(chosen.len().to_string())
    }

    /// `→ PAGES`: checks all pages that are held; returns their number.
    pub(super) fn check(&self) -> Result<String, String> {
        let mut memory = self.lock();
        for number in 0..memory.model.len() {
            let (bytes, model) = memory.page(number)?;
            model.check(number, bytes)?;
        }
        Ok(memory.model.len().to_string())
    }

    /// Gives all held memory back to the kernel; returns its size in MiB.
    pub(super) fn free(&self) -> usize {
        let memory = std::mem::take(&mut *self.lock());
        memory.blocks.len() * (BLOCK >> 20)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
