//! A range of protocol versions that a program speaks.

use std::fmt;

/// The versions of a protocol that a program speaks: all versions from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    oldest: u32,
    newest: u32,
}

impl Versions {
    /// Creates the range from `oldest` to `newest`, both included.
    #[must_use]
    pub const fn new(oldest: u32, newest: u32) -> Self {
        Self { oldest, newest }
    }

    /// Returns the oldest version.
    #[must_use]
    pub const fn oldest(self) -> u32 {
        self.oldest
    }

    /// Returns the newest version.
    #[must_use]
    pub const fn newest(self) -> u32 {
        self.newest
    }

    /// Whether the range contains `version`.
    #[must_use]
    pub fn has(self, version: u32) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// Returns the highest version that both ranges contain; `None` if they have none in common.
    #[must_use]
    pub fn highest_common(self, other: Self) -> Option<u32> {
        let highest = self.newest.min(other.newest);
        (highest >= self.oldest.max(other.oldest)).then_some(highest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.oldest, self.newest) {
            (one, other) if one == other => write!(f, "version {one}"),
            (oldest, newest) => write!(f, "versions {oldest} to {newest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_take_the_highest_version_that_they_have_in_common() {
        let versions = Versions::new;
        for (one, other, expected) in [
            (versions(3, 3), versions(3, 3), Some(3)),
            (versions(3, 7), versions(5, 9), Some(7)),
            (versions(3, 9), versions(4, 5), Some(5)),
            (versions(0, 5), versions(3, 3), Some(3)),
            (versions(3, 4), versions(5, 6), None),
        ] {
            assert_eq!(one.highest_common(other), expected, "{one} and {other}");
            assert_eq!(other.highest_common(one), expected, "{other} and {one}");
        }
    }

    #[test]
    fn they_read_well() {
        assert_eq!(Versions::new(3, 3).to_string(), "version 3");
        assert_eq!(Versions::new(3, 5).to_string(), "versions 3 to 5");
    }
}
