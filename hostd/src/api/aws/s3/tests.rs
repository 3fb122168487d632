//! Requests to S3, signed by AWS's own signer.

mod refusals;
mod streams;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde_json::json;

use super::*;
use crate::access::{Caller, Policy};
use crate::builds::tests::double::ACCOUNT;
use crate::service::tests::{Host, caller, limited};
use crate::service::{Limits, Profile};

const ENDPOINT: &str = "http://s3.example:9000";
const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "a long enough secret";

/// A host with a bucket `artifacts`, whose artifacts have at most 100 bytes, and requests of a caller.
struct Client {
    host: Host,
    caller: Caller,
    tls: bool,
}

/// A request before it is signed.
struct Unsigned<'a> {
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a [u8],
    signable: SignableBody<'a>,
    secret: &'a str,
    time: SystemTime,
    presigned: bool,
}

fn request<'a>(method: &'a str, path: &'a str, body: &'a [u8]) -> Unsigned<'a> {
    let signable = SignableBody::Bytes(body);
    let (headers, secret, time) = (Vec::new(), SECRET, SystemTime::now());
    Unsigned { method, path, headers, body, signable, secret, time, presigned: false }
}

impl Unsigned<'_> {
    /// The request as a client sends it, signed.
    fn signed(self) -> Request<Full<Bytes>> {
        let identity = Credentials::new(KEY, self.secret, None, None, "test").into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        if self.presigned {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(Duration::from_secs(60));
        } else {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("s3")
            .time(self.time)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let url = format!("{ENDPOINT}{}", self.path);
        let headers = self.headers.iter().copied();
        let signable = SignableRequest::new(self.method, &url, headers, self.signable).unwrap();
        let (instructions, _) = sign(signable, &parameters).unwrap().into_parts();
        let (signing_headers, signing_query) = instructions.into_parts();
        let mut path = self.path.to_owned();
        for (name, value) in &signing_query {
            path.push(if path.contains('?') { '&' } else { '?' });
            let value: String =
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string();
            path.push_str(&format!("{name}={value}"));
        }
        let mut builder = Request::builder().method(self.method).uri(path);
        builder = builder.header("host", "s3.example:9000").header("content-length", self.body.len());
        for (name, value) in &self.headers {
            builder = builder.header(*name, *value);
        }
        for header in &signing_headers {
            builder = builder.header(header.name(), header.value());
        }
        builder.body(Full::new(Bytes::copy_from_slice(self.body))).unwrap()
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    /// The text of the first element of this name.
    fn element(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(text, _)| text)
    }

    /// The texts of all elements of this name.
    fn elements(&self, name: &str) -> Vec<&str> {
        let begin = format!("<{name}>");
        let rest = self.body.split(begin.as_str()).skip(1);
        rest.map(|rest| rest.split_once("</").unwrap().0).collect()
    }

    #[track_caller]
    fn is(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status.as_u16(), self.element("Code").unwrap_or_default()),
            (status, code),
            "{}",
            self.body
        );
    }
}

/// What the listener knows of a request with the key of these tests.
fn claimed(caller: Caller, tls: bool) -> Claimed {
    let incoming = Incoming {
        caller: Ok(caller),
        request_id: "id".into(),
        address: "local".into(),
        user_agent: String::new(),
        since: Instant::now(),
    };
    Claimed {
        incoming,
        access_key: KEY.into(),
        secret: SecretKey::from(SECRET),
        tls,
        known: Known::local(),
        account: ACCOUNT.into(),
    }
}

