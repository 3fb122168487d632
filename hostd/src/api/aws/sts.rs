//! Front end of [`crate::service::sts`] in the Query protocol: parameters in a form or in the query, answers in XML.
//!
//! Source: <https://docs.aws.amazon.com/STS/latest/APIReference/Welcome.html>; `botocore/parsers.py` for what clients read.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::Signed;
use crate::service::Service;
use crate::service::sts::{Answer, AssumeRole, Request, StsError, expiration};

/// The version of the API.
const VERSION: &str = "2011-06-15";
/// The namespace of answers.
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const REQUEST_ID: &str = "x-amzn-requestid";
/// Greatest length of a text of the client in a message, in characters.
const SHOWN: usize = 128;

/// Answers a request.
pub(crate) async fn answer(service: &Service, request: Signed) -> Response<Full<Bytes>> {
    let Signed { incoming, parts, body } = request;
    let id = &incoming.request_id;
    let query = parts.uri.query().unwrap_or_default();
    let result = match read(query, &body) {
        Ok(request) => service.sts(&incoming, &request).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(answer) => respond(StatusCode::OK, id, success(id, &answer)),
        Err(error) => {
            let (code, status) = error.code();
            let mut response = failure(id, code, status, &error.to_string());
            if let Some(after) = error.retry_after() {
                let seconds = after.as_secs().saturating_add(1);
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
            }
            response
        }
    }
}

/// The request in a query and a form.
fn read(query: &str, form: &[u8]) -> Result<Request, StsError> {
    let mut parameters = BTreeMap::new();
    let pairs = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(form));
    for (name, value) in pairs {
        if name.starts_with("X-Amz-") {
            continue; // the signature of a presigned URL
        }
        if parameters.insert(name.to_string(), value.into_owned()).is_some() {
            return Err(StsError::Twice(shown(&name)));
        }
    }
    let action = parameters.remove("Action").filter(|action| !action.is_empty()).ok_or(StsError::NoAction)?;
    let version = parameters.remove("Version").unwrap_or_default();
    match action.as_str() {
        Request::ASSUME_ROLE if version == VERSION => Ok(Request::AssumeRole(AssumeRole(parameters))),
        Request::GET_CALLER_IDENTITY if version == VERSION => Ok(Request::GetCallerIdentity),
        _ => Err(StsError::Action { action: shown(&action), version: shown(&version) }),
    }
}

/// A text of the client for a message.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(SHOWN).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AssumeRoleResponse<'a> {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    assume_role_result: AssumeRoleResult<'a>,
    response_metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AssumeRoleResult<'a> {
    credentials: Credentials<'a>,
    assumed_role_user: AssumedRoleUser<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    expiration: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AssumedRoleUser<'a> {
    assumed_role_id: &'a str,
    arn: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetCallerIdentityResponse<'a> {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    get_caller_identity_result: GetCallerIdentityResult<'a>,
    response_metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetCallerIdentityResult<'a> {
    arn: &'a str,
    user_id: &'a str,
    account: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorResponse<'a> {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    error: Error<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Error<'a> {
    r#type: &'static str,
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata<'a> {
    request_id: &'a str,
}

fn success(request_id: &str, answer: &Answer) -> String {
    let (xmlns, response_metadata) = (NAMESPACE, Metadata { request_id });
    match answer {
        Answer::Assumed { credentials, session } => xml(&AssumeRoleResponse {
            xmlns,
            assume_role_result: AssumeRoleResult {
                credentials: Credentials {
                    access_key_id: &credentials.access_key_id,
                    secret_access_key: credentials.secret.expose(),
                    session_token: credentials.token.expose(),
                    expiration: expiration(credentials),
                },
                assumed_role_user: AssumedRoleUser { assumed_role_id: &session.id, arn: &session.arn },
            },
            response_metadata,
        }),
        Answer::Identity { account, identity } => xml(&GetCallerIdentityResponse {
            xmlns,
            get_caller_identity_result: GetCallerIdentityResult {
                arn: &identity.arn,
                user_id: &identity.id,
                account,
            },
            response_metadata,
        }),
    }
}

