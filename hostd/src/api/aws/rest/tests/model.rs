//! The table of routes and the messages against AWS's service model, member by member and in both directions: a new
//! version of the model fails here with what is missing.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use super::super::response::ALWAYS;
use super::super::routes::{ROUTES, Route};
use crate::service::constraints::descriptors;

/// The model, as `cargo xtask aws-model` writes it.
const MODEL: &str = include_str!("../model.json");

/// Members that messages have in addition to the model: where, name, reason.
const ADDITIONAL: &[(&str, &str, &str)] = &[(
    "UpdateMicrovmImageResponse",
    "tags",
    "create and update have one message; AWS has tags in create's alone",
)];

/// The service model.
pub(crate) struct Model(Value);

impl Model {
    pub(crate) fn read() -> Self {
        Self(serde_json::from_str(MODEL).unwrap())
    }

    pub(crate) fn shape(&self, name: &str) -> &Value {
        let shape = &self.0["shapes"][name];
        assert!(shape.is_object(), "{name}");
        shape
    }

    /// Name of an operation's input, or output, shape.
    pub(crate) fn of_operation(&self, operation: &str, which: &str) -> Option<&str> {
        self.0["operations"][operation][which]["shape"].as_str()
    }

    fn operations(&self) -> BTreeMap<&str, &Value> {
        entries(&self.0["operations"])
    }
}

/// The entries of an object.
pub(crate) fn entries(object: &Value) -> BTreeMap<&str, &Value> {
    object.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect()
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

pub(crate) fn message(name: &str) -> MessageDescriptor {
    descriptors().unwrap().get_message_by_name(name).unwrap()
}

fn route(operation: &str) -> &'static Route {
    let found: Vec<&Route> = ROUTES.iter().filter(|route| route.operation.name() == operation).collect();
    let [route] = found.as_slice() else { panic!("{} routes for {operation}", found.len()) };
    route
}

#[test]
fn every_operation_has_the_route_of_the_model() {
    let model = Model::read();
    assert_eq!(model.operations().len(), ROUTES.len());
    for (name, operation) in model.operations() {
        let (route, http) = (route(name), &operation["http"]);
        assert_eq!(http["method"], route.method.as_str(), "{name}");
        assert_eq!(http["requestUri"], route.path, "{name}");
        assert_eq!(http["responseCode"], route.status, "{name}");
        let members = &model.shape(operation["input"]["shape"].as_str().unwrap())["members"];
        let located = |place: &str| -> BTreeSet<(&str, &str)> {
            let located = entries(members).into_iter().filter(|(_, member)| member["location"] == place);
            located.map(|(name, member)| (member["locationName"].as_str().unwrap(), name)).collect()
        };
        let braces = route.path.split('{').skip(1).filter_map(|part| part.split('}').next());
        assert_eq!(located("uri"), braces.map(|name| (name, name)).collect(), "{name}: path");
        assert_eq!(located("querystring"), route.query.iter().copied().collect(), "{name}: query string");
        assert_eq!(located("header").len() + located("headers").len(), 0, "{name}: headers");
    }
}