impl Client {
    async fn new() -> Self {
        let host = limited(Profile::Default, Limits::default()).await;
        Self { host, caller: caller(ACCOUNT, [Policy::everything()].into()), tls: false }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let claimed = claimed(self.caller.clone(), self.tls);
        let response = answer(&self.host.service, claimed, request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn call(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.send(request(method, path, body).signed()).await
    }

    async fn call_with(&self, method: &str, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
        let request = Unsigned { headers: headers.to_vec(), ..request(method, path, body) };
        self.send(request.signed()).await
    }
}

#[tokio::test]
async fn an_artifact_is_put_read_listed_and_removed() {
    let client = Client::new().await;
    let headers = [("content-type", "application/zip"), ("x-amz-meta-who", "me")];
    let put = client.call_with("PUT", "/artifacts/apps/my%20app.zip", b"hello", &headers).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.body);
    assert_eq!(put.headers["etag"], "\"5d41402abc4b2a76b9719d911017c592\"");
    let seen = client.host.outside.observed.last();
    assert_eq!((seen.operation.name(), seen.request), ("PutArtifact", json!({ "key": "apps/my app.zip" })));

    let head = client.call("HEAD", "/artifacts/apps/my%20app.zip", b"").await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.headers["content-length"], "5");
    let get = client.call("GET", "/artifacts/apps/my%20app.zip", b"").await;
    assert_eq!(get.body, "hello");
    for (name, value) in
        [("content-type", "application/zip"), ("x-amz-meta-who", "me"), ("accept-ranges", "bytes")]
    {
        assert_eq!(get.headers[name], value);
    }
    assert_eq!(client.host.outside.observed.last().operation.name(), "GetArtifact");
    for (range, expected, content_range) in [
        ("bytes=1-2", "el", "bytes 1-2/5"),
        ("bytes=3-", "lo", "bytes 3-4/5"),
        ("bytes=-1", "o", "bytes 4-4/5"),
    ] {
        let part = client.call_with("GET", "/artifacts/apps/my%20app.zip", b"", &[("range", range)]).await;
        assert_eq!((part.status.as_u16(), part.body.as_str()), (206, expected));
        assert_eq!(part.headers["content-range"], content_range);
    }
    let beyond = client.call_with("GET", "/artifacts/apps/my%20app.zip", b"", &[("range", "bytes=5-")]).await;
    beyond.is(416, "InvalidRange");

    let list = client.call("GET", "/artifacts?list-type=2&prefix=apps%2F", b"").await;
    assert_eq!((list.elements("Key"), list.element("Size")), (vec!["apps/my app.zip"], Some("5")));
    let list = client.call("GET", "/artifacts?delimiter=%2F&list-type=2", b"").await;
    assert!(list.body.contains("<CommonPrefixes><Prefix>apps/</Prefix>"), "{}", list.body);
    assert_eq!(client.host.outside.observed.last().operation.name(), "ListArtifacts");
    assert_eq!(client.call("GET", "/", b"").await.elements("Name"), ["artifacts"]);
    assert_eq!(client.call("HEAD", "/artifacts", b"").await.status, StatusCode::OK);

    for _ in 0..2 {
        let removed = client.call("DELETE", "/artifacts/apps/my%20app.zip", b"").await;
        assert_eq!(removed.status, StatusCode::NO_CONTENT);
    }
    client.call("GET", "/artifacts/apps/my%20app.zip", b"").await.is(404, "NoSuchKey");
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    let client = Client::new().await;
    for key in ["a", "b", "c"] {
        client.call("PUT", &format!("/artifacts/{key}"), b"1").await;
    }
    let first = client.call("GET", "/artifacts?list-type=2&max-keys=2", b"").await;
    assert_eq!((first.elements("Key"), first.element("IsTruncated")), (vec!["a", "b"], Some("true")));
    let token = first.element("NextContinuationToken").unwrap();
    let path = format!("/artifacts?continuation-token={token}&list-type=2&max-keys=2");
    let second = client.call("GET", &path, b"").await;
    assert_eq!((second.elements("Key"), second.element("IsTruncated")), (vec!["c"], Some("false")));
    let after = client.call("GET", "/artifacts?list-type=2&start-after=a", b"").await;
    assert_eq!(after.elements("Key"), ["b", "c"]);
    let none = client.call("GET", "/artifacts?list-type=2&max-keys=0", b"").await;
    assert!(none.elements("Key").is_empty());
    let wrong = client.call("GET", "/artifacts?continuation-token=x&list-type=2", b"").await;
    wrong.is(400, "InvalidArgument");
}

