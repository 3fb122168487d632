//! Requests: members from the path, the query string and the JSON body become a message.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use prost_reflect::DynamicMessage;
use serde_json::{Map, Value};

use super::json::{Malformed, Reader};
use super::routes::Found;
use crate::service::constraints::descriptors;

/// The reason why a request cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// The query string or the body cannot be parsed.
    #[error("the query string or the body cannot be parsed")]
    Unparsable,
    /// A value has the wrong type.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The message has no descriptor, which is a fault of the build.
    #[error("there is no descriptor")]
    NoDescriptor,
}

/// Reads the message of a request, with the names of enumeration values that do not exist.
///
/// # Errors
/// [`Unreadable`]
pub(super) fn read(
    found: Found,
    query: Option<&str>,
    body: &[u8],
) -> Result<(DynamicMessage, Vec<String>), Unreadable> {
    let Found { route, path } = found;
    let descriptor = descriptors().and_then(|pool| pool.get_message_by_name(route.request));
    let mut message = DynamicMessage::new(descriptor.ok_or(Unreadable::NoDescriptor)?);
    let mut reader = Reader::default();
    let body = members(body)?;
    let elsewhere = |name: &str| {
        path.iter().any(|(member, _)| *member == name)
            || route.query.iter().any(|(_, member)| *member == name)
    };
    reader.structure(&mut message, &body, elsewhere)?;
    for (name, mut values) in parameters(query.unwrap_or_default())? {
        if let Some((_, member)) = route.query.iter().find(|(wire, _)| *wire == name) {
            reader.texts(&mut message, member, std::mem::take(&mut values))?;
        }
    }
    for (name, text) in path {
        reader.texts(&mut message, name, vec![text])?;
    }
    Ok((message, reader.unknown))
}

/// The members of a body, which may be empty.
fn members(body: &[u8]) -> Result<Map<String, Value>, Unreadable> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Malformed::Type("a structure").into()),
        Err(_) => Err(Unreadable::Unparsable),
    }
}

