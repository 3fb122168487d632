//! Patterns of terms: `ERROR "user 7" -timeout`, `?WARN ?ERROR`, `%4[0-9]{2}%`.
//!
//! A line matches if it contains all terms and none with `-`. Terms with `?` count only where there are no others: then
//! one of them suffices. A term of other characters than letters, digits and `_` is in double quotes.

use regex::bytes::Regex;

use super::PatternError;
use super::operand::Expressions;
use super::scanner::Scanner;

#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    wanted: Vec<Regex>,
    unwanted: Vec<Regex>,
    /// At least one of them, unless there are others.
    optional: Vec<Regex>,
}

impl Terms {
    pub(super) fn parse(
        scanner: &mut Scanner<'_>,
        expressions: &mut Expressions,
    ) -> Result<Self, PatternError> {
        let mut terms = Self::default();
        loop {
            scanner.skip_space();
            let into = match scanner.peek() {
                None => return Ok(terms),
                Some('-') => &mut terms.unwanted,
                Some('?') => &mut terms.optional,
                Some(_) => &mut terms.wanted,
            };
            if !scanner.eat("-") {
                scanner.eat("?");
            }
            scanner.skip_space();
            into.push(term(scanner, expressions)?);
        }
    }

    pub(super) fn matches(&self, line: &[u8]) -> bool {
        let has = |term: &Regex| term.is_match(line);
        if self.unwanted.iter().any(has) || !self.wanted.iter().all(has) {
            return false;
        }
        let count = !self.optional.is_empty() && self.wanted.is_empty() && self.unwanted.is_empty();
        !count || self.optional.iter().any(has)
    }
}

fn term(scanner: &mut Scanner<'_>, expressions: &mut Expressions) -> Result<Regex, PatternError> {
    let text = match scanner.peek() {
        Some('%') => return expressions.parse(scanner),
        Some('"') => scanner.quoted('"')?,
        None => return Err(scanner.expected("a term")),
        Some(_) => {
            let word = scanner.take_while(|c| !c.is_whitespace());
            if !word.chars().all(|c| c.is_alphanumeric() || c == '_') {
                return Err(PatternError::Term(word.to_owned()));
            }
            word.to_owned()
        }
    };
    // Of literal text only: the crate searches for it fast.
    let literal = Regex::new(&regex::escape(&text));
    literal.map_err(|_| PatternError::TooLong)
}
