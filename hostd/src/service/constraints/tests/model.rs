//! The table of constraints against AWS's service model, in both directions.

use std::collections::BTreeSet;

use prost_reflect::Kind;
use serde_json::Value;

use super::*;
use crate::api::aws::rest::tests::model::{Model, entries, message};
use crate::operation::Operation;

/// What differs from the model in some member.
type Difference = (&'static str, &'static str, Profiles, Words, Words);

/// Constraints in the words of [`words`].
type Words = &'static [&'static str];

/// What differs from the model: message, member, profiles, constraints of the model, constraints of the table.
const DIFFERENCES: &[Difference] = {
    use Profiles::{Both, Default, Strict};
    &[
        // The model has no bound.
        ("CreateMicrovmImageRequest", "description", Both, &[], &["length 0..4096"]),
        ("UpdateMicrovmImageRequest", "description", Both, &[], &["length 0..4096"]),
        ("CreateMicrovmImageRequest", "cpuConfigurations", Both, &[], &["items 0..16"]),
        ("UpdateMicrovmImageRequest", "cpuConfigurations", Both, &[], &["items 0..16"]),
        ("CreateMicrovmImageRequest", "additionalOsCapabilities", Both, &[], &["items 0..64"]),
        ("UpdateMicrovmImageRequest", "additionalOsCapabilities", Both, &[], &["items 0..64"]),
        ("ListMicrovmsRequest", "imageVersion", Both, &[], &["length 0..2048"]),
        ("ListMicrovmsRequest", "nextToken", Both, &[], &["length 0..4096"]),
        ("ListMicrovmImagesRequest", "nextToken", Both, &[], &["length 0..4096"]),
        ("ListMicrovmImageVersionsRequest", "nextToken", Both, &[], &["length 0..4096"]),
        ("ListMicrovmImageBuildsRequest", "nextToken", Both, &[], &["length 0..4096"]),
        ("ListManagedMicrovmImagesRequest", "nextToken", Both, &[], &["length 0..4096"]),
        ("ListManagedMicrovmImageVersionsRequest", "nextToken", Both, &[], &["length 0..4096"]),
        // Documented, and enforced by AWS's service, but not in its model.
        ("IdlePolicy", "maxIdleDurationSeconds", Both, &["range 60.."], &["range 60..28800"]),
        ("CreateMicrovmImageRequest", "environmentVariables", Both, &["items 0..100"], &["items 0..50"]),
        ("UpdateMicrovmImageRequest", "environmentVariables", Both, &["items 0..100"], &["items 0..50"]),
        ("CreateMicrovmImageRequest", "tags", Both, &[], &["items 0..50"]),
        ("TagResourceRequest", "Tags", Both, &[], &["items 0..50"]),
        ("UntagResourceRequest", "TagKeys", Both, &[], &["items 1..50"]),
        // A token travels in a header.
        ("CreateMicrovmAuthTokenRequest", "allowedPorts", Both, &["items 1.."], &["items 1..100"]),
        // The API reference has 16,384 bytes.
        ("RunMicrovmRequest", "runHookPayload", Default, &["length 0..4096"], &["bytes ..16384"]),
        // The members of a union are not required in the model, whose unions have exactly one member by definition.
        ("CodeArtifact", "artifact", Both, &[], &["required"]),
        ("Logging", "logging", Both, &[], &["required"]),
        ("PortSpecification", "specification", Both, &[], &["required"]),
        // The profile `default` takes bare names. The Region of this host need not be one of AWS's.
        ("ListTagsRequest", "Resource", Default, &[TAGGABLE], &[]),
        ("TagResourceRequest", "Resource", Default, &[TAGGABLE], &[]),
        ("UntagResourceRequest", "Resource", Default, &[TAGGABLE], &[]),
        ("ListTagsRequest", "Resource", Strict, &[TAGGABLE], &[ANY_REGION]),
        ("TagResourceRequest", "Resource", Strict, &[TAGGABLE], &[ANY_REGION]),
        ("UntagResourceRequest", "Resource", Strict, &[TAGGABLE], &[ANY_REGION]),
    ]
};

/// The pattern of ARNs that can have tags.
const TAGGABLE: &str = r"pattern arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|(capacity-provider|network-connector|microvm-image):[a-zA-Z0-9-_]+)";
/// [`TAGGABLE`] with any Region.
const ANY_REGION: &str = r"pattern arn:(aws[a-zA-Z-]*):lambda:[a-z0-9-]+:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|(capacity-provider|network-connector|microvm-image):[a-zA-Z0-9-_]+)";

/// A constraint of a member: message, member, constraint.
type Constraint = (String, String, String);

fn range(what: &str, min: Option<i64>, max: Option<i64>) -> Option<String> {
    let text = |bound: Option<i64>| bound.map(|bound| bound.to_string()).unwrap_or_default();
    (min.is_some() || max.is_some()).then(|| format!("{what} {}..{}", text(min), text(max)))
}

