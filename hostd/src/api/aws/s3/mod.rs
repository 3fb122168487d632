//! S3 for artifacts: the local bucket for clients of S3, so that `aws s3 cp app.zip s3://hearth-local/app.zip` is all that
//! comes before `create-microvm-image`.
//!
//! The crate `s3s` has the protocol: it verifies signatures, also of bodies that are signed chunk by chunk or have their
//! checksums at the end, and reads and writes XML. [`bucket`] maps its operations:
//!
//! | S3 | Operation |
//! |---|---|
//! | PutObject, CreateMultipartUpload, UploadPart, CompleteMultipartUpload, AbortMultipartUpload | PutArtifact |
//! | GetObject, HeadObject | GetArtifact |
//! | ListObjectsV2, HeadBucket, ListBuckets, GetBucketLocation | ListArtifacts |
//! | DeleteObject | DeleteArtifact |
//!
//! Each is a call of its operation, with the key as the request: it counts against the operation's rate – so a part of an
//! upload counts as much as an artifact –, needs its permission on everything, and is a line in the audit log under its
//! name. Every other operation of S3 is refused with `NotImplemented` by its name, and so are members that this host does not
//! have: encryption, access lists, tags, locks, versions.
//!
//! The account of the key decides whose artifacts are meant; other accounts' do not exist. What nothing refers to is
//! collected ([`crate::service::host::artifacts`]).
//!
//! Before `s3s` sees a request, [`guard`] refuses what the listener has not looked at: Signature Version 2, forms, headers that
//! are not signed, bodies that are not signed without TLS. [`body`] bounds the time of a body, and [`chunks`] its
//! signed chunks. [`verify`] compares checksums. [`members`] has what several operations have in common.

mod body;
mod bucket;
mod chunks;
mod error;
mod guard;
mod members;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{Request, Response};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use s3s::{Body, S3ErrorCode, S3Result, s3_error};

use self::body::Timed;
use self::bucket::Bucket;
use self::chunks::Chunks;
use crate::api::connections::unknown::Known;
use crate::service::Service;
use crate::service::pipeline::Incoming;

/// The operations that this host has.
const OPERATIONS: [&str; 12] = [
    "PutObject",
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "GetObject",
    "HeadObject",
    "ListObjectsV2",
    "HeadBucket",
    "ListBuckets",
    "GetBucketLocation",
    "DeleteObject",
];
/// Greatest size of a body with XML, in bytes: a list of 10,000 parts.
const XML_MAX: usize = 2 << 20;
/// Greatest difference between the clocks of a client and this host, in seconds.
const SKEW: u32 = 300;

/// A request whose key is known, and whose signature is not verified yet.
pub(crate) struct Claimed {
    /// The call, whose caller owns the key. Nothing is done for it before the signature is verified.
    pub(crate) incoming: Incoming,
    /// Id of the key.
    pub(crate) access_key: String,
    /// Secret of the key.
    pub(crate) secret: SecretKey,
    /// Whether the connection has TLS.
    pub(crate) tls: bool,
    /// Is told when the signature is verified.
    pub(crate) known: Known,
    /// The key's account.
    pub(crate) account: String,
}

/// Answers a request: verifies its signature, and performs what it wants.
pub(crate) async fn answer<B>(service: &Service, claimed: Claimed, request: Request<B>) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Claimed { incoming, access_key, secret, tls, known, account } = claimed;
    let (parts, body) = request.into_parts();
    if let Err(error) = guard::check(&parts, tls) {
        return error::response(error);
    }
    let mut builder = S3ServiceBuilder::new(Bucket::new(service.clone(), incoming));
    builder.set_auth(OneKey { access_key, secret });
    builder.set_access(Verified { known, account });
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_MAX;
    // Forms are refused before; should one get through, nothing of it is kept.
    config.post_object_max_file_size = 0;
    config.form_max_field_size = 0;
    config.form_max_fields_size = 0;
    config.form_max_parts = 0;
    config.presigned_url_max_skew_time_secs = SKEW;
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    let body = Chunks::new(Timed::new(body, &parts.headers), &parts.headers);
    let body = Body::http_body_unsync(body);
    match builder.build().call(Request::from_parts(parts, body)).await {
        Ok(response) => response,
        Err(_) => error::response(S3ErrorCode::InternalError.into()),
    }
}

/// The only key of a request.
struct OneKey {
    access_key: String,
    secret: SecretKey,
}

#[async_trait]
impl S3Auth for OneKey {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        // The listener has looked the key up, from the same place of the request.
        if access_key == self.access_key {
            Ok(self.secret.clone())
        } else {
            Err(S3ErrorCode::InvalidAccessKeyId.into())
        }
    }
}

/// Lets nothing through that has no verified signature, or that this host does not have: before its body is read.
/// Permissions are the operations'.
struct Verified {
    known: Known,
    account: String,
}

#[async_trait]
impl S3Access for Verified {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        self.known.now(&self.account);
        match request.s3_op().name() {
            name if OPERATIONS.contains(&name) => Ok(()),
            name => Err(s3_error!(NotImplemented, "{name} is not supported by this host")),
        }
    }
}
