//! What is refused before `s3s` looks at a request.

use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;
use s3s::{S3Error, S3Result, s3_error};

/// The header with the hash of the body.
pub(super) const PAYLOAD: &str = "x-amz-content-sha256";

/// Names in a query that make it signed.
const SIGNATURE: [&str; 4] = ["X-Amz-Signature", "X-Amz-Algorithm", "Signature", "AWSAccessKeyId"];
/// Names in a query that say how it is signed.
const SIGNED: [&str; 5] =
    ["X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Security-Token"];

/// Checks a request's head.
///
/// # Errors
/// The answer of S3.
pub(super) fn check(parts: &Parts, tls: bool) -> S3Result<()> {
    let query = parts.uri.query().unwrap_or_default();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = header(AUTHORIZATION.as_str()).unwrap_or_default();
    check_signature(parts, query)?;
    // `s3s` also accepts what is older, with which the listener has not found the key.
    let is_old = |pair: &str| ["Signature", "AWSAccessKeyId"].contains(&name(pair));
    if authorization.starts_with("AWS ") || query.split('&').any(is_old) {
        return Err(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        ));
    }
    if parts.headers.get_all(CONTENT_TYPE).iter().any(|kind| is_multipart(kind.as_bytes())) {
        return Err(s3_error!(NotImplemented, "PostObject is not implemented: uploads are put"));
    }
    let signed = signed_headers(authorization, query);
    let is_signed = |name: &str| signed.split(';').any(|signed| signed == name);
    // Clients leave this one out of presigned URLs.
    let exempt = |name: &str| authorization.is_empty() && name == "x-amz-user-agent";
    let mut names = parts.headers.keys().map(hyper::header::HeaderName::as_str);
    if let Some(name) = names.find(|name| name.starts_with("x-amz-") && !is_signed(name) && !exempt(name)) {
        return Err(not_signed(name));
    }
    let has_body = [Method::PUT, Method::POST].contains(&parts.method);
    let payload = header(PAYLOAD).unwrap_or("UNSIGNED-PAYLOAD");
    if has_body && !tls && (payload.starts_with("UNSIGNED") || payload.starts_with("STREAMING-UNSIGNED")) {
        return Err(s3_error!(
            InvalidRequest,
            "A body that is not signed is accepted over TLS only: use https, or sign the body (payload_signing_enabled)."
        ));
    }
    Ok(())
}

/// Checks that there is one signature, in one place, whose names everybody reads alike.
fn check_signature(parts: &Parts, query: &str) -> S3Result<()> {
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let (first, second) = (headers.next(), headers.next());
    if second.is_some() || first.is_some_and(|value| value.to_str().is_err()) {
        return Err(s3_error!(InvalidRequest, "The header authorization is to be there once, in ASCII"));
    }
    for pair in query.split('&') {
        let plain = percent_decode_str(name(pair)).decode_utf8_lossy();
        let is_one_of = |names: &[&str]| names.iter().any(|name| plain.eq_ignore_ascii_case(name));
        let is_signature = is_one_of(&SIGNATURE);
        if (is_signature || is_one_of(&SIGNED)) && plain != name(pair) {
            return Err(s3_error!(InvalidRequest, "The name {plain} in the query is to be written as it is"));
        }
        if is_signature && first.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified"
            ));
        }
    }
    Ok(())
}

/// Whether a content type means a form, in any spelling: `s3s` would take it in before it verifies anything.
fn is_multipart(kind: &[u8]) -> bool {
    const MULTIPART: &[u8] = b"multipart/";
    kind.windows(MULTIPART.len()).any(|window| window.eq_ignore_ascii_case(MULTIPART))
}

fn not_signed(name: &str) -> S3Error {
    s3_error!(AccessDenied, "There were headers present in the request which were not signed: {name}")
}

/// The name of a pair in a query.
fn name(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// The names of signed headers, with `;` between them.
fn signed_headers(authorization: &str, query: &str) -> String {
    if let Some((_, rest)) = authorization.split_once("SignedHeaders=") {
        return rest.split(',').next().unwrap_or_default().trim().to_owned();
    }
    let found = query.split('&').find(|pair| name(pair) == "X-Amz-SignedHeaders");
    let value = found.and_then(|pair| pair.split_once('=')).map_or("", |(_, value)| value);
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}
