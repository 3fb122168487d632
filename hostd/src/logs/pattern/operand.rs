//! What values are compared with: numbers, texts with `*` at their ends, regular expressions.

use regex::bytes::{Regex, RegexBuilder};

use super::PatternError;
use super::scanner::Scanner;

/// Most regular expressions of a pattern (AWS's quota).
const MAX_EXPRESSIONS: usize = 2;
/// Greatest size of a compiled regular expression, in bytes.
const MAX_COMPILED: usize = 256 << 10;
/// Size of the cache of an expression while it is matched, in bytes.
const MATCH_CACHE: usize = 1 << 20;
/// Greatest nesting of a regular expression.
const MAX_NESTING: u32 = 16;

/// The regular expressions of a pattern, counted.
#[derive(Debug, Default)]
pub(super) struct Expressions(usize);

impl Expressions {
    /// Parses `%…%`. Allowed is what AWS allows: letters, digits, `: _ # = @ / ; , -`, space, and the operators
    /// `^ $ ? [ ] { } | \ * + .`; after `\` these, other ASCII signs, and `d D s S w W xHH`.
    pub(super) fn parse(&mut self, scanner: &mut Scanner<'_>) -> Result<Regex, PatternError> {
        if !scanner.eat("%") {
            return Err(scanner.expected("a regular expression"));
        }
        if self.0 >= MAX_EXPRESSIONS {
            return Err(PatternError::TooMany { limit: MAX_EXPRESSIONS, of: "regular expressions" });
        }
        self.0 = self.0.saturating_add(1);
        let (mut expression, mut refused) = (String::new(), None);
        loop {
            match scanner.take() {
                None => return Err(scanner.expected("a closing %")),
                Some('%') => break,
                Some('\\') => {
                    let Some(escaped) = scanner.take() else { return Err(scanner.expected("a closing %")) };
                    if !escaped.is_ascii_punctuation() && !"dDsSwWx".contains(escaped) {
                        refused.get_or_insert(format!("\\{escaped}"));
                    }
                    expression.extend(['\\', escaped]);
                }
                Some(other) => {
                    if !other.is_ascii_alphanumeric() && !":_#=@/;,- ^$?[]{}|*+.".contains(other) {
                        refused.get_or_insert(other.to_string());
                    }
                    expression.push(other);
                }
            }
        }
        let wrong = |why: String| PatternError::Regex { expression: expression.clone(), why };
        if let Some(refused) = refused {
            return Err(wrong(format!("has {refused}, which is not supported")));
        }
        let built = RegexBuilder::new(&expression)
            .unicode(false)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MATCH_CACHE)
            .nest_limit(MAX_NESTING)
            .build();
        built.map_err(|error| {
            wrong(match error {
                regex::Error::CompiledTooBig(_) => "is too large".to_owned(),
                _ => "is invalid".to_owned(),
            })
        })
    }
}

/// A text in which a `*` at the beginning and one at the end stand for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wild {
    text: String,
    before: bool,
    after: bool,
}

impl Wild {
    pub(super) fn new(text: &str) -> Self {
        let (text, before) = text.strip_prefix('*').map_or((text, false), |rest| (rest, true));
        let (text, after) = text.strip_suffix('*').map_or((text, false), |rest| (rest, true));
        Self { text: text.to_owned(), before, after: after || (before && text.is_empty()) }
    }

    pub(super) fn matches(&self, value: &str) -> bool {
        match (self.before, self.after) {
            (false, false) => value == self.text,
            (false, true) => value.starts_with(&self.text),
            (true, false) => value.ends_with(&self.text),
            (true, true) => value.contains(&self.text),
        }
    }
}

/// The right side of a comparison.
#[derive(Debug, Clone)]
pub(super) enum Operand {
    /// A number, and how it is written.
    Number(f64, String),
    Text(Wild),
    Regex(Regex),
}

/// A comparison's operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    /// Parses an operator; `=!` stands for `!=`.
    pub(super) fn parse(scanner: &mut Scanner<'_>) -> Option<Self> {
        const SIGNS: [(&str, Operator); 7] = [
            ("!=", Operator::NotEqual),
            ("=!", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("=", Operator::Equal),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        SIGNS.into_iter().find(|(sign, _)| scanner.eat(sign)).map(|(_, operator)| operator)
    }

    fn holds(self, ordering: Option<std::cmp::Ordering>) -> bool {
        let Some(ordering) = ordering else { return self == Self::NotEqual };
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// A comparison with a value.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    operator: Operator,
    operand: Operand,
}

impl Comparison {
    /// Parses the operator and the operand.
    pub(super) fn parse(
        scanner: &mut Scanner<'_>,
        expressions: &mut Expressions,
    ) -> Result<Self, PatternError> {
        scanner.skip_space();
        let operator = Operator::parse(scanner).ok_or_else(|| scanner.expected("one of = != < <= > >="))?;
        scanner.skip_space();
        let start = scanner.clone();
        let operand = match scanner.peek() {
            Some('%') => Operand::Regex(expressions.parse(scanner)?),
            Some('"') => Operand::Text(Wild::new(&scanner.quoted('"')?)),
            _ => {
                let word = bare(scanner);
                match number(word) {
                    _ if word.is_empty() => return Err(start.expected("a value")),
                    Some(number) => Operand::Number(number, word.to_owned()),
                    None => Operand::Text(Wild::new(word)),
                }
            }
        };
        let ordered = !matches!(operator, Operator::Equal | Operator::NotEqual);
        if ordered && !matches!(operand, Operand::Number(..)) {
            return Err(start.expected("a number"));
        }
        Ok(Self { operator, operand })
    }

    /// Whether the comparison holds for a text. Where both are numbers, they are compared as such.
    pub(super) fn holds_for(&self, value: &str) -> bool {
        let equal = |matches: bool| matches == (self.operator == Operator::Equal);
        match &self.operand {
            Operand::Text(wild) => equal(wild.matches(value)),
            Operand::Regex(regex) => equal(regex.is_match(value.as_bytes())),
            Operand::Number(wanted, text) => match number(value) {
                _ if value == text => self.operator.holds(Some(std::cmp::Ordering::Equal)),
                Some(number) => self.holds_for_number(number, *wanted),
                None => self.operator == Operator::NotEqual,
            },
        }
    }

    fn holds_for_number(&self, number: f64, wanted: f64) -> bool {
        self.operator.holds(number.partial_cmp(&wanted))
    }
}

/// A value without quotes: up to a space, `,`, a bracket, `&&` or `||`.
fn bare<'a>(scanner: &mut Scanner<'a>) -> &'a str {
    scanner.take_until(|ahead| {
        ahead.sees("&&")
            || ahead.sees("||")
            || ahead.peek().is_some_and(|next| next.is_whitespace() || "(){}[],\"%".contains(next))
    })
}

/// A number: an integer or a decimal with an optional sign and an optional exponent.
pub(super) fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.contains(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    if is_number { text.parse().ok().filter(|number: &f64| number.is_finite()) } else { None }
}
