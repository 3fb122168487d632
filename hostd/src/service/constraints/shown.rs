//! Values of members as they stand in messages.
//!
//! AWS's services show the value that violates a constraint. Values come from clients, so that they are shortened;
//! secrets and structures are not shown at all.

use prost_reflect::{Kind, MapKey, Value};

use crate::service::Shown;

/// Greatest length of a value in a message, in bytes.
const LONGEST: usize = 256;

/// A value of a member that is not a secret. `unknown`: names of enumeration values that do not exist
/// ([`crate::service::Service::call_named`]).
pub(super) fn shown(kind: &Kind, value: &Value, unknown: &[String]) -> Shown {
    let mut text = Text::default();
    match write(&mut text, kind, value, unknown) {
        Some(()) => Shown::Text(text.0),
        None => Shown::Hidden,
    }
}

/// A text that is not longer than [`LONGEST`], but for the ellipsis at its end.
#[derive(Default)]
struct Text(String);

impl Text {
    fn is_full(&self) -> bool {
        self.0.len() > LONGEST
    }

    fn push(&mut self, more: &str) {
        if self.is_full() {
            return;
        }
        let room = LONGEST.saturating_sub(self.0.len());
        self.0.push_str(more.get(..more.floor_char_boundary(room)).unwrap_or_default());
        if more.len() > room {
            self.0.push('…');
        }
    }
}

/// Writes a value; none if it is not to be shown.
fn write(text: &mut Text, kind: &Kind, value: &Value, unknown: &[String]) -> Option<()> {
    match value {
        Value::String(value) => text.push(value),
        Value::Bool(value) => text.push(&value.to_string()),
        Value::I32(value) => text.push(&value.to_string()),
        Value::I64(value) => text.push(&value.to_string()),
        Value::U32(value) => text.push(&value.to_string()),
        Value::U64(value) => text.push(&value.to_string()),
        Value::F32(value) => text.push(&value.to_string()),
        Value::F64(value) => text.push(&value.to_string()),
        Value::EnumNumber(number) => text.push(&name(kind, *number, unknown)),
        Value::List(elements) => {
            text.push("[");
            for (index, element) in elements.iter().enumerate() {
                if text.is_full() {
                    break;
                }
                text.push(if index > 0 { ", " } else { "" });
                write(text, kind, element, unknown)?;
            }
            text.push("]");
        }
        Value::Map(entries) => {
            let Kind::Message(entry) = kind else { return None };
            let kind = entry.map_entry_value_field().kind();
            let mut entries: Vec<(&str, &Value)> =
                entries.iter().filter_map(|(key, value)| Some((key_text(key)?, value))).collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            text.push("{");
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if text.is_full() {
                    break;
                }
                text.push(if index > 0 { ", " } else { "" });
                text.push(key);
                text.push("=");
                write(text, &kind, value, unknown)?;
            }
            text.push("}");
        }
        Value::Bytes(_) | Value::Message(_) => return None,
    }
    Some(())
}

fn key_text(key: &MapKey) -> Option<&str> {
    key.as_str()
}

/// Name of an enumeration value: the one that the client has written, or the number if no value has it.
fn name(kind: &Kind, number: i32, unknown: &[String]) -> String {
    let index =
        number.checked_add(1).and_then(i32::checked_neg).and_then(|index| usize::try_from(index).ok());
    if let Some(name) = index.and_then(|index| unknown.get(index)) {
        return name.clone();
    }
    let Kind::Enum(enumeration) = kind else { return number.to_string() };
    let value = enumeration.get_value(number).filter(|value| value.number() != 0);
    value.map_or_else(|| number.to_string(), |value| value.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Value, unknown: &[&str]) -> String {
        let unknown: Vec<String> = unknown.iter().map(|name| (*name).to_owned()).collect();
        match shown(&Kind::String, value, &unknown) {
            Shown::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_are_shown_as_aws_shows_them() {
        let list =
            |names: &[&str]| Value::List(names.iter().map(|name| Value::String((*name).into())).collect());
        assert_eq!(text(&Value::I32(-5), &[]), "-5");
        assert_eq!(text(&list(&["a", "b c"]), &[]), "[a, b c]");
        assert_eq!(text(&list(&[]), &[]), "[]");
        assert_eq!(text(&Value::EnumNumber(-2), &["MIPS", "Z80"]), "Z80");
        assert_eq!(text(&Value::EnumNumber(-3), &["MIPS", "Z80"]), "-3");
        assert_eq!(text(&Value::EnumNumber(i32::MIN), &["MIPS"]), "-2147483648");
        assert_eq!(shown(&Kind::Bytes, &Value::Bytes(vec![1].into()), &[]), Shown::Hidden);
    }

    #[test]
    fn long_values_are_shortened_between_characters() {
        let long = text(&Value::String("ü".repeat(5000)), &[]);
        assert_eq!(long, format!("{}…", "ü".repeat(LONGEST / 2)));
        let exactly = "a".repeat(LONGEST);
        assert_eq!(text(&Value::String(exactly.clone()), &[]), exactly);
        let many = text(&Value::List(vec![Value::String("ab".into()); 1_000_000]), &[]);
        assert!(many.starts_with("[ab, ab") && many.ends_with('…') && many.len() < LONGEST + 4, "{many}");
    }
}
