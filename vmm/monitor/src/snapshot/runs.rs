//! Sets of pages, as ascending runs that neither overlap nor touch.

use super::PAGE;

/// A run of neighbouring pages, counted from the first byte of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first page.
    pub first: u64,
    /// Number of pages, at least 1.
    pub pages: u64,
}

impl Run {
    /// Returns the number of the first page after the run.
    #[must_use]
    pub fn end(self) -> u64 {
        self.first + self.pages
    }

    /// Returns the offset of the run's first byte.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.first * PAGE
    }

    /// Returns the length of the run in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.pages * PAGE
    }
}

/// A set of pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// Adds a run of pages that follows all pages in the set.
    pub fn push(&mut self, first: u64, pages: u64) {
        match self.0.last_mut() {
            _ if pages == 0 => {}
            Some(last) if last.end() == first => last.pages += pages,
            _ => self.0.push(Run { first, pages }),
        }
    }

    /// Returns the runs in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[Run] {
        &self.0
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the set contains the page.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        let after = self.0.partition_point(|run| run.first <= page);
        after.checked_sub(1).and_then(|index| self.0.get(index)).is_some_and(|run| page < run.end())
    }

    /// Returns the number of pages in the set.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.0.iter().map(|run| run.pages).sum()
    }

    /// Returns pairs of first page and number of pages, as they are saved.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<u64> {
        self.0.iter().flat_map(|run| [run.first, run.pages]).collect()
    }

    /// Parses the set that `pairs` lists, for a memory of `total` pages. Returns `None` if the pairs are not a valid
    /// set.
    #[must_use]
    pub fn from_pairs(pairs: &[u64], total: u64) -> Option<Self> {
        let (pairs, rest) = pairs.as_chunks::<2>();
        let mut runs = Self(Vec::with_capacity(pairs.len()));
        let mut free = 0;
        for &[first, pages] in pairs {
            let end = first.checked_add(pages)?;
            if pages == 0 || first < free || end > total {
                return None;
            }
            runs.push(first, pages);
            free = end;
        }
        rest.is_empty().then_some(runs)
    }

    /// Combines two sets. `keep` decides for each stretch of pages whether the result contains it; its arguments are
    /// whether the stretch is in the first and in the second set.
    fn combine(&self, other: &Self, keep: impl Fn(bool, bool) -> bool) -> Self {
        let mut result = Self::default();
        let (mut left, mut right) = (self.0.as_slice(), other.0.as_slice());
        let mut at = 0;
        loop {
            // Drop the runs before `at`, then find the next page at which either set changes.
            while left.first().is_some_and(|run| run.end() <= at) {
                left = left.split_first().map(|(_, rest)| rest).unwrap_or_default();
            }
            while right.first().is_some_and(|run| run.end() <= at) {
                right = right.split_first().map(|(_, rest)| rest).unwrap_or_default();
            }
            let inside = |runs: &[Run]| runs.first().is_some_and(|run| run.first <= at);
            let next =
                |runs: &[Run]| runs.first().map(|run| if run.first <= at { run.end() } else { run.first });
            let Some(change) = next(left).into_iter().chain(next(right)).min() else { return result };
            if keep(inside(left), inside(right)) {
                result.push(at, change - at);
            }
            at = change;
        }
    }

    /// Returns the pages that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |left, right| left || right)
    }

    /// Returns the pages of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.combine(other, |left, right| left && !right)
    }

    /// Returns the pages that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |left, right| left && right)
    }

    /// Returns the set with its smaller gaps filled, so that at most `most` runs remain and no gap is shorter than
    /// `shortest` pages.
    #[must_use]
    pub fn coarse(&self, shortest: u64, most: usize) -> Self {
        let gaps = |runs: &[Run]| -> Vec<u64> {
            runs.windows(2)
                .filter_map(|pair| match pair {
                    [before, after] => Some(after.first - before.end()),
                    _ => None,
                })
                .collect()
        };
        let mut lengths = gaps(&self.0);
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        // Gaps of the same length are treated alike: those as long as the longest gap that must be filled are filled,
        // too.
        let limit = lengths.get(most.saturating_sub(1)).map_or(shortest, |&length| shortest.max(length + 1));
        let mut result = Self::default();
        for run in &self.0 {
            match result.0.last_mut() {
                Some(last) if run.first - last.end() < limit => last.pages = run.end() - last.first,
                _ => result.0.push(*run),
            }
        }
        result
    }
}

impl FromIterator<Run> for Runs {
    /// Collects runs that are in ascending order.
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Self {
        let mut result = Self::default();
        runs.into_iter().for_each(|run| result.push(run.first, run.pages));
        result
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const TOTAL: u64 = 64;

    fn of(pages: &BTreeSet<u64>) -> Runs {
        pages.iter().map(|&first| Run { first, pages: 1 }).collect()
    }

    fn pages(runs: &Runs) -> BTreeSet<u64> {
        runs.as_slice().iter().flat_map(|run| run.first..run.end()).collect()
    }

    #[test]
    fn pairs_that_are_no_set_are_refused() {
        assert!(Runs::from_pairs(&[0, 4, 10, 2], TOTAL).is_some());
        for wrong in
            [&[0][..], &[0, 0], &[5, 1, 4, 1], &[0, 5, 4, 1], &[60, 5], &[u64::MAX, 2], &[0, u64::MAX]]
        {
            assert_eq!(Runs::from_pairs(wrong, TOTAL), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn sets_agree_with_their_model(
            left in proptest::collection::btree_set(0..TOTAL, 0..40),
            right in proptest::collection::btree_set(0..TOTAL, 0..40),
            shortest in 1..6u64,
            most in 1..8usize,
        ) {
            let (a, b) = (of(&left), of(&right));
            prop_assert_eq!(pages(&a.union(&b)), &left | &right);
            prop_assert_eq!(pages(&a.without(&b)), &left - &right);
            prop_assert_eq!(pages(&a.intersection(&b)), &left & &right);
            prop_assert_eq!(a.pages(), left.len() as u64);
            prop_assert_eq!(Runs::from_pairs(&a.to_pairs(), TOTAL), Some(a.clone()));
            let coarse = a.coarse(shortest, most);
            prop_assert!(coarse.as_slice().len() <= most);
            prop_assert!(left.is_subset(&pages(&coarse)));
            for pair in coarse.as_slice().windows(2) {
                prop_assert!(pair[1].first - pair[0].end() >= shortest);
            }
        }
    }
}
