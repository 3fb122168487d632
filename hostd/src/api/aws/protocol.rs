//! The protocols of AWS's services, as far as a refusal needs them: a client reads the name of an exception where its
//! protocol has it, and takes everything else for an answer without meaning.
//!
//! | Protocol | Where clients read the exception |
//! |---|---|
//! | REST-JSON (`lambda`, `lambda-core`) | the header `x-amzn-errortype`, `message` |
//! | AWS JSON 1.1 (`logs`) | `__type`, `message` |
//! | Query (`sts`) | `ErrorResponse/Error` in XML |
//! | REST-XML (`s3`) | `Error` in XML |

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::reply::{self, exception};
use super::sts;
use crate::access::sigv4::Protocol;

/// What a scope ends with.
const TERMINATOR: &str = "aws4_request";
/// The header that names the action in AWS JSON.
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
/// Content type of AWS JSON 1.1.
pub(super) const AWS_JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");

/// The protocol of a service.
fn of_service(service: &str) -> Protocol {
    match service {
        "sts" => Protocol::Query,
        "logs" => Protocol::AwsJson,
        "s3" => Protocol::RestXml,
        _ => Protocol::RestJson,
    }
}

/// The protocol of a request: that of the service in its signature's scope, also where the signature is not valid; without
/// one, what its head looks like.
pub(super) fn of_head<B>(request: &Request<B>) -> Protocol {
    let text = |name: HeaderName| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let query = request.uri().query().unwrap_or_default();
    if let Some(service) = scoped(text(AUTHORIZATION)).or_else(|| scoped(query)) {
        return of_service(service);
    }
    if text(TARGET).starts_with("Logs_") {
        return Protocol::AwsJson;
    }
    let is_form = text(CONTENT_TYPE).starts_with("application/x-www-form-urlencoded");
    if request.method() == Method::POST && is_form { Protocol::Query } else { Protocol::RestJson }
}

/// The service in the scope of a signature, wherever the scope is in a text.
fn scoped(text: &str) -> Option<&str> {
    let (before, _) = text.split_once(TERMINATOR)?;
    let separators = ["/", "%2F", "%2f"];
    let before = separators.iter().find_map(|separator| before.strip_suffix(separator))?;
    separators.iter().try_fold(before, |left, separator| left.rsplit(separator).next())
}

#[derive(Serialize)]
#[serde(rename = "Error", rename_all = "PascalCase")]
struct S3Error<'a> {
    code: &'a str,
    message: &'a str,
    request_id: &'a str,
}

/// An exception that has a message and nothing else, in the form of a protocol.
pub(super) fn refusal(
    protocol: Protocol,
    request_id: &str,
    status: u16,
    name: &str,
    message: &str,
) -> Response<Full<Bytes>> {
    match protocol {
        Protocol::RestJson => reply::refusal(status, name, message),
        Protocol::AwsJson => {
            let mut response = exception(status, name, &json!({ "__type": name, "message": message }));
            response.headers_mut().insert(CONTENT_TYPE, AWS_JSON);
            response
        }
        Protocol::Query => sts::failure(request_id, name, status, message),
        Protocol::RestXml => {
            let error = S3Error { code: name, message, request_id };
            // It cannot fail: all values are texts.
            let xml = quick_xml::se::to_string(&error).unwrap_or_default();
            let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{xml}");
            let mut response = Response::new(Full::new(Bytes::from(xml)));
            *response.status_mut() =
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn head(authorization: &str, uri: &str) -> Request<()> {
        Request::get(uri).header(AUTHORIZATION, authorization).body(()).unwrap()
    }

    #[test]
    fn the_protocol_is_known_without_a_valid_signature() {
        let scope =
            |service: &str| format!("Broken Credential=AK/20260101/us-east-1/{service}/aws4_request, x");
        for (service, protocol) in [
            ("s3", Protocol::RestXml),
            ("sts", Protocol::Query),
            ("logs", Protocol::AwsJson),
            ("lambda", Protocol::RestJson),
        ] {
            assert_eq!(of_head(&head(&scope(service), "/")), protocol);
            let query = format!("/?X-Amz-Credential=AK%2F20260101%2Fus-east-1%2F{service}%2Faws4_request");
            assert_eq!(of_head(&head("", &query)), protocol);
        }
        let plain = |builder: hyper::http::request::Builder| of_head(&builder.body(()).unwrap());
        assert_eq!(plain(Request::post("/").header(TARGET, "Logs_20140328.X")), Protocol::AwsJson);
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        assert_eq!(plain(Request::post("/").header(CONTENT_TYPE, form)), Protocol::Query);
        for odd in ["aws4_request", "/aws4_request", "ü/aws4_request"] {
            let _ = plain(Request::get("/").header(AUTHORIZATION, odd));
        }
    }

    #[tokio::test]
    async fn each_protocol_has_the_exception_where_its_clients_look() {
        for (protocol, content_type, expected) in [
            (Protocol::RestJson, "application/json", r#"{"message":"a < b"}"#),
            (Protocol::AwsJson, "application/x-amz-json-1.1", r#"{"__type":"Name","message":"a < b"}"#),
            (Protocol::Query, "text/xml", "<Code>Name</Code><Message>a &lt; b</Message>"),
            (
                Protocol::RestXml,
                "application/xml",
                "<Error><Code>Name</Code><Message>a &lt; b</Message><RequestId>id</RequestId></Error>",
            ),
        ] {
            let response = refusal(protocol, "id", 403, "Name", "a < b");
            assert_eq!(
                (response.status().as_u16(), &response.headers()[CONTENT_TYPE]),
                (403, &HeaderValue::from_static(content_type))
            );
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(body.contains(expected), "{body}");
        }
    }
}
