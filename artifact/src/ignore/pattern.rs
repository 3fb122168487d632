//! A pattern of an ignore file (moby's `patternmatcher.Pattern`).
//!
//! Most patterns are compared as texts; those with `*`, `?`, `[` or `\` become regular expressions, in the very form that moby gives
//! them, because some of its behaviour follows from that form only: `[*]` is no star, `a\d` is a digit, and `a|*.o` is one or the other.

use regex::Regex;

use super::lines::clean;
use super::{WrongPattern, glob, syntax};

/// A pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    /// Whether it begins with `!`: what it matches is not ignored.
    pub(super) exception: bool,
    text: String,
    kind: Kind,
}

/// How a pattern is compared.
#[derive(Debug)]
enum Kind {
    /// With the whole path.
    Exact,
    /// With the begin of the path: `dir/**`.
    Prefix,
    /// With the end of the path, at any depth: `**/name`.
    Suffix,
    Regex(Box<Regex>),
}

impl Pattern {
    /// Parses a line that was cleaned; none if nothing is left of it.
    pub(super) fn parse(line: &str) -> Result<Option<Self>, WrongPattern> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(line);
        let (exception, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(WrongPattern::LoneException),
            Some(rest) => (true, rest),
            None => (false, cleaned.as_str()),
        };
        let wrong = || WrongPattern::Syntax(line.to_owned());
        glob::check(text).map_err(|_| wrong())?;
        let kind = compile(text).ok_or_else(wrong)?;
        Ok(Some(Self { exception, text: text.to_owned(), kind }))
    }

    /// Whether it matches the path itself.
    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact => path == self.text,
            Kind::Prefix => path.starts_with(self.text.strip_suffix("**").unwrap_or(&self.text)),
            Kind::Suffix => {
                let suffix = self.text.strip_prefix("**").unwrap_or(&self.text);
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Kind::Regex(regex) => regex.is_match(path),
        }
    }

    /// Whether it may match a path below the folder that has no match itself. A component with a special character may be anything.
    pub(super) fn may_match_below(&self, folder: &str) -> bool {
        // Alternatives of a whole expression.
        if matches!(self.kind, Kind::Regex(_)) && self.text.contains('|') {
            return true;
        }
        let mut own = self.text.split('/');
        for component in folder.split('/') {
            match own.next() {
                None => return false,
                Some(own) if own.contains(['*', '?', '[', '\\', '{']) => return true,
                Some(own) if own != component => return false,
                Some(_) => {}
            }
        }
        own.next().is_some()
    }

    #[cfg(test)]
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Exact => "exact".to_owned(),
            Kind::Prefix => "prefix".to_owned(),
            Kind::Suffix => "suffix".to_owned(),
            Kind::Regex(regex) => regex.as_str().to_owned(),
        }
    }
}

/// How the pattern is compared; none if its regular expression is wrong.
fn compile(pattern: &str) -> Option<Kind> {
    let mut kind = Kind::Exact;
    let mut is_regex = false;
    let mut text = String::from("^");
    let mut chars = pattern.chars().peekable();
    let mut is_first = true;
    while let Some(character) = chars.next() {
        match character {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    text.push_str("(.*/)?");
                    is_regex = true;
                } else if matches!(kind, Kind::Exact) && !is_regex {
                    kind = Kind::Prefix;
                } else {
                    text.push_str(".*");
                    is_regex = true;
                }
                if is_first {
                    (kind, is_regex) = (Kind::Suffix, false);
                }
            }
            '*' => {
                text.push_str("[^/]*");
                is_regex = true;
            }
            '?' => {
                text.push_str("[^/]");
                is_regex = true;
            }
            '.' | '+' | '(' | ')' | '$' => text.extend(['\\', character]),
            '\\' => {
                text.push('\\');
                if let Some(next) = chars.next() {
                    text.push(next);
                    is_regex = true;
                }
            }
            '[' | ']' => {
                text.push(character);
                is_regex = true;
            }
            other => text.push(other),
        }
        is_first = false;
    }
    if !is_regex {
        return Some(kind);
    }
    text.push('$');
    let regex = Regex::new(&syntax::of_go(&text)?).ok()?;
    Some(Kind::Regex(Box::new(regex)))
}
