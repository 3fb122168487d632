//! Members of requests and answers that several operations have.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use http_body_util::StreamBody;
use hyper::StatusCode;
use hyper::body::Frame;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{ETagCondition, EncodingType, Metadata, Range, StreamingBlob};
use s3s::{Body, S3Result, s3_error};

use crate::service::host::artifacts::object::About;
use crate::service::host::artifacts::upload::Condition;
use crate::service::host::objects::Data;

/// Refuses members that this host does not support, by name.
pub(super) fn refuse<const N: usize>(members: [(bool, &str); N]) -> S3Result<()> {
    match members.into_iter().find(|(given, _)| *given) {
        Some((_, name)) => Err(s3_error!(NotImplemented, "{name} is not supported by this host")),
        None => Ok(()),
    }
}

/// Whether an access list says what is the case anyway.
pub(super) fn is_private(acl: &str) -> bool {
    ["private", "bucket-owner-full-control"].contains(&acl)
}

pub(super) fn has_grants(headers: &hyper::HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-amz-grant-"))
}

/// The bytes of an upload.
pub(super) fn data(body: Option<StreamingBlob>) -> Data {
    match body {
        Some(body) => Box::pin(body.map_err(|error| error.to_string())),
        None => Box::pin(futures_util::stream::empty()),
    }
}

/// The bytes of an answer.
pub(super) fn blob(data: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> StreamingBlob {
    Body::http_body_unsync(StreamBody::new(data.map_ok(Frame::data))).into()
}

/// The coding of an artifact without that of its transfer, which has ended.
pub(super) fn own_coding(coding: &str) -> Option<String> {
    let own: Vec<&str> = coding.split(',').map(str::trim).filter(|name| *name != "aws-chunked").collect();
    Some(own.join(",")).filter(|own| !own.is_empty())
}

/// What is stored with an artifact.
pub(super) fn about<const N: usize>(
    headers: [(&str, Option<String>); N],
    metadata: Option<Metadata>,
) -> About {
    let given = |(name, value): (&str, Option<String>)| Some((name.to_owned(), value?));
    About {
        headers: headers.into_iter().filter_map(given).collect(),
        metadata: metadata.unwrap_or_default().into_iter().collect(),
        ..About::default()
    }
}

/// What was stored with an artifact.
pub(super) struct Kept {
    pub(super) headers: BTreeMap<String, String>,
    pub(super) metadata: Option<Metadata>,
}

pub(super) fn kept(about: About) -> Kept {
    let metadata: Metadata = about.metadata.into_iter().collect();
    Kept { headers: about.headers, metadata: Some(metadata).filter(|metadata| !metadata.is_empty()) }
}

pub(super) fn condition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present(None)),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Present(Some(etag.into_value()))),
        _ => Err(s3_error!(
            NotImplemented,
            "If-None-Match with an entity tag, or with If-Match, is not supported by this host"
        )),
    }
}

/// What S3 leaves as it is where names are encoded for URLs.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// How keys and parts of keys are written in a list.
pub(super) fn encoding(kind: Option<&EncodingType>) -> S3Result<fn(String) -> String> {
    match kind.map(EncodingType::as_str) {
        None => Ok(|name| name),
        Some(EncodingType::URL) => Ok(|name| utf8_percent_encode(&name, PLAIN).to_string()),
        Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request: use url")),
    }
}

/// A part of an artifact.
pub(super) struct Bounds {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) content_range: Option<String>,
}

/// The part of an artifact that a range means, and the status of the answer if it is a part.
pub(super) fn bounds(range: Option<&Range>, bytes: u64) -> S3Result<(Bounds, Option<StatusCode>)> {
    let Some(range) = range else {
        return Ok((Bounds { offset: 0, length: bytes, content_range: None }, None));
    };
    let found = range.check(bytes)?;
    let last = found.end.saturating_sub(1);
    let content_range = Some(format!("bytes {}-{last}/{bytes}", found.start));
    let length = found.end.saturating_sub(found.start);
    Ok((Bounds { offset: found.start, length, content_range }, Some(StatusCode::PARTIAL_CONTENT)))
}
