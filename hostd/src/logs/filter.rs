//! Which lines are read.

use super::error::LogError;
use super::pattern::Pattern;

/// Longest text that can be searched for.
const LONGEST_TEXT: usize = 1024;

/// Selects lines by their contents.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    contains: Option<regex::bytes::Regex>,
    pattern: Option<Pattern>,
}

impl Filter {
    /// Selects lines that contain the text and match the filter pattern, as far as they are given.
    pub(super) fn new(contains: Option<&str>, pattern: Option<&str>) -> Result<Self, LogError> {
        let contains = match contains.filter(|text| !text.is_empty()) {
            Some(text) if text.len() > LONGEST_TEXT => return Err(LogError::Filter(LONGEST_TEXT)),
            // A regular expression of literal text only: the crate searches for it fast.
            Some(text) => Some(
                regex::bytes::Regex::new(&regex::escape(text)).map_err(|_| LogError::Filter(LONGEST_TEXT))?,
            ),
            None => None,
        };
        Ok(Self { contains, pattern: pattern.map(Pattern::parse).transpose()? })
    }

    pub(super) fn matches(&self, message: &[u8]) -> bool {
        self.contains.as_ref().is_none_or(|text| text.is_match(message))
            && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(message))
    }
}