/// The constraints of a shape by itself.
fn of_shape(model: &Model, name: &str) -> Vec<String> {
    let shape = model.shape(name);
    let (min, max) = (shape["min"].as_i64(), shape["max"].as_i64());
    let mut constraints = Vec::new();
    match shape["type"].as_str().unwrap() {
        "string" => {
            constraints.extend(range("length", min, max));
            constraints.extend(shape["pattern"].as_str().map(|pattern| format!("pattern {pattern}")));
        }
        "integer" | "long" => constraints.extend(range("range", min, max)),
        "list" => {
            constraints.extend(range("items", min, max));
            constraints.extend(inner(model, &shape["member"], "each"));
        }
        "map" => {
            constraints.extend(range("items", min, max));
            constraints.extend(inner(model, &shape["key"], "keys"));
            constraints.extend(inner(model, &shape["value"], "values"));
        }
        _ => {}
    }
    if shape["sensitive"] == true {
        constraints.push("sensitive".to_owned());
    }
    constraints
}

/// The constraints of elements, keys or values. If they are secrets, the whole member is one.
fn inner(model: &Model, member: &Value, what: &str) -> Vec<String> {
    let constraints = of_shape(model, member["shape"].as_str().unwrap());
    let named = |text: String| if text == "sensitive" { text } else { format!("{what}: {text}") };
    constraints.into_iter().map(named).collect()
}

/// Collects the constraints of a structure and of those in it.
fn of_structure(
    model: &Model,
    shape: &str,
    message: &MessageDescriptor,
    constraints: &mut BTreeSet<Constraint>,
) {
    let name = message.name().to_owned();
    for required in model.shape(shape)["required"].as_array().into_iter().flatten() {
        constraints.insert((name.clone(), required.as_str().unwrap().to_owned(), "required".to_owned()));
    }
    for (member, value) in entries(&model.shape(shape)["members"]) {
        let member_shape = value["shape"].as_str().unwrap();
        for constraint in of_shape(model, member_shape) {
            constraints.insert((name.clone(), member.to_owned(), constraint));
        }
        let field = message.get_field_by_json_name(member).unwrap();
        let Some(inner) = structure(&field) else { continue };
        let element = model.shape(member_shape)["member"]["shape"].as_str();
        of_structure(model, element.unwrap_or(member_shape), &inner, constraints);
    }
}

/// A rule of the table in the words of [`of_shape`].
fn words(rule: Rule) -> Vec<String> {
    let bound = |bound: usize| i64::try_from(bound).ok();
    let each = |what: &str, rules: &[Rule]| {
        rules.iter().flat_map(|rule| words(*rule)).map(|text| format!("{what}: {text}")).collect()
    };
    match rule {
        Rule::Required => vec!["required".to_owned()],
        Rule::Sensitive => vec!["sensitive".to_owned()],
        Rule::Length(min, max) => range("length", bound(min), bound(max)).into_iter().collect(),
        Rule::BytesAtMost(max) => range("bytes", None, bound(max)).into_iter().collect(),
        Rule::Pattern(pattern) => vec![format!("pattern {pattern}")],
        Rule::Range(min, max) => {
            let max = Some(max).filter(|max| *max != i64::from(i32::MAX));
            range("range", Some(min), max).into_iter().collect()
        }
        Rule::Items(min, max) | Rule::Entries(min, max) => {
            range("items", bound(min), bound(max)).into_iter().collect()
        }
        Rule::Each(rules) => each("each", rules),
        Rule::Keys(rules) => each("keys", rules),
        Rule::Values(rules) => each("values", rules),
    }
}

#[test]
fn the_table_has_the_constraints_of_the_model_but_for_stated_differences() {
    let model = Model::read();
    let (mut of_model, mut messages) = (BTreeSet::new(), BTreeSet::new());
    for operation in Operation::ALL {
        let Some(input) = model.of_operation(operation.name(), "input") else { continue };
        let request = message(&format!("hearth.microvms.v1.{}Request", operation.name()));
        of_structure(&model, input, &request, &mut of_model);
        collect(&request, &mut messages);
    }
    for profile in [Profile::Default, Profile::AwsStrict] {
        let rows = table::TABLE.iter().filter(|row| row.2.have(profile) && messages.contains(row.0));
        let of_table: BTreeSet<Constraint> = rows
            .flat_map(|row| {
                row.3
                    .iter()
                    .flat_map(|rule| words(*rule))
                    .map(|text| (row.0.to_owned(), row.1.to_owned(), text))
            })
            .collect();
        let stated = |which: fn(&Difference) -> Words| {
            let of_profile = DIFFERENCES.iter().filter(|difference| difference.2.have(profile));
            of_profile
                .flat_map(|difference| {
                    which(difference)
                        .iter()
                        .map(|text| (difference.0.to_owned(), difference.1.to_owned(), (*text).to_owned()))
                })
                .collect::<BTreeSet<Constraint>>()
        };
        let missing: BTreeSet<Constraint> = of_model.difference(&of_table).cloned().collect();
        assert_eq!(missing, stated(|difference| difference.3), "{profile:?}: constraints of the model");
        let additional: BTreeSet<Constraint> = of_table.difference(&of_model).cloned().collect();
        assert_eq!(additional, stated(|difference| difference.4), "{profile:?}: constraints of the table");
    }
}

/// Names of a message and of those in it.
fn collect(message: &MessageDescriptor, names: &mut BTreeSet<String>) {
    names.insert(message.name().to_owned());
    for field in message.fields() {
        if let (Kind::Message(_), Some(inner)) = (field.kind(), structure(&field)) {
            collect(&inner, names);
        }
    }
}
