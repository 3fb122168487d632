//! Messages as the JSON of responses ([`super::json`] says how they are mapped), written as they are walked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, EnumValueDescriptor, FieldDescriptor, Kind, MapKey};
use prost_reflect::{ReflectMessage as _, Value as Field};
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq as _, Serializer};
use serde_json::json;

use super::json::TIMESTAMP;
use crate::service::ServiceError;
use crate::service::json::dynamic;

const NANOS_PER_MILLI: i32 = 1_000_000;

/// Lists and maps that responses have even if they are empty: clients look into them without asking whether they exist.
pub(super) const ALWAYS: [&str; 2] = ["items", "Tags"];

/// The JSON of a response.
///
/// # Errors
/// The descriptors do not have the message, which is a fault of the build.
pub(super) fn written<M: prost::Name>(message: &M) -> Result<Vec<u8>, ServiceError> {
    let name = M::full_name();
    let message =
        dynamic(&name, message).ok_or_else(|| ServiceError::internal(format!("{name} has no descriptor")))?;
    serde_json::to_vec(&Response(&message))
        .map_err(|error| ServiceError::internal(format!("{name} cannot be written as JSON: {error}")))
}

/// The message of a response.
struct Response<'a>(&'a DynamicMessage);

impl Serialize for Response<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        for field in self.0.descriptor().fields() {
            if !self.0.has_field(&field) && ALWAYS.contains(&field.json_name()) {
                let empty = if field.is_map() { json!({}) } else { json!([]) };
                members.serialize_entry(field.json_name(), &empty)?;
            }
        }
        structure(self.0, members)
    }
}

/// Adds the members of a message.
fn structure<S: SerializeMap>(message: &DynamicMessage, mut members: S) -> Result<S::Ok, S::Error> {
    for (field, value) in message.fields() {
        let member = Member { kind: &kind(&field), value };
        if member.is_there() {
            members.serialize_entry(field.json_name(), &member)?;
        }
    }
    members.end()
}

/// The kind of a member, of its elements, or of its entries' values.
fn kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

/// A value of a message.
struct Member<'a> {
    kind: &'a Kind,
    value: &'a Field,
}

impl Member<'_> {
    /// Whether there is a value: the value 0 of an enumeration means that there is none.
    fn is_there(&self) -> bool {
        !matches!(self.value, Field::EnumNumber(_)) || self.name().is_some()
    }

    /// The name of an enumeration's value.
    fn name(&self) -> Option<EnumValueDescriptor> {
        let (Kind::Enum(enumeration), Field::EnumNumber(number)) = (self.kind, self.value) else {
            return None;
        };
        enumeration.get_value(*number).filter(|value| value.number() != 0)
    }
}

impl Serialize for Member<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of = |value| Member { kind: self.kind, value };
        match self.value {
            Field::Bool(value) => serializer.serialize_bool(*value),
            Field::I32(value) => serializer.serialize_i32(*value),
            Field::I64(value) => serializer.serialize_i64(*value),
            Field::U32(value) => serializer.serialize_u32(*value),
            Field::U64(value) => serializer.serialize_u64(*value),
            Field::F32(value) => serializer.serialize_f64(f64::from(*value)),
            Field::F64(value) => serializer.serialize_f64(*value),
            Field::String(text) => serializer.serialize_str(text),
            Field::Bytes(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
            Field::EnumNumber(_) => match self.name() {
                Some(value) => serializer.serialize_str(value.name()),
                None => serializer.serialize_none(),
            },
            Field::Message(message) if message.descriptor().full_name() == TIMESTAMP => {
                Epoch::of(message).serialize(serializer)
            }
            Field::Message(message) => structure(message, serializer.serialize_map(None)?),
            Field::List(elements) => {
                let mut list = serializer.serialize_seq(None)?;
                for element in elements.iter().map(of).filter(Member::is_there) {
                    list.serialize_element(&element)?;
                }
                list.end()
            }
            Field::Map(entries) => {
                let mut map = serializer.serialize_map(None)?;
                let entries =
                    entries.iter().filter_map(|(key, value)| Some((MapKey::as_str(key)?, of(value))));
                for (key, value) in entries.filter(|(_, value)| value.is_there()) {
                    map.serialize_entry(key, &value)?;
                }
                map.end()
            }
        }
    }
}

/// A timestamp as seconds since 1970, with milliseconds.
#[derive(Serialize)]
#[serde(untagged)]
enum Epoch {
    Seconds(i64),
    Millis(f64),
}

impl Epoch {
    fn of(stamp: &DynamicMessage) -> Self {
        let number = |name| stamp.get_field_by_name(name);
        let seconds = number("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
        let nanos = number("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
        let millis = nanos.wrapping_div(NANOS_PER_MILLI);
        if millis == 0 {
            return Self::Seconds(seconds);
        }
        // Times until the year 9999 have 15 digits with their milliseconds, which a double has.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        let value = seconds as f64 + f64::from(millis) / 1000.0;
        // Rounded, so that no digits of the sum's inaccuracy are written.
        Self::Millis((value * 1000.0).round() / 1000.0)
    }
}
