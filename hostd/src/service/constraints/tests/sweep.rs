//! A sweep over the table: values just inside and just outside each constraint, in both profiles.

use std::collections::{BTreeSet, HashMap};

use hearth_proto::microvms::v1 as proto;
use prost_reflect::{MapKey, MessageDescriptor, Value};

use super::*;

pub(super) const PROFILES: [Profile; 2] = [Profile::Default, Profile::AwsStrict];

pub(super) fn pool() -> &'static DescriptorPool {
    POOL.as_ref().unwrap()
}

/// Every message that is a request or is contained in one.
fn messages() -> HashMap<String, MessageDescriptor> {
    let shapes = &Constraints::of(Profile::Default).requests;
    shapes.values().map(|shape| (shape.descriptor.name().to_owned(), shape.descriptor.clone())).collect()
}

pub(super) fn shape(message: &str, profile: Profile) -> Arc<Shape> {
    let shapes = &Constraints::of(profile).requests;
    Arc::clone(shapes.values().find(|shape| shape.descriptor.name() == message).unwrap())
}

/// A text of `length` characters that matches the pattern of these rules.
pub(super) fn text(rules: &[Rule], length: usize) -> String {
    let pattern = rules.iter().find_map(|rule| match rule {
        Rule::Pattern(pattern) => Some(*pattern),
        _ => None,
    });
    let prefix = match pattern {
        Some(pattern) if pattern.starts_with("arn:(aws") => {
            "arn:aws:lambda:eu-home-1:111122223333:microvm-image:"
        }
        Some(pattern) if pattern.starts_with("arn:") => "arn:aws:iam::111122223333:role/",
        _ => "",
    };
    if length <= prefix.len() {
        prefix[..length].to_owned()
    } else {
        format!("{prefix}{}", "a".repeat(length - prefix.len()))
    }
}

/// Whether the pattern of these rules is that of an ARN.
fn is_arn(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| matches!(rule, Rule::Pattern(pattern) if pattern.starts_with("arn:")))
}

/// A text of valid length that a pattern refuses.
fn refused(pattern: &str) -> String {
    match pattern {
        r"[^\s]+" => "a b".to_owned(),
        r"[^:*]*" => "a:b".to_owned(),
        r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)" => "a#b".to_owned(),
        pattern if pattern.starts_with("arn:") => "arn:aws:iam::11112222333:role/too-short".to_owned(),
        _ => "a b?".to_owned(),
    }
}

/// A valid value for a member.
fn good(field: &FieldDescriptor, rules: &[Rule]) -> Value {
    let one = || match field.kind() {
        Kind::String => Value::String(text(rules, if is_arn(rules) { 60 } else { 8 })),
        Kind::Int32 => Value::I32(
            rules
                .iter()
                .find_map(|rule| match rule {
                    Rule::Range(min, _) => i32::try_from(*min).ok(),
                    _ => None,
                })
                .unwrap_or(512),
        ),
        Kind::Bool => Value::Bool(true),
        Kind::Bytes => Value::Bytes(vec![1].into()),
        Kind::Enum(_) => Value::EnumNumber(1),
        Kind::Message(message) => Value::Message(minimal(&message, Profile::Default)),
        kind => panic!("{kind:?}"),
    };
    if field.is_map() {
        Value::Map([(MapKey::String("key".to_owned()), Value::String("value".to_owned()))].into())
    } else if field.is_list() {
        Value::List(vec![one()])
    } else {
        one()
    }
}

/// A message with only the required members.
fn minimal(message: &MessageDescriptor, profile: Profile) -> DynamicMessage {
    let mut built = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let rules = rules(message.name(), field.json_name(), profile);
        let first_of_union = field.containing_oneof().is_some_and(|oneof| {
            !super::rules(message.name(), oneof.name(), profile).is_empty()
                && oneof.fields().next().unwrap() == field
        });
        if first_of_union || rules.iter().any(|rule| matches!(rule, Rule::Required)) {
            built.set_field(&field, good(&field, &rules));
        }
    }
    built
}

/// The violations of a message.
pub(super) fn found(shape: &Shape, message: &DynamicMessage, path: &str) -> Vec<Violation> {
    let mut found = Found { violations: Vec::new(), unknown: &[] };
    shape.check(message, path, &mut found);
    found.violations
}

/// Checks a minimal message with one member set.
fn check(message: &str, member: &str, profile: Profile, value: Option<Value>) -> Vec<String> {
    let shape = shape(message, profile);
    let mut built = minimal(&shape.descriptor, profile);
    let field = shape.descriptor.get_field_by_json_name(member).unwrap();
    match value {
        Some(value) => built.set_field(&field, value),
        None => built.clear_field(&field),
    }
    found(&shape, &built, "")
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.constraint))
        .collect()
}

