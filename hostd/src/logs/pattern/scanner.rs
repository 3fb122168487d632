//! Reads a pattern character by character.

use super::PatternError;

/// A place in a pattern.
#[derive(Debug, Clone)]
pub(super) struct Scanner<'a> {
    rest: &'a str,
    /// Characters before `rest`.
    read: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text, read: 0 }
    }

    /// The next character.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Reads the next character.
    pub(super) fn take(&mut self) -> Option<char> {
        let mut rest = self.rest.chars();
        let next = rest.next()?;
        self.rest = rest.as_str();
        self.read = self.read.saturating_add(1);
        Some(next)
    }

    /// Reads `text` if it comes next.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(text) else { return false };
        self.rest = rest;
        self.read = self.read.saturating_add(text.chars().count());
        true
    }

    /// Whether `text` comes next.
    pub(super) fn sees(&self, text: &str) -> bool {
        self.rest.starts_with(text)
    }

    pub(super) fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    /// Reads characters as long as they are wanted.
    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        self.take_until(|ahead| !ahead.peek().is_some_and(&wanted))
    }

    /// Reads characters up to a place, or all.
    pub(super) fn take_until(&mut self, ends: impl Fn(&Self) -> bool) -> &'a str {
        let whole = self.rest;
        while self.peek().is_some() && !ends(self) {
            self.take();
        }
        let length = whole.len().saturating_sub(self.rest.len());
        whole.get(..length).unwrap_or_default()
    }

    /// Reads a word in any case, with the space before it, if it comes next and no letter follows.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let mut ahead = self.clone();
        ahead.skip_space();
        let found = ahead.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        let is_it = found.eq_ignore_ascii_case(word);
        if is_it {
            *self = ahead;
        }
        is_it
    }

    /// Reads a text in double quotes (or `quote`), in which `\` makes the next quote or `\` a plain character.
    pub(super) fn quoted(&mut self, quote: char) -> Result<String, PatternError> {
        if self.peek() != Some(quote) {
            return Err(self.expected("a quoted text"));
        }
        self.take();
        let mut text = String::new();
        loop {
            match self.take() {
                Some('\\') if self.peek().is_some_and(|next| next == quote || next == '\\') => {
                    text.extend(self.take());
                }
                Some(end) if end == quote => return Ok(text),
                Some(other) => text.push(other),
                None => return Err(self.expected("a closing quote")),
            }
        }
    }

    /// The error that something else is expected here.
    pub(super) fn expected(&self, expected: &'static str) -> PatternError {
        PatternError::Expected { expected, at: self.read.saturating_add(1) }
    }
}