#[test]
fn messages_have_the_members_of_the_model_and_no_others() {
    let model = Model::read();
    let mut differences = Vec::new();
    for route in &ROUTES {
        let name = route.operation.name();
        let (package, response) = route.response;
        let response = message(&format!("{package}.{response}"));
        compare(
            &model,
            model.of_operation(name, "input").unwrap(),
            &message(route.request),
            &mut differences,
        );
        match model.of_operation(name, "output") {
            Some(output) => compare(&model, output, &response, &mut differences),
            None => assert_eq!(response.fields().len(), 0, "{name}: the model has no output"),
        }
    }
    let stated = |difference: &String| {
        ADDITIONAL
            .iter()
            .any(|(shape, member, _)| *difference == format!("{shape}.{member}: not in the model"))
    };
    let unknown: Vec<_> = differences.iter().filter(|difference| !stated(difference)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    for (shape, member, _) in ADDITIONAL {
        let difference = format!("{shape}.{member}: not in the model");
        assert!(differences.contains(&difference), "no difference any more: {difference}");
    }
}

fn compare(model: &Model, shape: &str, message: &MessageDescriptor, differences: &mut Vec<String>) {
    let of_model = entries(&model.shape(shape)["members"]);
    let ours: BTreeMap<String, FieldDescriptor> =
        message.fields().map(|field| (field.json_name().to_owned(), field)).collect();
    for name in ours.keys().filter(|name| !of_model.contains_key(name.as_str())) {
        differences.push(format!("{shape}.{name}: not in the model"));
    }
    let union = model.shape(shape)["union"] == true;
    let oneofs = message.oneofs().filter(|oneof| !oneof.is_synthetic()).count();
    if union != (oneofs == 1) {
        differences.push(format!("{shape}: union {union}, {oneofs} oneofs"));
    }
    for (name, member) in of_model {
        let at = format!("{shape}.{name}");
        match ours.get(name) {
            None => differences.push(format!("{at}: missing")),
            Some(field) => compare_member(model, &at, member["shape"].as_str().unwrap(), field, differences),
        }
    }
}

fn compare_member(
    model: &Model,
    at: &str,
    shape_name: &str,
    field: &FieldDescriptor,
    differences: &mut Vec<String>,
) {
    let shape = model.shape(shape_name);
    let kind = shape["type"].as_str().unwrap();
    match kind {
        "list" if field.is_list() => {
            let element = shape["member"]["shape"].as_str().unwrap();
            compare_value(model, at, element, &field.kind(), differences);
        }
        "map" if field.is_map() => {
            let Kind::Message(entry) = field.kind() else { panic!("{at}") };
            let inner = |which: &str| shape[which]["shape"].as_str().unwrap();
            compare_value(model, at, inner("key"), &entry.map_entry_key_field().kind(), differences);
            compare_value(model, at, inner("value"), &entry.map_entry_value_field().kind(), differences);
        }
        "list" | "map" => differences.push(format!("{at}: is a {kind} in the model")),
        _ if field.is_list() || field.is_map() => differences.push(format!("{at}: is a {kind} in the model")),
        _ => compare_value(model, at, shape_name, &field.kind(), differences),
    }
}

fn compare_value(model: &Model, at: &str, shape_name: &str, kind: &Kind, differences: &mut Vec<String>) {
    let shape = model.shape(shape_name);
    match (shape["type"].as_str().unwrap(), kind) {
        ("string", Kind::Enum(enumeration)) => {
            let names: Vec<String> = enumeration
                .values()
                .filter(|value| value.number() != 0)
                .map(|value| value.name().to_owned())
                .collect();
            let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            if names != texts(&shape["enum"]) {
                differences.push(format!("{at}: values {names:?}, in the model {:?}", texts(&shape["enum"])));
            }
        }
        ("string", Kind::String) if shape["enum"].is_null() => {}
        ("integer", Kind::Int32) | ("long", Kind::Int64) | ("boolean", Kind::Bool) => {}
        ("timestamp", Kind::Message(message)) if message.full_name() == "google.protobuf.Timestamp" => {}
        ("structure", Kind::Message(message)) => compare(model, shape_name, message, differences),
        (other, kind) => differences.push(format!("{at}: is {kind:?}, in the model {other}")),
    }
}

#[test]
fn lists_and_maps_that_clients_rely_on_are_always_there() {
    let model = Model::read();
    for route in &ROUTES {
        let Some(output) = model.of_operation(route.operation.name(), "output") else { continue };
        let shape = model.shape(output);
        for name in texts(&shape["required"]) {
            let kind = &model.shape(shape["members"][name]["shape"].as_str().unwrap())["type"];
            // A token is never without a part.
            let there = ALWAYS.contains(&name) || name == "authToken";
            assert!(there || (kind != "list" && kind != "map"), "{output}.{name}");
        }
    }
}

#[test]
fn errors_have_the_members_of_the_model() {
    use std::time::Duration;

    use crate::service::ServiceError;
    use crate::service::error::{ImageError, InvalidRequest, LimitError, MicrovmError};
    use crate::service::quota::Quota;

    let model = Model::read();
    let (arn, limit) = ("arn:x".to_owned(), 1);
    let quota = || {
        ServiceError::from(LimitError::QuotaExceeded { quota: Quota::Images, limit, resource: "1".into() })
    };
    let throttled = || {
        let retry_after = Duration::from_millis(1500);
        ServiceError::from(LimitError::Throttled { quota: Quota::Images, retry_after })
    };
    let busy = || ServiceError::from(ImageError::Busy { arn: arn.clone(), state: "UPDATING" });
    let errors = [
        ServiceError::from(MicrovmError::NotFound("microvm-1".into())),
        ServiceError::from(InvalidRequest::NextToken),
        ServiceError::from(LimitError::Capacity { needed_mib: 2, free_mib: 1 }),
        ServiceError::internal("x"),
        ServiceError::internal("x").of_tags(),
        ServiceError::from(crate::access::UnknownCaller::Invalid),
        ServiceError::from(InvalidRequest::NextToken).of_tags(),
        ServiceError::from(ImageError::NotFound(arn.clone())).of_tags(),
        busy(),
        busy().of_tags(),
        quota(),
        throttled(),
        throttled().of_tags(),
    ];
    let mut seen = BTreeSet::new();
    for error in errors {
        let response = super::super::error::error(&error);
        let name = response.headers()["x-amzn-errortype"].to_str().unwrap().to_owned();
        let shape = model.shape(&name);
        assert_eq!(shape["error"]["httpStatusCode"], response.status().as_u16(), "{name}");
        let after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        if !shape["members"]["retryAfterSeconds"].is_null() {
            assert!(after.is_some(), "{name}");
        }
        if name == "ThrottlingException" {
            assert_eq!(after.as_deref(), Some("2"), "whole seconds, and not too few");
        }
        let body =
            futures_util::FutureExt::now_or_never(http_body_util::BodyExt::collect(response.into_body()));
        let body: Value = serde_json::from_slice(&body.unwrap().unwrap().to_bytes()).unwrap();
        let members: BTreeSet<&str> = entries(&body).into_keys().collect();
        let of_model: BTreeSet<&str> = entries(&shape["members"]).into_keys().collect();
        let expected = of_model.into_iter().filter(|member| *member != "retryAfterSeconds").collect();
        assert_eq!(members, expected, "{name}");
        seen.insert(name);
    }
    let exceptions = entries(&model.0["shapes"]).into_iter().filter(|(_, shape)| shape["exception"] == true);
    let all: BTreeSet<String> = exceptions.map(|(name, _)| name.to_owned()).collect();
    assert_eq!(seen, all);
}

#[test]
fn the_page_about_aws_has_every_route() {
    let page = include_str!("../../../../../../docs/aws.md");
    for route in &ROUTES {
        let names: Vec<&str> = route.query.iter().map(|(name, _)| *name).collect();
        let query = if names.is_empty() { String::new() } else { format!("?{}", names.join("&")) };
        let (name, status) = (route.operation.name(), route.status);
        let row = format!("| {name} | {} `{}{query}` | {status} |", route.method, route.path);
        assert!(page.contains(&row), "{row}");
    }
}