/// An error.
pub(super) fn failure(request_id: &str, code: &str, status: u16, message: &str) -> Response<Full<Bytes>> {
    let r#type = if status < 500 { "Sender" } else { "Receiver" };
    let error = Error { r#type, code, message };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, request_id, xml(&ErrorResponse { xmlns: NAMESPACE, error, request_id }))
}

/// A value as XML. That cannot fail: all values are structures of texts.
fn xml<T: Serialize>(value: &T) -> String {
    quick_xml::se::to_string(value).unwrap_or_default()
}

fn respond(status: StatusCode, request_id: &str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http_body_util::BodyExt as _;
    use hyper::http::request::Builder;

    use super::*;
    use crate::access::{Caller, Policy};
    use crate::service::pipeline::Incoming;
    use crate::service::tests::{Host, caller, configured};
    use crate::service::{Profile, ServiceConfig};

    const ACCOUNT: &str = "111122223333";
    const APP: &str = "arn:aws:iam::111122223333:role/app";

    async fn host() -> Host {
        let role_policies = [(APP.to_owned(), [Policy::everything()].into())].into();
        let config = ServiceConfig { role_policies, ..ServiceConfig::new("us-east-1", Profile::Default) };
        configured(config, hearth_host::roles::RolesConfig::default()).await
    }

    /// Status and body of the answer.
    async fn ask(host: &Host, builder: Builder, body: &str) -> (u16, String) {
        let caller = Caller { principal: "AKID".into(), ..caller(ACCOUNT, [Policy::everything()].into()) };
        let incoming = Incoming {
            caller: Ok(caller),
            request_id: "an-id".into(),
            address: "192.0.2.1".into(),
            user_agent: String::new(),
            since: Instant::now(),
        };
        let parts = builder.body(()).unwrap().into_parts().0;
        let response = answer(&host.service, Signed { incoming, parts, body: body.to_owned().into() }).await;
        assert_eq!(
            (&response.headers()[CONTENT_TYPE], &response.headers()[REQUEST_ID]),
            (&HeaderValue::from_static("text/xml"), &HeaderValue::from_static("an-id"))
        );
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn post(host: &Host, form: &str) -> (u16, String) {
        ask(host, hyper::Request::post("/"), form).await
    }

    #[tokio::test]
    async fn who_calls_is_said_in_xml() {
        let host = host().await;
        let expected = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                        <GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/AKID</Arn><UserId>AKID</UserId>\
                        <Account>111122223333</Account></GetCallerIdentityResult>\
                        <ResponseMetadata><RequestId>an-id</RequestId></ResponseMetadata></GetCallerIdentityResponse>";
        let form = "Action=GetCallerIdentity&Version=2011-06-15";
        assert_eq!(post(&host, form).await, (200, expected.to_owned()));
        let presigned = format!("/?{form}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00");
        assert_eq!(ask(&host, hyper::Request::get(presigned), "").await, (200, expected.to_owned()));
    }

    #[tokio::test]
    async fn a_session_is_said_in_xml() {
        let form = format!(
            "Action=AssumeRole&Version=2011-06-15&RoleArn={}&RoleSessionName=me%40work",
            APP.replace(':', "%3A").replace('/', "%2F")
        );
        let (status, body) = post(&host().await, &form).await;
        assert_eq!(status, 200, "{body}");
        let between = |from: &str, to: &str| {
            let (_, rest) = body.split_once(from).unwrap_or_else(|| panic!("{from} in {body}"));
            rest.split_once(to).unwrap().0.to_owned()
        };
        let credentials = between("<AssumeRoleResult><Credentials>", "</Credentials><AssumedRoleUser>");
        for (name, length) in [("AccessKeyId", 20), ("SecretAccessKey", 40)] {
            assert_eq!(between(&format!("<{name}>"), &format!("</{name}>")).len(), length, "{credentials}");
        }
        assert!(between("<Expiration>", "</Expiration>").ends_with('Z'), "{credentials}");
        let token = between("<SessionToken>", "</SessionToken>");
        assert!((200..1000).contains(&token.len()), "{}", token.len());
        assert_eq!(between("<Arn>", "</Arn>"), "arn:aws:sts::111122223333:assumed-role/app/me@work");
    }

    #[tokio::test]
    async fn errors_are_said_in_xml() {
        let host = host().await;
        for (form, status, code, message) in [
            ("", 400, "MissingAction", "The request must contain the parameter Action."),
            (
                "Action=GetSessionToken&Version=2011-06-15",
                400,
                "InvalidAction",
                "Could not find operation GetSessionToken for version 2011-06-15",
            ),
            (
                "Action=GetCallerIdentity&Version=2010-05-08",
                400,
                "InvalidAction",
                "Could not find operation GetCallerIdentity for version 2010-05-08",
            ),
            (
                "Action=%3Cx%3E%00&Version=1",
                400,
                "InvalidAction",
                "Could not find operation &lt;x&gt; for version 1",
            ),
            (
                "Action=GetCallerIdentity&Action=AssumeRole",
                400,
                "MalformedQueryString",
                "The parameter Action is in the request more than once.",
            ),
            (
                "Action=AssumeRole&Version=2011-06-15&RoleSessionName=me&RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fother",
                403,
                "AccessDenied",
                "User: AKID is not authorized to perform: sts:AssumeRole on resource: \
                 arn:aws:iam::111122223333:role/other because the role has no policies of its own ([access.roles])",
            ),
        ] {
            let expected = format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                 <Code>{code}</Code><Message>{message}</Message></Error><RequestId>an-id</RequestId></ErrorResponse>"
            );
            assert_eq!(post(&host, form).await, (status, expected), "{form}");
        }
    }
}
