//! A single check of a value, and the text of its violation.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, Value};
use prost_types::Timestamp;
use regex::Regex;

use super::Rule;
use crate::clock;

const TIMESTAMP: &str = "google.protobuf.Timestamp";
const DURATION: &str = "google.protobuf.Duration";
/// Greatest number of seconds of a duration: 10,000 years (google/protobuf/duration.proto).
const MAX_SECONDS: u64 = 315_576_000_000;

/// A compiled rule.
#[derive(Debug)]
pub(super) enum Check {
    MinLength(usize),
    MaxLength(usize),
    MaxBytes(usize),
    Pattern {
        text: &'static str,
        regex: Option<Regex>,
    },
    Min(i64),
    Max(i64),
    MinItems(usize),
    MaxItems(usize),
    /// Checks for the valid ranges of google.protobuf's Timestamp and Duration, and that a number is finite.
    Timestamp,
    Duration,
    Finite,
    Enum {
        numbers: Vec<i32>,
        names: Vec<String>,
    },
    Each(Vec<Check>),
    Keys(Vec<Check>),
    Values(Vec<Check>),
}

impl Check {
    /// The checks of a member: those of its rules; that the value of an enumeration is a known one; that times and
    /// numbers are valid, so that code can compute with them.
    pub(super) fn compile(field: &FieldDescriptor, rules: &[Rule]) -> Vec<Self> {
        let mut checks = Self::of(rules);
        checks.extend(Self::of_kind(field));
        if let Kind::Enum(enumeration) = field.kind() {
            let values: Vec<_> = enumeration.values().filter(|value| value.number() != 0).collect();
            let numbers = values.iter().map(prost_reflect::EnumValueDescriptor::number).collect();
            let names = values.iter().map(|value| value.name().to_owned()).collect();
            let check = Self::Enum { numbers, names };
            checks.push(if field.is_list() { Self::Each(vec![check]) } else { check });
        }
        checks
    }

