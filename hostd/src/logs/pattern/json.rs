//! Patterns of JSON: `{ $.user.id = 1 && ($.level = "err*" || $.codes[0] >= 500) }`.
//!
//! A comparison is about the value that a selector leads to. Where it leads to nothing, to an object or to a list, no
//! comparison holds, neither `=` nor `!=`. `[*]` and `.*` stand for each element of a list and each member of an object.
//! Beside comparisons there are `IS NULL`, `IS TRUE`, `IS FALSE` and `NOT EXISTS`.

use serde_json::Value;

use super::PatternError;
use super::condition::Condition;
use super::operand::{Comparison, Expressions};
use super::scanner::Scanner;

/// Most selectors with `*` of a pattern, and most `*` of a selector (AWS's quotas).
const MAX_WILD: (usize, usize) = (3, 1);

#[derive(Debug, Clone)]
pub(super) struct Json(Condition<Test>);

#[derive(Debug, Clone)]
struct Test {
    selector: Vec<Step>,
    wanted: Wanted,
}

#[derive(Debug, Clone)]
enum Step {
    Member(String),
    Element(usize),
    /// Each element of a list, or each member of an object.
    Each,
}

#[derive(Debug, Clone)]
enum Wanted {
    Comparison(Comparison),
    Is(Value),
    Absent,
}

impl Json {
    pub(super) fn parse(
        scanner: &mut Scanner<'_>,
        expressions: &mut Expressions,
    ) -> Result<Self, PatternError> {
        if !scanner.eat("{") {
            return Err(scanner.expected("{"));
        }
        let mut wild = 0_usize;
        let condition = Condition::parse(scanner, &mut |scanner| {
            let selector = selector(scanner)?;
            let stars = selector.iter().filter(|step| matches!(step, Step::Each)).count();
            if stars > MAX_WILD.1 {
                return Err(PatternError::TooMany { limit: MAX_WILD.1, of: "* in a selector" });
            }
            wild = wild.saturating_add(stars);
            if wild > MAX_WILD.0 {
                return Err(PatternError::TooMany { limit: MAX_WILD.0, of: "selectors with *" });
            }
            Ok(Test { selector, wanted: Wanted::parse(scanner, expressions)? })
        })?;
        scanner.skip_space();
        if scanner.eat("}") { Ok(Self(condition)) } else { Err(scanner.expected("}, && or ||")) }
    }

    pub(super) fn matches(&self, line: &[u8]) -> bool {
        let begins = line.iter().find(|byte| !byte.is_ascii_whitespace());
        if !begins.is_some_and(|byte| b"{[".contains(byte)) {
            return false;
        }
        let Ok(value) = serde_json::from_slice::<Value>(line) else { return false };
        self.0.holds(&|test: &Test| test.holds(&value, &test.selector))
    }
}

impl Wanted {
    fn parse(scanner: &mut Scanner<'_>, expressions: &mut Expressions) -> Result<Self, PatternError> {
        if scanner.eat_word("NOT") {
            return match scanner.eat_word("EXISTS") {
                true => Ok(Self::Absent),
                false => Err(scanner.expected("EXISTS")),
            };
        }
        if scanner.eat_word("IS") {
            let values = [("NULL", Value::Null), ("TRUE", true.into()), ("FALSE", false.into())];
            let found = values.into_iter().find(|(word, _)| scanner.eat_word(word));
            return found
                .map(|(_, value)| Self::Is(value))
                .ok_or_else(|| scanner.expected("NULL, TRUE or FALSE"));
        }
        Comparison::parse(scanner, expressions).map(Self::Comparison)
    }
}

impl Test {
    /// Whether it holds for the value to which the steps lead.
    fn holds(&self, value: &Value, steps: &[Step]) -> bool {
        let Some((step, rest)) = steps.split_first() else { return self.holds_for(value) };
        let next = match step {
            Step::Member(name) => value.as_object().and_then(|members| members.get(name)),
            Step::Element(index) => value.as_array().and_then(|elements| elements.get(*index)),
            Step::Each => {
                let any = |mut values: Box<dyn Iterator<Item = &Value> + '_>| match self.wanted {
                    Wanted::Absent => values.all(|value| self.holds(value, rest)),
                    _ => values.any(|value| self.holds(value, rest)),
                };
                return match value {
                    Value::Array(elements) => any(Box::new(elements.iter())),
                    Value::Object(members) => any(Box::new(members.values())),
                    _ => matches!(self.wanted, Wanted::Absent),
                };
            }
        };
        match next {
            Some(next) => self.holds(next, rest),
            None => matches!(self.wanted, Wanted::Absent),
        }
    }

    fn holds_for(&self, value: &Value) -> bool {
        match (&self.wanted, value) {
            (Wanted::Absent, _) | (Wanted::Comparison(_), Value::Null) => false,
            (Wanted::Is(wanted), value) => value == wanted,
            (Wanted::Comparison(comparison), Value::String(text)) => comparison.holds_for(text),
            (Wanted::Comparison(comparison), Value::Number(number)) => {
                comparison.holds_for(&number.to_string())
            }
            (Wanted::Comparison(comparison), Value::Bool(value)) => {
                comparison.holds_for(if *value { "true" } else { "false" })
            }
            (Wanted::Comparison(_), Value::Array(_) | Value::Object(_)) => false,
        }
    }
}

/// Parses `$.name[0]['other name'].*`.
fn selector(scanner: &mut Scanner<'_>) -> Result<Vec<Step>, PatternError> {
    if !scanner.eat("$") {
        return Err(scanner.expected("a selector like $.name"));
    }
    let mut steps = Vec::new();
    loop {
        if scanner.eat(".") {
            if scanner.eat("*") {
                steps.push(Step::Each);
                continue;
            }
            if scanner.sees("[") {
                continue; // `$.['name']`
            }
            let name = scanner.take_while(|c| c.is_alphanumeric() || "_-".contains(c));
            if name.is_empty() {
                return Err(scanner.expected("the name of a member"));
            }
            steps.push(Step::Member(name.to_owned()));
        } else if scanner.eat("[") {
            let step = match scanner.peek() {
                Some(quote @ ('\'' | '"')) => Step::Member(scanner.quoted(quote)?),
                Some('*') => {
                    scanner.take();
                    Step::Each
                }
                _ => {
                    let digits = scanner.take_while(|c| c.is_ascii_digit());
                    let index =
                        digits.parse().map_err(|_| scanner.expected("an index, * or a quoted name"))?;
                    Step::Element(index)
                }
            };
            if !scanner.eat("]") {
                return Err(scanner.expected("]"));
            }
            steps.push(step);
        } else if steps.is_empty() {
            return Err(scanner.expected(". or [ after $"));
        } else {
            return Ok(steps);
        }
    }
}
