//! Every member of every request has a bound from above, and the largest request fits into a message.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::{MapKey, MessageDescriptor, ReflectMessage as _, Value};

use super::sweep::{PROFILES, found, pool, shape, text};
use super::*;

/// The bound from above that a text, data, or a number needs; none for flags, enumerations and structures.
fn lacks_bound(kind: &Kind, rules: &[Rule]) -> Option<&'static str> {
    let has = |wanted: fn(&Rule) -> bool| rules.iter().any(wanted);
    match kind {
        Kind::Bool | Kind::Enum(_) | Kind::Message(_) => None,
        Kind::String => (!has(|rule| matches!(rule, Rule::Length(..) | Rule::BytesAtMost(_))))
            .then_some("greatest length"),
        Kind::Bytes => (!has(|rule| matches!(rule, Rule::BytesAtMost(_)))).then_some("greatest length"),
        _ => (!has(|rule| matches!(rule, Rule::Range(..)))).then_some("range"),
    }
}

/// What a member lacks to be bounded: its size, its elements, its keys, its values.
fn lacking(field: &FieldDescriptor, rules: &[Rule]) -> Vec<&'static str> {
    let inner =
        |which: fn(&Rule) -> Option<&'static [Rule]>| rules.iter().find_map(which).unwrap_or_default();
    let mut lacking = Vec::new();
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let keys = inner(|rule| if let Rule::Keys(rules) = rule { Some(rules) } else { None });
        let values = inner(|rule| if let Rule::Values(rules) = rule { Some(rules) } else { None });
        let sized = rules.iter().any(|rule| matches!(rule, Rule::Entries(..)));
        lacking.extend((!sized).then_some("greatest number of entries"));
        lacking.extend(lacks_bound(&entry.map_entry_key_field().kind(), keys));
        lacking.extend(lacks_bound(&entry.map_entry_value_field().kind(), values));
    } else if field.is_list() {
        let each = inner(|rule| if let Rule::Each(rules) = rule { Some(rules) } else { None });
        let sized = rules.iter().any(|rule| matches!(rule, Rule::Items(..)));
        lacking.extend((!sized).then_some("greatest number of elements"));
        lacking.extend(lacks_bound(&field.kind(), each));
    } else {
        lacking.extend(lacks_bound(&field.kind(), rules));
    }
    lacking
}

/// A message and those in it, as their descriptors have them.
fn walk(message: &MessageDescriptor, found: &mut BTreeMap<String, MessageDescriptor>) {
    if found.insert(message.full_name().to_owned(), message.clone()).is_some() {
        return;
    }
    for field in message.fields() {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                if let Kind::Message(value) = entry.map_entry_value_field().kind() {
                    walk(&value, found);
                }
            }
            Kind::Message(inner) => walk(&inner, found),
            _ => {}
        }
    }
}

