//! Memory that is kept and of which every page is known, see [`PageModel`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_test_guest::page_model::{PAGE, PageModel};

use super::Words;
use crate::buffer::Buffer;

/// Bytes that are taken from the kernel at once.
const BLOCK: usize = 1 << 20;
/// Pages of a block.
const BLOCK_PAGES: usize = BLOCK / PAGE;

/// Pages with numbers and what each must hold.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    model: PageModel,
    blocks: Vec<Buffer>,
}

impl Memory {
    /// The bytes of page `number`, and the model.
    fn page(&mut self, number: usize) -> Result<(&mut [u8], &mut PageModel), String> {
        let start = number % BLOCK_PAGES * PAGE;
        let block = self.blocks.get_mut(number / BLOCK_PAGES).map(Buffer::bytes);
        let page = block.and_then(|block| block.get_mut(start..start + PAGE));
        Ok((page.ok_or_else(|| format!("there is no page {number}"))?, &mut self.model))
    }
}

impl Pages {
    /// `MIB SEED → PAGES`: takes this much more memory, writes the stream SEED to it and keeps it; answers how
    /// many pages are kept now.
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

    /// `COUNT SEED → PAGES`: writes the stream SEED to so many different pages, or to all, chosen by SEED;
    /// answers how many.
    pub(super) fn dirty(&self, words: &mut Words<'_>) -> Result<String, String> {
        self.change(words, |model, number, seed, bytes| model.fill(number, seed, bytes))
    }

    /// `COUNT SEED → PAGES`: the same with zeros.
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

    /// `→ PAGES`: checks all that is kept; answers how many pages that are.
    pub(super) fn check(&self) -> Result<String, String> {
        let mut memory = self.lock();
        for number in 0..memory.model.len() {
            let (bytes, model) = memory.page(number)?;
            model.check(number, bytes)?;
        }
        Ok(memory.model.len().to_string())
    }

    /// Gives all that is kept back to the kernel; returns how many MiB that were.
    pub(super) fn free(&self) -> usize {
        let memory = std::mem::take(&mut *self.lock());
        memory.blocks.len() * (BLOCK >> 20)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
