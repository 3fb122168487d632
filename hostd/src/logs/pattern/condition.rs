//! Conditions with `&&`, `||` and parentheses; `&&` binds closer.

use super::PatternError;
use super::scanner::Scanner;

/// Greatest nesting of parentheses.
const MAX_DEPTH: usize = 32;

/// A condition, whose comparisons are of type `T`.
#[derive(Debug, Clone)]
pub(super) enum Condition<T> {
    One(T),
    All(Vec<Condition<T>>),
    Any(Vec<Condition<T>>),
}

impl<T> Condition<T> {
    /// Parses a condition; `one` parses a comparison.
    pub(super) fn parse<'a>(
        scanner: &mut Scanner<'a>,
        one: &mut impl FnMut(&mut Scanner<'a>) -> Result<T, PatternError>,
    ) -> Result<Self, PatternError> {
        Self::any(scanner, one, 0)
    }

    fn any<'a>(
        scanner: &mut Scanner<'a>,
        one: &mut impl FnMut(&mut Scanner<'a>) -> Result<T, PatternError>,
        depth: usize,
    ) -> Result<Self, PatternError> {
        let mut parts = vec![Self::all(scanner, one, depth)?];
        loop {
            scanner.skip_space();
            if !scanner.eat("||") {
                break;
            }
            parts.push(Self::all(scanner, one, depth)?);
        }
        Ok(single(parts, Self::Any))
    }

    fn all<'a>(
        scanner: &mut Scanner<'a>,
        one: &mut impl FnMut(&mut Scanner<'a>) -> Result<T, PatternError>,
        depth: usize,
    ) -> Result<Self, PatternError> {
        let mut parts = vec![Self::part(scanner, one, depth)?];
        loop {
            scanner.skip_space();
            if !scanner.eat("&&") {
                break;
            }
            parts.push(Self::part(scanner, one, depth)?);
        }
        Ok(single(parts, Self::All))
    }

    fn part<'a>(
        scanner: &mut Scanner<'a>,
        one: &mut impl FnMut(&mut Scanner<'a>) -> Result<T, PatternError>,
        depth: usize,
    ) -> Result<Self, PatternError> {
        scanner.skip_space();
        if !scanner.eat("(") {
            return one(scanner).map(Self::One);
        }
        if depth >= MAX_DEPTH {
            return Err(PatternError::TooMany { limit: MAX_DEPTH, of: "parentheses in one another" });
        }
        let inner = Self::any(scanner, one, depth.saturating_add(1))?;
        scanner.skip_space();
        if scanner.eat(")") { Ok(inner) } else { Err(scanner.expected(")")) }
    }

    /// Whether the condition holds; `holds` says it of a comparison.
    pub(super) fn holds(&self, holds: &impl Fn(&T) -> bool) -> bool {
        match self {
            Self::One(one) => holds(one),
            Self::All(parts) => parts.iter().all(|part| part.holds(holds)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(holds)),
        }
    }
}

fn single<T>(
    mut parts: Vec<Condition<T>>,
    several: impl FnOnce(Vec<Condition<T>>) -> Condition<T>,
) -> Condition<T> {
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            parts.extend(last);
            several(parts)
        }
    }
}