#[tokio::test]
async fn names_in_lists_are_encoded_if_wanted() {
    let client = Client::new().await;
    for path in ["/artifacts/a%20%2B%25%26/%C3%A4_1", "/artifacts/a%20%2B%25%26/x/y"] {
        assert_eq!(client.call("PUT", path, b"1").await.status, StatusCode::OK);
    }
    let query = "delimiter=%2F&list-type=2&prefix=a%20%2B%25%26%2F&start-after=a%20";
    let plain = client.call("GET", &format!("/artifacts?{query}"), b"").await;
    assert_eq!((plain.elements("Key"), plain.element("EncodingType")), (vec!["a +%&amp;/ä_1"], None));
    let list =
        client.call("GET", &format!("/artifacts?delimiter=%2F&encoding-type=url{}", &query[13..]), b"").await;
    assert_eq!(
        (list.elements("Key"), list.element("EncodingType")),
        (vec!["a%20%2B%25%26/%C3%A4_1"], Some("url"))
    );
    let mut prefixes = list.elements("Prefix");
    prefixes.sort_unstable();
    assert_eq!(prefixes, ["a%20%2B%25%26/", "a%20%2B%25%26/x/"], "{}", list.body);
    assert_eq!((list.element("Delimiter"), list.element("StartAfter")), (Some("/"), Some("a%20")));
    let wrong = client.call("GET", "/artifacts?encoding-type=xml&list-type=2", b"").await;
    wrong.is(400, "InvalidArgument");
    for key in ["a%0Ab", "%01", "%7F", "%00"] {
        let path = format!("/artifacts/{key}");
        client.call("PUT", &path, b"1").await.is(400, "InvalidArgument");
        client.call("POST", &format!("{path}?uploads="), b"").await.is(400, "InvalidArgument");
    }
}

#[tokio::test]
async fn parts_become_an_artifact() {
    let client = Client::new().await;
    let begun = client.call("POST", "/artifacts/big.zip?uploads=", b"").await;
    let id = begun.element("UploadId").unwrap().to_owned();
    let mut etags = BTreeMap::new();
    for (number, data) in [(1, b"hello".as_slice()), (2, b" world")] {
        let part =
            client.call("PUT", &format!("/artifacts/big.zip?partNumber={number}&uploadId={id}"), data).await;
        etags.insert(number, part.headers["etag"].to_str().unwrap().to_owned());
    }
    let complete = |order: [i32; 2]| {
        let parts: String = order
            .iter()
            .map(|number| {
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", etags[number])
            })
            .collect();
        format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
    };
    let path = format!("/artifacts/big.zip?uploadId={id}");
    client.call("POST", &path, complete([2, 1]).as_bytes()).await.is(400, "InvalidPartOrder");
    let wrong = complete([1, 2]).replace(&etags[&1], &etags[&2]);
    client.call("POST", &path, wrong.as_bytes()).await.is(400, "InvalidPart");
    let wrong = [("x-amz-checksum-crc32", "AAAAAA==")];
    client.call_with("POST", &path, complete([1, 2]).as_bytes(), &wrong).await.is(400, "BadDigest");
    let right = STANDARD.encode(crc32fast::hash(b"hello world").to_be_bytes());
    let right = [("x-amz-checksum-crc32", right.as_str())];
    let completed = client.call_with("POST", &path, complete([1, 2]).as_bytes(), &right).await;
    assert_eq!(completed.status, StatusCode::OK, "{}", completed.body);
    assert!(completed.element("ETag").unwrap().contains("-2"));
    assert_eq!(client.call("GET", "/artifacts/big.zip", b"").await.body, "hello world");
    client.call("POST", &path, complete([1, 2]).as_bytes()).await.is(404, "NoSuchUpload");

    let begun = client.call("POST", "/artifacts/big.zip?uploads=", b"").await;
    let path = format!("/artifacts/big.zip?uploadId={}", begun.element("UploadId").unwrap());
    assert_eq!(client.call("DELETE", &path, b"").await.status, StatusCode::NO_CONTENT);
    client.call("DELETE", &path, b"").await.is(404, "NoSuchUpload");
}