/// The parameters of a query string, decoded, each with its values in their order. A `=` in a value is to be
/// percent-encoded: AWS does not parse a query string with another one.
fn parameters(query: &str) -> Result<BTreeMap<String, Vec<String>>, Unreadable> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        let text = percent_decode_str(&text).decode_utf8().map_err(|_| Unreadable::Unparsable)?;
        Ok::<String, Unreadable>(text.into_owned())
    };
    let mut parameters = BTreeMap::<String, Vec<String>>::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if value.contains('=') {
            return Err(Unreadable::Unparsable);
        }
        parameters.entry(decoded(name)?).or_default().push(decoded(value)?);
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use hearth_proto::microvms::v1 as api;
    use hyper::Method;

    use super::super::routes::find;
    use super::*;

    fn read_as<M: prost::Message + Default>(
        method: Method,
        path: &str,
        body: &str,
    ) -> Result<(M, Vec<String>), Unreadable> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let (message, unknown) = read(find(&method, path).unwrap(), query, body.as_bytes())?;
        Ok((message.transcode_to().unwrap(), unknown))
    }

    fn run(body: &str) -> Result<api::RunMicrovmRequest, Unreadable> {
        read_as(Method::POST, "/2025-09-09/microvms", body).map(|(message, _)| message)
    }

    #[test]
    fn a_body_becomes_a_message() {
        let request = run(
            r#"{"imageIdentifier": "demo", "imageVersion": null, "unheardOf": [{}], "runHookPayload": "",
                "idlePolicy": {"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 0, "autoResumeEnabled": false},
                "logging": {"disabled": {}, "cloudWatch": null}, "egressNetworkConnectors": ["a", null]}"#,
        )
        .unwrap();
        let expected = api::RunMicrovmRequest {
            image_identifier: Some("demo".into()),
            run_hook_payload: Some(String::new()),
            idle_policy: Some(api::IdlePolicy {
                max_idle_duration_seconds: Some(60),
                suspended_duration_seconds: Some(0),
                auto_resume_enabled: Some(false),
            }),
            logging: Some(api::Logging {
                logging: Some(api::logging::Logging::Disabled(api::LoggingDisabled {})),
            }),
            egress_network_connectors: vec!["a".into()],
            ..Default::default()
        };
        assert_eq!(request, expected);
        assert_eq!(run("").unwrap(), api::RunMicrovmRequest::default());
    }

    #[test]
    fn what_is_not_as_it_should_be_is_told_by_its_type() {
        for (body, told) in [
            ("[]", "Expected a structure"),
            (r#"{"imageIdentifier": 1}"#, "Expected a string"),
            (r#"{"maximumDurationInSeconds": "1"}"#, "Expected an integer"),
            (r#"{"maximumDurationInSeconds": 1.5}"#, "Expected an integer"),
            (r#"{"maximumDurationInSeconds": 3000000000}"#, "Expected an integer"),
            (r#"{"idlePolicy": []}"#, "Expected a structure"),
            (r#"{"idlePolicy": {"autoResumeEnabled": "true"}}"#, "Expected a boolean"),
            (r#"{"ingressNetworkConnectors": "a"}"#, "Expected a list"),
            (r#"{"logging": {"disabled": {}, "cloudWatch": {}}}"#, "Expected exactly one member of a union"),
        ] {
            assert_eq!(run(body).unwrap_err().to_string(), told, "{body}");
        }
        for body in ["{", "{}{}", "\u{feff}{}", "nothing", "{\"imageIdentifier\": \"\\ud800\"}"] {
            assert_eq!(run(body).unwrap_err(), Unreadable::Unparsable, "{body}");
        }
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(run(&deep).unwrap_err(), Unreadable::Unparsable);
    }

    #[test]
    fn members_are_taken_from_where_they_lie_alone() {
        let path = "/2025-09-09/microvm-images/demo/versions/1.0/builds?maxResults=7&maxResults=50&architecture=ARM_64\
                    &chipset=&nextToken=a%3D%2B+b&imageVersion=3.0";
        let body = r#"{"imageVersion": "2.0", "chipsetGeneration": "4"}"#;
        let (request, unknown): (api::ListMicrovmImageBuildsRequest, _) =
            read_as(Method::GET, path, body).unwrap();
        let expected = api::ListMicrovmImageBuildsRequest {
            image_identifier: Some("demo".into()),
            image_version: Some("1.0".into()),
            max_results: Some(50),
            next_token: Some("a=+ b".into()),
            architecture: Some(api::Architecture::Arm64.into()),
            chipset: Some(-1),
            ..Default::default()
        };
        assert_eq!((request, unknown), (expected, vec![String::new()]));
        let path = "/2017-03-31/tags/arn%3Ax?tagKeys=a&tagKeys=b%20c";
        let (request, _): (api::UntagResourceRequest, _) = read_as(Method::DELETE, path, "").unwrap();
        assert_eq!(
            (request.resource.as_deref(), request.tag_keys),
            (Some("arn:x"), vec!["a".into(), "b c".into()])
        );
    }

    #[test]
    fn a_query_string_that_is_not_encoded_is_not_parsed() {
        for query in ["nextToken=a=", "nextToken=%ff"] {
            let path = format!("/2025-09-09/microvms?{query}");
            let error = read_as::<api::ListMicrovmsRequest>(Method::GET, &path, "").unwrap_err();
            assert_eq!(error, Unreadable::Unparsable, "{query}");
        }
        let error = read_as::<api::ListMicrovmsRequest>(Method::GET, "/2025-09-09/microvms?maxResults=", "");
        assert_eq!(error.unwrap_err(), Unreadable::Malformed(Malformed::Type("an integer")));
    }

    #[test]
    fn names_that_an_enumeration_does_not_have_are_kept() {
        let body = r#"{"cpuConfigurations": [{"architecture": "X86_64"}, {"architecture": "MIPS"}],
                       "additionalOsCapabilities": ["CAPABILITY_UNSPECIFIED"]}"#;
        let (request, unknown): (api::CreateMicrovmImageRequest, _) =
            read_as(Method::POST, "/2025-09-09/microvm-images", body).unwrap();
        assert_eq!(request.cpu_configurations[0].architecture, Some(api::Architecture::X8664.into()));
        let mut unknown = unknown;
        unknown.sort();
        assert_eq!(unknown, ["CAPABILITY_UNSPECIFIED", "MIPS"]);
        assert!(request.cpu_configurations[1].architecture < Some(0));
    }
}
