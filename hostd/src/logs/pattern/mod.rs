//! Filter patterns of CloudWatch Logs.
//!
//! Source: Amazon CloudWatch Logs User Guide, "Filter pattern syntax for metric filters, subscription filters, filter
//! log events, and Live Tail". A pattern has one of three forms, which its first character decides:
//!
//! | Form | Example | Matches |
//! |---|---|---|
//! | terms | `ERROR -timeout "user 7"`, `?WARN ?ERROR`, `%4[0-9]{2}%` | lines that contain them ([`terms`]) |
//! | JSON | `{ $.level = "error" && $.ms > 500 }` | lines that are JSON with such values ([`json`]) |
//! | fields | `[ip, ..., status = 4*, bytes > 1000]` | lines of words separated by spaces ([`fields`]) |
//!
//! Matching is case-sensitive. The pattern and the line are hostile: a pattern has at most [`MAX_CHARACTERS`], nesting
//! and expressions are bounded ([`operand`]), and matching takes time that is linear in the length of the line.
// This module parses what clients send: arithmetic must not overflow, and indices must not be out of range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

mod condition;
mod fields;
mod json;
mod operand;
mod scanner;
mod terms;
#[cfg(test)]
mod tests;

use self::fields::Fields;
use self::json::Json;
use self::operand::Expressions;
use self::scanner::Scanner;
use self::terms::Terms;

/// Greatest length of a pattern, in characters.
pub const MAX_CHARACTERS: usize = 1024;

/// Why a text is not a filter pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The pattern is too long.
    #[error("Invalid filter pattern: it has more than {MAX_CHARACTERS} characters")]
    TooLong,
    /// A term has characters that must be quoted.
    #[error("Invalid character(s) in term '{0}': put it in double quotes")]
    Term(String),
    /// Something else is at this place.
    #[error("Invalid filter pattern: expected {expected} at character {at}")]
    Expected {
        /// What could be there.
        expected: &'static str,
        /// The place, counted from 1.
        at: usize,
    },
    /// A regular expression is invalid, or has what is not supported in one.
    #[error("Invalid filter pattern: the regular expression %{expression}% {why}")]
    Regex {
        /// The expression.
        expression: String,
        /// What is wrong with it, as the end of a sentence.
        why: String,
    },
    /// The pattern has too many of something.
    #[error("Invalid filter pattern: it has more than {limit} {of}")]
    TooMany {
        /// Greatest number.
        limit: usize,
        /// Of what.
        of: &'static str,
    },
}

/// A parsed filter pattern.
#[derive(Debug, Clone)]
pub struct Pattern(Form);

#[derive(Debug, Clone)]
enum Form {
    Terms(Terms),
    Json(Json),
    Fields(Fields),
}

impl Pattern {
    /// Parses a pattern. An empty one matches every line.
    ///
    /// # Errors
    /// [`PatternError`], whose message is for the client.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.chars().nth(MAX_CHARACTERS).is_some() {
            return Err(PatternError::TooLong);
        }
        let mut scanner = Scanner::new(text);
        let mut expressions = Expressions::default();
        scanner.skip_space();
        let form = match scanner.peek() {
            Some('{') => Form::Json(Json::parse(&mut scanner, &mut expressions)?),
            Some('[') => Form::Fields(Fields::parse(&mut scanner, &mut expressions)?),
            _ => Form::Terms(Terms::parse(&mut scanner, &mut expressions)?),
        };
        scanner.skip_space();
        match scanner.peek() {
            None => Ok(Self(form)),
            Some(_) => Err(scanner.expected("the end of the pattern")),
        }
    }

    /// Whether a line matches.
    #[must_use]
    pub fn matches(&self, line: &[u8]) -> bool {
        match &self.0 {
            Form::Terms(terms) => terms.matches(line),
            Form::Json(json) => json.matches(line),
            Form::Fields(fields) => fields.matches(line),
        }
    }
}