#[tokio::test]
async fn checksums_are_compared_before_anything_is_stored() {
    let client = Client::new().await;
    let crc = STANDARD.encode(crc32fast::hash(b"hello").to_be_bytes());
    for (header, right) in [
        ("x-amz-checksum-crc32", crc.as_str()),
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
        ("x-amz-checksum-sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="),
    ] {
        let wrong = client.call_with("PUT", "/artifacts/key", b"hullo", &[(header, right)]).await;
        wrong.is(400, "BadDigest");
        client.call("GET", "/artifacts/key", b"").await.is(404, "NoSuchKey");
        let put = client.call_with("PUT", "/artifacts/key", b"hello", &[(header, right)]).await;
        assert_eq!(put.status, StatusCode::OK, "{header}: {}", put.body);
        client.call("DELETE", "/artifacts/key", b"").await;
    }
    let unknown = [("x-amz-checksum-md5000", "AAAA")];
    client.call_with("PUT", "/artifacts/key", b"hello", &unknown).await.is(501, "NotImplemented");
}

/// A body in chunks with a checksum after it, as current clients send over TLS.
fn chunked(data: &str, checksum: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n0\r\nx-amz-checksum-crc32:{checksum}\r\n\r\n", data.len()).into_bytes()
}

#[tokio::test]
async fn a_checksum_can_follow_the_body_and_bodies_are_unsigned_over_tls_only() {
    let mut client = Client::new().await;
    let crc = STANDARD.encode(crc32fast::hash(b"hello").to_be_bytes());
    let headers = vec![
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "5"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    ];
    let streamed = |body: &[u8]| {
        let signable = SignableBody::StreamingUnsignedPayloadTrailer;
        Unsigned { headers: headers.clone(), signable, ..request("PUT", "/artifacts/key", body) }.signed()
    };
    let body = chunked("hello", &crc);
    client.send(streamed(&body)).await.is(400, "InvalidRequest");
    client.tls = true;
    client.send(streamed(&chunked("hullo", &crc))).await.is(400, "BadDigest");
    client.send(streamed(b"5\r\nhello\r\n0\r\n\r\n")).await.is(400, "BadDigest");
    let broken = client.send(streamed(b"5\r\nhel")).await;
    assert_eq!(broken.status.as_u16(), 400, "{}", broken.body);
    let put = client.send(streamed(&body)).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.body);
    let get = client.call("GET", "/artifacts/key", b"").await;
    assert_eq!((get.body.as_str(), get.headers.get("content-encoding").is_none()), ("hello", true));

    let unsigned = || {
        Unsigned { signable: SignableBody::UnsignedPayload, ..request("PUT", "/artifacts/key", b"x") }
            .signed()
    };
    assert_eq!(client.send(unsigned()).await.status, StatusCode::OK);
    let presigned = |method| {
        let (signable, presigned) = (SignableBody::UnsignedPayload, true);
        Unsigned { signable, presigned, ..request(method, "/artifacts/key", b"") }.signed()
    };
    assert_eq!(client.send(presigned("GET")).await.body, "x");
    assert_eq!(client.send(presigned("PUT")).await.status, StatusCode::OK);
    client.tls = false;
    client.send(unsigned()).await.is(400, "InvalidRequest");
    client.send(presigned("PUT")).await.is(400, "InvalidRequest");
    assert_eq!(client.send(presigned("GET")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn conditions_are_kept() {
    let client = Client::new().await;
    let absent = [("if-none-match", "*")];
    let first = client.call_with("PUT", "/artifacts/key", b"1", &absent).await;
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    client.call_with("PUT", "/artifacts/key", b"2", &absent).await.is(412, "PreconditionFailed");
    client
        .call_with("PUT", "/artifacts/key", b"2", &[("if-match", "\"x\"")])
        .await
        .is(412, "PreconditionFailed");
    let same = client.call_with("GET", "/artifacts/key", b"", &[("if-none-match", &etag)]).await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    let put = client.call_with("PUT", "/artifacts/key", b"2", &[("if-match", &etag)]).await;
    assert_eq!(put.status, StatusCode::OK);
    client
        .call_with("GET", "/artifacts/key", b"", &[("if-match", &etag)])
        .await
        .is(412, "PreconditionFailed");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    struct Silent;
    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, std::io::Error>>> {
            std::task::Poll::Pending
        }
    }
    let error = Timed::new(Silent, &HeaderMap::new()).collect().await.unwrap_err();
    assert_eq!(error.to_string(), "nothing came for 30 seconds");
}
