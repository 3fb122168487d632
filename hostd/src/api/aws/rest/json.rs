//! JSON of AWS's REST-JSON protocol and messages, both ways, by the descriptors of the messages. Requests are read here, and
//! [`super::response`] writes responses.
//!
//! | Protobuf | JSON |
//! |---|---|
//! | absent, and lists and maps without elements | absent |
//! | `google.protobuf.Timestamp` | seconds since 1970 as a number, with milliseconds |
//! | enumeration | name of the value |
//! | integer of any size | number |
//! | oneof | structure with exactly one member |
//! | bytes | base64 |
//!
//! Members have the names of AWS's model (`json_name`). Members that a message does not have are ignored, and null is
//! the same as absent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor};
use prost_reflect::{ReflectMessage as _, Value as Field};
use serde_json::{Map, Value};

pub(super) const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// The reason why JSON is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// A value is of another JSON type; this is the type that it should be of.
    #[error("Expected {0}")]
    Type(&'static str),
    /// More than one member of a union.
    #[error("Expected exactly one member of a union")]
    Union,
}

/// Reads JSON into messages.
///
/// A name that an enumeration does not have becomes a number that it does not have, -1 for the first of
/// [`Self::unknown`], -2 for the second, and so on. So the constraints of the request refuse it as they refuse any other
/// value, and can say its name.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Names of enumeration values that do not exist.
    pub(super) unknown: Vec<String>,
}

impl Reader {
    /// Sets the members of a structure in a message, but those that `skip` names.
    ///
    /// # Errors
    /// [`Malformed`]
    pub(super) fn structure(
        &mut self,
        message: &mut DynamicMessage,
        members: &Map<String, Value>,
        skip: impl Fn(&str) -> bool,
    ) -> Result<(), Malformed> {
        let descriptor = message.descriptor();
        for (name, value) in members {
            if value.is_null() || skip(name) {
                continue;
            }
            let Some(field) = descriptor.get_field_by_json_name(name) else { continue };
            let union = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
            if union.is_some_and(|oneof| oneof.fields().any(|other| message.has_field(&other))) {
                return Err(Malformed::Union);
            }
            let value = self.member(&field, value)?;
            set(message, &field, value);
        }
        Ok(())
    }

    fn member(&mut self, field: &FieldDescriptor, json: &Value) -> Result<Field, Malformed> {
        if field.is_map() {
            let entries = json.as_object().ok_or(Malformed::Type("a map"))?;
            let Kind::Message(entry) = field.kind() else { return Err(Malformed::Type("null")) };
            let kind = entry.map_entry_value_field().kind();
            let entries = entries.iter().filter(|(_, value)| !value.is_null());
            let entries =
                entries.map(|(key, value)| Ok((MapKey::String(key.clone()), self.value(&kind, value)?)));
            return Ok(Field::Map(entries.collect::<Result<_, Malformed>>()?));
        }
        if field.is_list() {
            let elements = json.as_array().ok_or(Malformed::Type("a list"))?;
            let (kind, elements) = (field.kind(), elements.iter().filter(|element| !element.is_null()));
            let elements: Result<_, _> = elements.map(|element| self.value(&kind, element)).collect();
            return Ok(Field::List(elements?));
        }
        self.value(&field.kind(), json)
    }

