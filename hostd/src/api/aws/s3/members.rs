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

/// Refuses what an artifact cannot be stored with. The inputs of operations are unrelated types with the same members, so
/// that what is the same for several of them is a macro here.
macro_rules! refuse_unkept {
    ($input:ident, $headers:ident) => {
        refuse([
            ($input.acl.as_ref().is_some_and(|acl| !is_private(acl.as_str())), "x-amz-acl"),
            (
                $input.storage_class.as_ref().is_some_and(|class| class.as_str() != "STANDARD"),
                "x-amz-storage-class",
            ),
            (has_grants(&$headers), "x-amz-grant"),
            ($input.server_side_encryption.is_some(), "server-side encryption"),
            ($input.sse_customer_key.is_some(), "server-side encryption"),
            ($input.ssekms_key_id.is_some(), "server-side encryption"),
            ($input.tagging.is_some(), "x-amz-tagging"),
            ($input.object_lock_mode.is_some(), "x-amz-object-lock-mode"),
            ($input.object_lock_legal_hold_status.is_some(), "x-amz-object-lock-legal-hold"),
            ($input.website_redirect_location.is_some(), "x-amz-website-redirect-location"),
        ])
    };
}

/// What an input says of an artifact, to be stored with it.
macro_rules! described {
    ($input:ident) => {
        about(
            [
                ("content-type", $input.content_type),
                ("content-encoding", $input.content_encoding.and_then(|coding| own_coding(&coding))),
                ("content-disposition", $input.content_disposition),
                ("content-language", $input.content_language),
                ("cache-control", $input.cache_control),
            ],
            $input.metadata,
        )
    };
}

/// The checksums in an input, in the order of [`super::verify`].
macro_rules! checksums {
    ($input:ident) => {
        [
            $input.checksum_crc32,
            $input.checksum_crc32c,
            $input.checksum_crc64nvme,
            $input.checksum_sha1,
            $input.checksum_sha256,
        ]
    };
}

/// An output with an artifact, of which `length` bytes are meant, and more members.
macro_rules! output {
    ($output:ident, $object:ident, $length:ident, $content_range:ident, { $($more:tt)* }) => {{
        let Kept { mut headers, metadata } = kept($object.about.clone());
        $output {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from($length).ok(),
            content_range: $content_range,
            e_tag: Some(ETag::Strong($object.about.etag.clone())),
            last_modified: Some($object.modified.into()),
            content_type: headers.remove("content-type"),
            content_encoding: headers.remove("content-encoding"),
            content_disposition: headers.remove("content-disposition"),
            content_language: headers.remove("content-language"),
            cache_control: headers.remove("cache-control"),
            metadata,
            $($more)*
            ..Default::default()
        }
    }};
}

pub(super) use {checksums, described, output, refuse_unkept};

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
