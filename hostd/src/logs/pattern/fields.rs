//! Patterns of fields: `[ip, user, ..., status = 4* && status != 403, bytes > 1000]`.
//!
//! A line is split at spaces; what is in double quotes or in square brackets is one field. The pattern names the fields in
//! their order, and the line must have that many; `...`, once, stands for any number of them. A condition is about the
//! fields that it names. A name that it has first is the next field.

use super::PatternError;
use super::condition::Condition;
use super::operand::{Comparison, Expressions};
use super::scanner::Scanner;

/// Most fields of a pattern.
const MAX_FIELDS: usize = 100;

#[derive(Debug, Clone)]
pub(super) struct Fields {
    /// Names of the fields before `...`, or of all, and of those after it; names can be empty.
    before: Vec<String>,
    after: Option<Vec<String>>,
    conditions: Vec<Condition<Test>>,
}

#[derive(Debug, Clone)]
struct Test {
    place: Place,
    comparison: Comparison,
}

/// The place of a field: from the beginning, or from the first one after `...`.
#[derive(Debug, Clone, Copy)]
enum Place {
    Before(usize),
    After(usize),
}

impl Fields {
    pub(super) fn parse(
        scanner: &mut Scanner<'_>,
        expressions: &mut Expressions,
    ) -> Result<Self, PatternError> {
        if !scanner.eat("[") {
            return Err(scanner.expected("["));
        }
        let mut fields = Self { before: Vec::new(), after: None, conditions: Vec::new() };
        loop {
            scanner.skip_space();
            if scanner.eat("...") || scanner.eat("…") {
                if fields.after.is_some() {
                    return Err(PatternError::TooMany { limit: 1, of: "ellipses" });
                }
                fields.after = Some(Vec::new());
            } else {
                fields.field(scanner, expressions)?;
            }
            if fields.count() > MAX_FIELDS {
                return Err(PatternError::TooMany { limit: MAX_FIELDS, of: "fields" });
            }
            scanner.skip_space();
            if scanner.eat("]") {
                return Ok(fields);
            }
            if !scanner.eat(",") {
                return Err(scanner.expected(", or ]"));
            }
        }
    }

    /// Parses a field with its conditions; a field may be empty.
    fn field(
        &mut self,
        scanner: &mut Scanner<'_>,
        expressions: &mut Expressions,
    ) -> Result<(), PatternError> {
        let mut ahead = scanner.clone();
        let is_name = |c: char| c.is_alphanumeric() || "_-.$@".contains(c);
        let name = ahead.take_while(is_name);
        ahead.skip_space();
        if ahead.sees(",") || ahead.sees("]") {
            self.place(name);
            *scanner = ahead;
            return Ok(());
        }
        let condition = Condition::parse(scanner, &mut |scanner| {
            scanner.skip_space();
            let name = scanner.take_while(is_name);
            if name.is_empty() {
                return Err(scanner.expected("the name of a field"));
            }
            let place = self.place(name);
            Ok(Test { place, comparison: Comparison::parse(scanner, expressions)? })
        })?;
        self.conditions.push(condition);
        Ok(())
    }

    /// The place of the field with this name; a new one follows those that are there.
    fn place(&mut self, name: &str) -> Place {
        let known = |names: &[String]| names.iter().position(|known| !name.is_empty() && known == name);
        if let Some(index) = known(&self.before) {
            return Place::Before(index);
        }
        match &mut self.after {
            Some(after) => Place::After(known(after).unwrap_or_else(|| {
                after.push(name.to_owned());
                after.len().saturating_sub(1)
            })),
            None => {
                self.before.push(name.to_owned());
                Place::Before(self.before.len().saturating_sub(1))
            }
        }
    }

    fn count(&self) -> usize {
        self.before.len().saturating_add(self.after.as_ref().map_or(0, Vec::len))
    }

    pub(super) fn matches(&self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        let words = split(&line);
        let fits = match self.after {
            Some(_) => words.len() >= self.count(),
            None => words.len() == self.count(),
        };
        let first_after = words.len().saturating_sub(self.after.as_ref().map_or(0, Vec::len));
        fits && self.conditions.iter().all(|condition| {
            condition.holds(&|test: &Test| {
                let index = match test.place {
                    Place::Before(index) => index,
                    Place::After(index) => first_after.saturating_add(index),
                };
                words.get(index).is_some_and(|word| test.comparison.holds_for(word))
            })
        })
    }
}

/// The fields of a line.
fn split(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let closing = match first {
            '"' => Some('"'),
            '[' => Some(']'),
            _ => None,
        };
        let enclosed = closing.and_then(|closing| rest.get(1..)?.split_once(closing));
        let (word, after) = match enclosed {
            Some(enclosed) => enclosed,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}