    fn value(&mut self, kind: &Kind, json: &Value) -> Result<Field, Malformed> {
        let integer = || json.as_i64().ok_or(Malformed::Type("an integer"));
        Ok(match kind {
            Kind::String => Field::String(json.as_str().ok_or(Malformed::Type("a string"))?.to_owned()),
            Kind::Bool => Field::Bool(json.as_bool().ok_or(Malformed::Type("a boolean"))?),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                Field::I32(i32::try_from(integer()?).map_err(|_| Malformed::Type("an integer"))?)
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(integer()?),
            Kind::Uint32 | Kind::Fixed32 => {
                Field::U32(u32::try_from(integer()?).map_err(|_| Malformed::Type("an integer"))?)
            }
            Kind::Uint64 | Kind::Fixed64 => Field::U64(json.as_u64().ok_or(Malformed::Type("an integer"))?),
            Kind::Double => Field::F64(json.as_f64().ok_or(Malformed::Type("a number"))?),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a float has fewer digits than the number in JSON"
            )]
            Kind::Float => Field::F32(json.as_f64().ok_or(Malformed::Type("a number"))? as f32),
            Kind::Bytes => {
                let text = json.as_str().ok_or(Malformed::Type("a blob"))?;
                Field::Bytes(STANDARD.decode(text).map_err(|_| Malformed::Type("a blob"))?.into())
            }
            Kind::Enum(enumeration) => {
                self.name(enumeration, json.as_str().ok_or(Malformed::Type("a string"))?)
            }
            Kind::Message(message) if message.full_name() == TIMESTAMP => {
                let seconds = json.as_f64().ok_or(Malformed::Type("a timestamp"))?;
                Field::Message(timestamp(message, seconds))
            }
            Kind::Message(message) => {
                let members = json.as_object().ok_or(Malformed::Type("a structure"))?;
                let mut inner = DynamicMessage::new(message.clone());
                self.structure(&mut inner, members, |_| false)?;
                Field::Message(inner)
            }
        })
    }

    /// A value of an enumeration by its name. Protobuf's value 0 stands for an absent one and has no name in AWS's model.
    fn name(&mut self, enumeration: &EnumDescriptor, name: &str) -> Field {
        let known = enumeration.get_value_by_name(name).filter(|value| value.number() != 0);
        let number = known.map(|value| value.number()).unwrap_or_else(|| {
            self.unknown.push(name.to_owned());
            i32::try_from(self.unknown.len()).map_or(i32::MIN, i32::wrapping_neg)
        });
        Field::EnumNumber(number)
    }

    /// Sets a member from texts: those of a path or a query string.
    ///
    /// # Errors
    /// [`Malformed`]
    pub(super) fn texts(
        &mut self,
        message: &mut DynamicMessage,
        name: &str,
        texts: Vec<String>,
    ) -> Result<(), Malformed> {
        let descriptor = message.descriptor();
        let Some(field) = descriptor.get_field_by_json_name(name) else { return Ok(()) };
        let kind = field.kind();
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            let json = match kind {
                Kind::Int32 => {
                    text.parse::<i32>().map(Value::from).map_err(|_| Malformed::Type("an integer"))?
                }
                Kind::Bool => {
                    text.parse::<bool>().map(Value::from).map_err(|_| Malformed::Type("a boolean"))?
                }
                _ => Value::String(text),
            };
            values.push(self.value(&kind, &json)?);
        }
        if field.is_list() {
            set(message, &field, Field::List(values));
        } else if let Some(last) = values.pop() {
            set(message, &field, last);
        }
        Ok(())
    }
}

/// Sets a member. The value was made for the member's type, so that it fits.
fn set(message: &mut DynamicMessage, field: &FieldDescriptor, value: Field) {
    if let Err(error) = message.try_set_field(field, value) {
        tracing::error!(field = field.full_name(), %error, "a value does not fit the member that it was read for");
    }
}

/// A timestamp from seconds since 1970. What is beyond all times is a time beyond them, too, which constraints refuse.
#[expect(clippy::cast_possible_truncation, reason = "conversions of floats saturate")]
fn timestamp(message: &MessageDescriptor, seconds: f64) -> DynamicMessage {
    let mut stamp = DynamicMessage::new(message.clone());
    let whole = seconds.floor();
    let nanos = ((seconds - whole) * 1e9) as i32;
    for (name, value) in [("seconds", Field::I64(whole as i64)), ("nanos", Field::I32(nanos))] {
        if let Some(field) = message.get_field_by_name(name) {
            set(&mut stamp, &field, value);
        }
    }
    stamp
}