    /// The check that follows from the type of a member, independent of the table.
    fn of_kind(field: &FieldDescriptor) -> Option<Self> {
        let simple = |kind: Kind| match kind {
            Kind::Message(message) => match message.full_name() {
                TIMESTAMP => Some(Self::Timestamp),
                DURATION => Some(Self::Duration),
                _ => None,
            },
            Kind::Float | Kind::Double => Some(Self::Finite),
            _ => None,
        };
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                simple(entry.map_entry_value_field().kind()).map(|check| Self::Values(vec![check]))
            }
            kind if field.is_list() => simple(kind).map(|check| Self::Each(vec![check])),
            kind => simple(kind),
        }
    }

    fn of(rules: &[Rule]) -> Vec<Self> {
        rules.iter().flat_map(|rule| Self::of_rule(*rule)).collect()
    }

    /// The checks of a rule. Upper bounds come first, in the order in which AWS reports violations. Rules that need no
    /// check of the value yield none.
    fn of_rule(rule: Rule) -> Vec<Self> {
        match rule {
            Rule::Required | Rule::Sensitive => vec![],
            Rule::Length(min, max) => vec![Self::MaxLength(max), Self::MinLength(min)],
            Rule::BytesAtMost(max) => vec![Self::MaxBytes(max)],
            Rule::Pattern(text) => {
                // A test checks that all patterns compile. A pattern that does not compile would match nothing.
                vec![Self::Pattern { text, regex: Regex::new(&format!(r"\A(?:{text})\z")).ok() }]
            }
            Rule::Range(min, max) => vec![Self::Max(max), Self::Min(min)],
            Rule::Items(min, max) | Rule::Entries(min, max) => vec![Self::MaxItems(max), Self::MinItems(min)],
            Rule::Each(rules) => vec![Self::Each(Self::of(rules))],
            Rule::Keys(rules) => vec![Self::Keys(Self::of(rules))],
            Rule::Values(rules) => vec![Self::Values(Self::of(rules))],
        }
    }

    /// Whether a value satisfies the check. Values of types that the check does not concern satisfy it.
    pub(super) fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Each(checks), Value::List(elements)) => {
                elements.iter().all(|element| checks.iter().all(|check| check.holds(element)))
            }
            (Self::Keys(checks), Value::Map(entries)) => entries.keys().all(|key| match key {
                MapKey::String(key) => checks.iter().all(|check| check.holds_for(key)),
                _ => true,
            }),
            (Self::Values(checks), Value::Map(entries)) => {
                entries.values().all(|value| checks.iter().all(|check| check.holds(value)))
            }
            (_, Value::String(text)) => self.holds_for(text),
            (_, Value::I32(number)) => self.holds_for_number(i128::from(*number)),
            (_, Value::I64(number)) => self.holds_for_number(i128::from(*number)),
            (_, Value::U32(number)) => self.holds_for_number(i128::from(*number)),
            (_, Value::U64(number)) => self.holds_for_number(i128::from(*number)),
            (Self::Finite, Value::F32(number)) => number.is_finite(),
            (Self::Finite, Value::F64(number)) => number.is_finite(),
            (Self::Timestamp | Self::Duration, Value::Message(message)) => self.holds_for_time(message),
            (Self::MaxBytes(max), Value::Bytes(bytes)) => bytes.len() <= *max,
            (_, Value::List(elements)) => self.holds_for_size(elements.len()),
            (_, Value::Map(entries)) => self.holds_for_size(entries.len()),
            (Self::Enum { numbers, .. }, Value::EnumNumber(number)) => numbers.contains(number),
            _ => true,
        }
    }

    fn holds_for(&self, text: &str) -> bool {
        match self {
            // A text has at most as many characters as bytes, so that most texts need not be counted.
            Self::MinLength(min) => *min == 0 || text.chars().take(*min).count() == *min,
            Self::MaxLength(max) => text.len() <= *max || text.chars().count() <= *max,
            Self::MaxBytes(max) => text.len() <= *max,
            Self::Pattern { regex, .. } => regex.as_ref().is_some_and(|regex| regex.is_match(text)),
            _ => true,
        }
    }

    fn holds_for_number(&self, number: i128) -> bool {
        match self {
            Self::Min(min) => number >= i128::from(*min),
            Self::Max(max) => number <= i128::from(*max),
            _ => true,
        }
    }

    /// Timestamps and durations consist of seconds and nanoseconds; in a duration, both have the same sign.
    fn holds_for_time(&self, message: &DynamicMessage) -> bool {
        let value = |name| message.get_field_by_name(name);
        let seconds = value("seconds").and_then(|value| value.as_i64());
        let nanos = value("nanos").and_then(|value| value.as_i32());
        let (Some(seconds), Some(nanos)) = (seconds, nanos) else { return false };
        match self {
            Self::Timestamp => clock::is_valid(&Timestamp { seconds, nanos }),
            _ => {
                let sign = seconds.signum().checked_mul(i64::from(nanos.signum()));
                seconds.unsigned_abs() <= MAX_SECONDS
                    && nanos.unsigned_abs() < 1_000_000_000
                    && sign.is_some_and(|sign| sign >= 0)
            }
        }
    }

    fn holds_for_size(&self, size: usize) -> bool {
        match self {
            Self::MinItems(min) => size >= *min,
            Self::MaxItems(max) => size <= *max,
            _ => true,
        }
    }

    /// Whether the check bounds the number of elements from above.
    pub(super) fn is_of_size(&self) -> bool {
        matches!(self, Self::MaxItems(_))
    }

    /// The text of the violation.
    pub(super) fn text(&self) -> String {
        match self {
            Self::MinLength(min) | Self::MinItems(min) => {
                format!("Member must have length greater than or equal to {min}")
            }
            Self::MaxLength(max) | Self::MaxBytes(max) | Self::MaxItems(max) => {
                format!("Member must have length less than or equal to {max}")
            }
            Self::Pattern { text, .. } => format!("Member must satisfy regular expression pattern: {text}"),
            Self::Min(min) => format!("Member must have value greater than or equal to {min}"),
            Self::Max(max) => format!("Member must have value less than or equal to {max}"),
            Self::Timestamp => {
                "Member must be a timestamp from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z, \
                with seconds from -62135596800 to 253402300799 and nanos from 0 to 999999999"
                    .to_owned()
            }
            Self::Duration => format!(
                "Member must be a duration of at most {MAX_SECONDS} seconds, with nanos from -999999999 to 999999999 of the same sign"
            ),
            Self::Finite => "Member must be a finite number".to_owned(),
            Self::Enum { names, .. } => format!("Member must satisfy enum value set: [{}]", names.join(", ")),
            Self::Each(checks) => format!("Member must satisfy constraint: [{}]", texts(checks)),
            Self::Keys(checks) => format!("Map keys must satisfy constraint: [{}]", texts(checks)),
            Self::Values(checks) => format!("Map value must satisfy constraint: [{}]", texts(checks)),
        }
    }
}

fn texts(checks: &[Check]) -> String {
    checks.iter().map(Check::text).collect::<Vec<_>>().join(", ")
}
