//! Versions of images.

use std::fmt;

/// The version of an image. It is written `3.0`, and read as `3.0` or `3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageVersion(u32);

impl ImageVersion {
    /// The version that a client names: its number is at least 1.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let major = text.strip_suffix(".0").unwrap_or(text);
        let number: u32 = major.parse().ok()?;
        (number > 0 && number.to_string() == major).then_some(Self(number))
    }

    /// The number of the version that a client names.
    #[must_use]
    pub fn number_of(text: &str) -> Option<u32> {
        Self::parse(text).map(Self::number)
    }

    /// The number of the version.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl From<u32> for ImageVersion {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for ImageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.0", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_by_their_number_with_or_without_the_minor_one() {
        let number = |text| ImageVersion::parse(text).map(ImageVersion::number);
        assert_eq!((number("1"), number("1.0"), number("12")), (Some(1), Some(1), Some(12)));
        assert_eq!((number("12.0"), number("4294967295")), (Some(12), Some(u32::MAX)));
        for wrong in
            ["", "0", "0.0", "1.1", "01", "+1", "1.0.0", "-1", "4294967296", "1 ", "a", ".0", "1.", "１"]
        {
            assert_eq!(number(wrong), None, "{wrong:?}");
        }
        assert_eq!(ImageVersion::from(3).to_string(), "3.0");
    }
}