/// Values just inside a rule, and values just outside with the expected violations.
fn cases(field: &FieldDescriptor, rule: Rule, rules: &[Rule]) -> (Vec<Value>, Vec<(Option<Value>, String)>) {
    let string = |length| Value::String(text(rules, length));
    let at_most = |max: usize| format!("Member must have length less than or equal to {max}");
    let at_least = |min: usize| format!("Member must have length greater than or equal to {min}");
    match rule {
        Rule::Required => (vec![good(field, rules)], vec![(None, NOT_NULL.to_owned())]),
        Rule::Length(min, max) => {
            let mut outside = vec![(Some(string(max + 1)), at_most(max))];
            // For texts with a pattern, the lower bound follows from the pattern.
            let sole = !rules.iter().any(|rule| matches!(rule, Rule::Pattern(_)));
            if min > 0 && sole {
                outside.push((Some(string(min - 1)), at_least(min)));
            }
            let least = if is_arn(rules) { 60 } else { min.max(1) };
            (vec![string(least), string(max)], outside)
        }
        Rule::BytesAtMost(max) if field.kind() == Kind::Bytes => {
            let data = |length| Value::Bytes(vec![0; length].into());
            (vec![data(0), data(max)], vec![(Some(data(max + 1)), at_most(max))])
        }
        Rule::BytesAtMost(max) => (
            vec![Value::String("a".repeat(max)), Value::String("é".repeat(max / 2))],
            vec![(Some(Value::String("é".repeat(max / 2 + 1))), at_most(max))],
        ),
        Rule::Pattern(pattern) => (
            vec![],
            vec![(
                Some(Value::String(refused(pattern))),
                format!("Member must satisfy regular expression pattern: {pattern}"),
            )],
        ),
        Rule::Range(min, max) => {
            let number = |number: i64| i32::try_from(number).map(Value::I32).ok();
            let mut outside =
                vec![(number(min - 1), format!("Member must have value greater than or equal to {min}"))];
            if let Some(value) = number(max + 1) {
                outside.push((Some(value), format!("Member must have value less than or equal to {max}")));
            }
            (vec![number(min).unwrap(), number(max).unwrap()], outside)
        }
        Rule::Items(min, max) => {
            let Value::List(one) = good(field, rules) else { panic!() };
            let list = |length: usize| Value::List(one.iter().cycle().take(length).cloned().collect());
            (vec![list(min.max(1)), list(max)], vec![(Some(list(max + 1)), at_most(max))])
        }
        Rule::Entries(min, max) => {
            let entry = |index| (MapKey::String(format!("k{index}")), Value::String(String::new()));
            let map = |length: usize| Value::Map((0..length).map(entry).collect());
            (vec![map(min.max(1)), map(max)], vec![(Some(map(max + 1)), at_most(max))])
        }
        Rule::Each(inner) => nested(inner, "Member", |text| Value::List(vec![text])),
        Rule::Keys(inner) => nested(inner, "Map keys", |text| {
            let Value::String(text) = text else { panic!() };
            Value::Map([(MapKey::String(text), Value::String(String::new()))].into())
        }),
        Rule::Values(inner) => {
            nested(inner, "Map value", |text| Value::Map([(MapKey::String("key".to_owned()), text)].into()))
        }
        Rule::Sensitive => (vec![], vec![]),
    }
}

/// The cases for rules of elements, keys or values.
fn nested(
    rules: &'static [Rule],
    what: &str,
    wrap: impl Fn(Value) -> Value,
) -> (Vec<Value>, Vec<(Option<Value>, String)>) {
    let mut texts = Vec::new();
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for rule in rules {
        match *rule {
            Rule::Length(min, max) => {
                texts.push(format!("Member must have length less than or equal to {max}"));
                texts.push(format!("Member must have length greater than or equal to {min}"));
                inside.extend([text(rules, min), text(rules, max)]);
                outside.push(text(rules, max + 1));
                if min > 0 {
                    outside.push(text(rules, min - 1));
                }
            }
            Rule::Pattern(pattern) => {
                texts.push(format!("Member must satisfy regular expression pattern: {pattern}"));
                outside.push(refused(pattern));
            }
            other => panic!("{other:?}"),
        }
    }
    let told = format!("{what} must satisfy constraint: [{}]", texts.join(", "));
    let wrapped = |text| wrap(Value::String(text));
    (
        inside.into_iter().map(wrapped).collect(),
        outside.into_iter().map(|text| (Some(wrapped(text)), told.clone())).collect(),
    )
}