/// A new member fails this test unless it is bounded: every text, list, map and number of every request in the
/// descriptors, however deep.
#[test]
fn every_member_of_every_request_has_a_bound() {
    // The memory size is one of the memory classes; others are refused with a sentence of their own, which
    // `service::images` tests.
    const CLASSES: (&str, &str) = ("Resources", "minimumMemoryInMiB");
    let mut requests = BTreeMap::new();
    for method in pool().services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        walk(&method.input(), &mut requests);
    }
    let mut needing = 0;
    for profile in PROFILES {
        for message in requests.values() {
            let (name, own) = (message.name(), message.package_name().starts_with("hearth."));
            if !own {
                continue; // the members that consist of it are looked at
            }
            let shape = shape(name, profile);
            assert_eq!(&shape.descriptor, message, "two messages have the name {name}");
            for member in &shape.members {
                let (field, json) = (&member.field, member.field.json_name());
                let lacking_rules = lacking(field, &rules(name, json, profile));
                let known = (name, json) == CLASSES;
                assert!(lacking_rules.is_empty() != known, "{name}.{json} has no {lacking_rules:?}");
                needing += usize::from(!lacking(field, &[]).is_empty());
                let value = match field.kind() {
                    Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
                    kind => kind,
                };
                match value {
                    Kind::Message(inner) if inner.package_name().starts_with("hearth.") => {
                        assert!(member.shape.is_some(), "{name}.{json} is not looked into");
                    }
                    Kind::Message(_) | Kind::Float | Kind::Double => {
                        assert!(!member.checks.is_empty(), "{name}.{json} is not checked");
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(needing > 200, "only {needing} members need a bound");
}

/// The largest value of a member that its rules allow, in ASCII.
fn largest_value(field: &FieldDescriptor, rules: &[Rule], profile: Profile) -> Value {
    let one = |rules: &[Rule]| match field.kind() {
        Kind::String => Value::String(text(rules, longest(rules))),
        Kind::Int32 => Value::I32(
            rules
                .iter()
                .find_map(|rule| if let Rule::Range(_, max) = rule { i32::try_from(*max).ok() } else { None })
                .unwrap_or(i32::MAX),
        ),
        Kind::Message(message) => Value::Message(largest(&message, profile)),
        Kind::Enum(_) => Value::EnumNumber(1),
        Kind::Bool => Value::Bool(true),
        kind => panic!("{kind:?}"),
    };
    let nested =
        |which: fn(&Rule) -> Option<&'static [Rule]>| rules.iter().find_map(which).unwrap_or_default();
    if field.is_map() {
        let keys = nested(|rule| if let Rule::Keys(rules) = rule { Some(rules) } else { None });
        let values = nested(|rule| if let Rule::Values(rules) = rule { Some(rules) } else { None });
        let entries =
            rules.iter().find_map(|rule| if let Rule::Entries(_, max) = rule { Some(*max) } else { None });
        let key = |number| MapKey::String(format!("{number:a>width$}", width = longest(keys)));
        let value = Value::String("a".repeat(longest(values)));
        Value::Map((0..entries.unwrap()).map(|number| (key(number), value.clone())).collect())
    } else if field.is_list() {
        let each = nested(|rule| if let Rule::Each(rules) = rule { Some(rules) } else { None });
        let items =
            rules.iter().find_map(|rule| if let Rule::Items(_, max) = rule { Some(*max) } else { None });
        Value::List(vec![one(each); items.unwrap()])
    } else {
        one(rules)
    }
}

/// The greatest length of a text that rules allow.
fn longest(rules: &[Rule]) -> usize {
    let most = rules.iter().find_map(|rule| match rule {
        Rule::Length(_, max) | Rule::BytesAtMost(max) => Some(*max),
        _ => None,
    });
    most.unwrap()
}

/// The largest message that the constraints allow, in ASCII.
fn largest(message: &MessageDescriptor, profile: Profile) -> DynamicMessage {
    let mut built = DynamicMessage::new(message.clone());
    for field in message.fields() {
        if message.package_name() == "google.protobuf" {
            continue; // some bytes
        }
        let rules = rules(message.name(), field.json_name(), profile);
        let mut with = built.clone();
        with.set_field(&field, largest_value(&field, &rules, profile));
        // Of a union, the largest member stays.
        if with.encoded_len() >= built.encoded_len() {
            built = with;
        }
    }
    built
}

#[test]
fn the_largest_request_in_ascii_fits_into_a_message() {
    let most = crate::api::grpc::bounds::REQUEST_MAX;
    let mut greatest = 0;
    for profile in PROFILES {
        for name in MESSAGES.iter().filter(|name| !name.ends_with(".PutArtifactRequest")) {
            let message = largest(&pool().get_message_by_name(name).unwrap(), profile);
            let violations = found(&shape(message.descriptor().name(), profile), &message, "");
            // Names may be larger than what the host has, and texts need not be what they say.
            assert!(
                violations.iter().all(|violation| !violation.constraint.contains("length")),
                "{violations:?}"
            );
            assert!(message.encoded_len() <= most, "{name} has {} bytes", message.encoded_len());
            greatest = greatest.max(message.encoded_len());
        }
    }
    assert!(greatest > most / 2, "{greatest}: the bound is far from what is needed");
}