#[test]
fn every_constraint_holds_just_inside_and_not_just_outside() {
    let mut swept = 0;
    for profile in PROFILES {
        for Row(message, member, _, _) in table::TABLE.iter().filter(|row| row.2.have(profile)) {
            let shape = shape(message, profile);
            let Some(field) = shape.descriptor.get_field_by_json_name(member) else { continue };
            let rules = rules(message, member, profile);
            for rule in &rules {
                let (inside, outside) = cases(&field, *rule, &rules);
                for value in inside {
                    assert_eq!(
                        check(message, member, profile, Some(value)),
                        [""; 0],
                        "{message}.{member} {rule:?}"
                    );
                    swept += 1;
                }
                for (value, told) in outside {
                    let expected = [format!("{member}: {told}")];
                    assert_eq!(
                        check(message, member, profile, value),
                        expected,
                        "{message}.{member} {rule:?}"
                    );
                    swept += 1;
                }
            }
        }
    }
    assert!(swept > 500, "{swept}");
}

#[test]
fn a_union_needs_a_member() {
    for profile in PROFILES {
        for Row(message, oneof, ..) in table::TABLE.iter() {
            let shape = shape(message, profile);
            let Some(oneof) = shape.descriptor.oneofs().find(|found| found.name() == *oneof) else {
                continue;
            };
            let names: Vec<String> = oneof.fields().map(|field| field.json_name().to_owned()).collect();
            let told = format!("Member must have exactly one of its members set: [{}]", names.join(", "));
            let violations = found(&shape, &DynamicMessage::new(shape.descriptor.clone()), "where.");
            let expected = Violation { field: "where".to_owned(), value: Shown::Hidden, constraint: told };
            assert!(violations.contains(&expected), "{violations:?}");
            for field in oneof.fields() {
                let rules = rules(message, field.json_name(), profile);
                let value = good(&field, &rules);
                assert_eq!(check(message, field.json_name(), profile, Some(value)), [""; 0]);
            }
        }
    }
}

#[test]
fn values_that_no_enumeration_has_are_refused_everywhere() {
    let mut swept = 0;
    for (message, descriptor) in messages() {
        for field in descriptor.fields().filter(|field| matches!(field.kind(), Kind::Enum(_))) {
            for number in [0, 99, -1, i32::MAX] {
                let value = Value::EnumNumber(number);
                let value = if field.is_list() { Value::List(vec![value]) } else { value };
                let told = check(&message, field.json_name(), Profile::Default, Some(value));
                assert!(
                    told.len() == 1 && told[0].contains("Member must satisfy enum value set: ["),
                    "{told:?}"
                );
                swept += 1;
            }
        }
    }
    assert!(swept >= 4 * 12, "{swept}");
}

#[test]
fn every_member_is_constrained_or_known_to_be_not() {
    let mut known: BTreeSet<(String, String)> =
        table::TABLE.iter().map(|row| (row.0.to_owned(), row.1.to_owned())).collect();
    known.extend(
        table::UNCONSTRAINED.iter().map(|(message, member)| ((*message).to_owned(), (*member).to_owned())),
    );
    let mut seen = BTreeSet::new();
    for (message, descriptor) in messages() {
        let oneofs = descriptor.oneofs().filter(|oneof| !oneof.is_synthetic());
        let names: Vec<String> = descriptor
            .fields()
            .map(|field| field.json_name().to_owned())
            .chain(oneofs.map(|oneof| oneof.name().to_owned()))
            .collect();
        seen.extend(names.into_iter().map(|name| (message.clone(), name)));
    }
    let missing: Vec<_> = seen.difference(&known).collect();
    assert!(missing.is_empty(), "neither in TABLE nor in UNCONSTRAINED: {missing:?}");
    let stale: Vec<_> = known.difference(&seen).collect();
    assert!(stale.is_empty(), "rows of members that are not there: {stale:?}");
}

#[test]
fn all_requests_have_constraints() {
    for profile in PROFILES {
        for message in MESSAGES {
            assert!(pool().get_message_by_name(message).is_some(), "{message}");
            assert!(Constraints::of(profile).requests.contains_key(*message), "{message}");
        }
    }
}

#[test]
fn violations_of_a_request_are_told_with_their_paths() {
    let request = proto::RunMicrovmRequest {
        idle_policy: Some(proto::IdlePolicy {
            max_idle_duration_seconds: Some(59),
            suspended_duration_seconds: Some(0),
            auto_resume_enabled: None,
        }),
        logging: Some(proto::Logging::default()),
        ..Default::default()
    };
    let error = Constraints::of(Profile::Default).check(&request).unwrap_err();
    assert_eq!(
        error.to_string(),
        "4 validation errors detected: \
         Value null at 'imageIdentifier' failed to satisfy constraint: Member must not be null; \
         Value '59' at 'idlePolicy.maxIdleDurationSeconds' failed to satisfy constraint: \
         Member must have value greater than or equal to 60; \
         Value null at 'idlePolicy.autoResumeEnabled' failed to satisfy constraint: Member must not be null; \
         Value at 'logging' failed to satisfy constraint: \
         Member must have exactly one of its members set: [cloudWatch, disabled]"
    );
    let request = proto::CreateMicrovmAuthTokenRequest {
        microvm_identifier: Some("microvm-x".to_owned()),
        expiration_in_minutes: Some(5),
        allowed_ports: vec![
            proto::PortSpecification {
                specification: Some(proto::port_specification::Specification::Port(80)),
            },
            proto::PortSpecification {
                specification: Some(proto::port_specification::Specification::Port(0)),
            },
            proto::PortSpecification { specification: None },
        ],
    };
    let violations = Constraints::of(Profile::Default).check(&request).unwrap_err().violations();
    let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["allowedPorts.2.member.port", "allowedPorts.3.member"]);
}

#[test]
fn the_payload_is_bounded_by_the_profile() {
    let payload = |text: String| proto::RunMicrovmRequest {
        image_identifier: Some("demo".to_owned()),
        run_hook_payload: Some(text),
        ..Default::default()
    };
    let strict = Constraints::of(Profile::AwsStrict);
    strict.check(&payload("é".repeat(4096))).unwrap();
    assert_eq!(
        strict.check(&payload("a".repeat(4097))).unwrap_err().to_string(),
        "1 validation error detected: Value at 'runHookPayload' failed to satisfy constraint: \
         Member must have length less than or equal to 4096"
    );
    Constraints::of(Profile::Default).check(&payload("a".repeat(4097))).unwrap();
}

#[test]
fn a_million_wrong_elements_make_a_short_message() {
    let request = proto::CreateMicrovmImageRequest {
        cpu_configurations: vec![proto::CpuConfiguration::default(); 1_000_000],
        ..Default::default()
    };
    let violations = Constraints::of(Profile::Default).check(&request).unwrap_err().violations();
    let of_list = violations.iter().filter(|violation| violation.field.starts_with("cpuConfigurations"));
    assert_eq!(of_list.count(), 1, "too many elements are not looked at: {violations:?}");
    let request = proto::CreateMicrovmAuthTokenRequest {
        allowed_ports: vec![proto::PortSpecification::default(); 100],
        ..Default::default()
    };
    let error = Constraints::of(Profile::Default).check(&request).unwrap_err();
    assert_eq!(error.violations().len(), MAX_VIOLATIONS);
    assert!(error.to_string().len() < 8192);
}

#[test]
fn a_timestamp_is_from_year_1_to_9999_with_nanos_that_count_forward() {
    let stamp = |seconds: i64, nanos: i32| {
        let message = pool().get_message_by_name("google.protobuf.Timestamp").unwrap();
        let mut stamp = DynamicMessage::new(message);
        stamp.set_field_by_name("seconds", Value::I64(seconds));
        stamp.set_field_by_name("nanos", Value::I32(nanos));
        Some(Value::Message(stamp))
    };
    for (seconds, nanos) in [(0, 0), (-62_135_596_800, 0), (253_402_300_799, 999_999_999), (-1, 1)] {
        for member in ["startTime", "endTime"] {
            let told = check("ReadLogsRequest", member, Profile::Default, stamp(seconds, nanos));
            assert_eq!(told, [""; 0], "{seconds} {nanos}");
        }
    }
    for (seconds, nanos) in [
        (i64::MAX, 2_000_000_000),
        (i64::MAX, 0),
        (i64::MIN, 0),
        (-62_135_596_801, 0),
        (253_402_300_800, 0),
        (0, -1),
        (0, 1_000_000_000),
        (0, i32::MIN),
    ] {
        for member in ["startTime", "endTime"] {
            let told = check("ReadLogsRequest", member, Profile::Default, stamp(seconds, nanos));
            let [told] = told.as_slice() else { panic!("{seconds} {nanos}: {told:?}") };
            let expected =
                format!("{member}: Member must be a timestamp from 0001-01-01T00:00:00Z to 9999-12-31");
            assert!(told.starts_with(&expected), "{told}");
        }
    }
}
