//! What clients send, and what nobody sends.

use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::super::canonical;
use super::*;

/// What clients encode: everything but unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[test]
fn a_path_with_an_arn_is_signed_as_it_was_sent_and_encoded_once_more() {
    let path =
        "/2025-09-09/microvm-images/arn%3Aaws%3Alambda%3Aus-east-1%3A111122223333%3Amicrovm-image%3Aweb";
    let signed = canonical::path(path, "lambda");
    assert!(
        signed.ends_with("arn%253Aaws%253Alambda%253Aus-east-1%253A111122223333%253Amicrovm-image%253Aweb"),
        "{signed}"
    );
    assert_eq!(canonical::path(path, "s3"), path);
    assert_eq!(canonical::path("", "lambda"), "/");
    assert_eq!(canonical::path("/a//./b/../c d", "lambda"), "/a//./b/../c%20d");
    Signer::default().sign("GET", path, &[], b"").verified().unwrap();
}

#[test]
fn a_query_is_sorted_as_it_was_sent() {
    for (raw, expected) in [
        ("", ""),
        ("b=2&a=1", "a=1&b=2"),
        ("a=2&a=1&a", "a=&a=1&a=2"),
        ("a=%2F%2b", "a=%2F%2b"),
        ("c+d", "c%2Bd="),
        ("a=b=c", "a=b%3Dc"),
        ("&&a=1&", "a=1"),
        ("X-Amz-Signature=0&x=1", "x=1"),
    ] {
        assert_eq!(canonical::query(raw), expected, "{raw}");
    }
}

#[test]
fn the_host_is_a_header_or_the_authority_of_http2() {
    let signed = Signer::default().sign("GET", "/2025-09-09/microvms?maxResults=5", &[], b"");
    signed.verified().unwrap();
    signed.clone().over_http2().verified().unwrap();
    let other = signed.with_header("host", "127.0.0.1:9001");
    assert_eq!(other.verified().unwrap_err(), SignatureError::Mismatch);
}

#[test]
fn a_body_may_have_its_hash_in_a_header() {
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = aws_sigv4::http_request::PayloadChecksumKind::XAmzSha256;
    let signed = Signer { settings, ..Signer::default() }.sign("POST", "/2025-09-09/microvms", &[], b"{}");
    assert!(signed.parts.headers.contains_key("x-amz-content-sha256"));
    signed.verified().unwrap();
    let other = Signed { body: b"{ }".to_vec(), ..signed };
    assert_eq!(other.verified().unwrap_err(), SignatureError::Body);
}

#[test]
fn botocore_signs_a_date_header_where_its_user_has_set_one() {
    // By botocore 1.44.8, whose user has set `Date`: `X-Amz-Date` is left out then.
    let parts = Request::builder()
        .uri("/2025-09-09/microvms")
        .header("host", "127.0.0.1:9000")
        .header("date", "Sun, 30 Aug 2015 12:36:00 -0000")
        .header("authorization", include_str!("date-header.txt").trim());
    let signed = Signed { parts: parts.body(()).unwrap().into_parts().0, body: Vec::new() };
    signed.verified().unwrap();
    let other = signed.with_header("date", "Sun, 30 Aug 2015 12:36:01 -0000");
    assert_eq!(other.verified().unwrap_err(), SignatureError::Mismatch);
}

#[test]
fn any_service_of_this_host_may_be_meant() {
    for service in ["lambda", "lambda-core", "logs", "sts"] {
        let signed =
            Signer { service, ..Signer::default() }.sign("POST", "/", &[("x-amz-target", "T")], b"{}");
        assert_eq!(Claim::read(&signed.parts).unwrap().unwrap().service(), service);
        signed.verified().unwrap();
    }
}

#[test]
fn no_secret_is_shown() {
    let signed = Signer::default().sign("GET", "/", &[], b"");
    let claim = Claim::read(&signed.parts).unwrap().unwrap();
    let key = access().known(&claim, noon()).unwrap();
    let shown = format!("{claim:?} {key:?}");
    assert!(shown.contains(KEY) && !shown.contains(SECRET) && !shown.contains(&claim.signature), "{shown}");
    assert_eq!(access().secret(KEY).unwrap().expose(), key.secret().expose());
    assert!(access().secret("OTHER").is_none());
}

proptest! {
    /// Whatever the SDK for Rust signs is verified, also over HTTP/2, and not with another body.
    #[test]
    fn what_the_sdk_signs_is_verified(
        segments in prop::collection::vec("[^/]{1,12}", 1..4),
        query in prop::collection::vec(("\\PC{1,8}", "\\PC{0,8}"), 0..4),
        header in "[ -~]{0,20}",
        body in prop::collection::vec(any::<u8>(), 0..64),
        presigned in prop::option::of(1..604_800_u64),
    ) {
        let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let path: String = segments.iter().map(|segment| format!("/{}", encoded(segment))).collect();
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let target = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
        // This signer normalises paths, and signs others than it sends then. No name of a resource is `.` or `..`.
        prop_assume!(!segments.iter().any(|segment| segment == "." || segment == ".."));
        // A header's own spaces end where its value does.
        let headers = [("x-other", header.trim())];
        let signer = presigned.map_or_else(Signer::default, Signer::presigning);
        let signed = signer.sign("POST", &target, &headers, &body);
        prop_assert_eq!(signed.verified().map(|caller| caller.principal), Ok(KEY.to_owned()));
        prop_assert!(signed.clone().over_http2().verified().is_ok());
        let other = Signed { body: [&body[..], b"x"].concat(), ..signed };
        prop_assert_eq!(other.verified().unwrap_err(), SignatureError::Mismatch);
    }

    /// Bytes of any kind in the headers that matter end in an error, never in a panic.
    #[test]
    fn arbitrary_bytes_never_panic(
        authorization in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "AWS4-HMAC-SHA256 .{0,200}".prop_map(String::into_bytes),
            "AWS4-HMAC-SHA256 Credential=[A-Z/a-z0-9]{0,40}, SignedHeaders=[a-z;-]{0,30}, Signature=.{0,70}"
                .prop_map(String::into_bytes),
            Just(format!(
                "AWS4-HMAC-SHA256 Credential={KEY}/20150830/us-east-1/lambda/aws4_request, SignedHeaders=host;x-amz-date, Signature=0"
            ).into_bytes()),
        ],
        names in prop::collection::vec(
            prop::sample::select(vec!["x-amz-date", "date", "host", "x-amz-content-sha256", "x-amz-security-token", "authorization", "x-amz-x"]),
            0..5,
        ),
        values in prop::collection::vec(
            prop_oneof![prop::collection::vec(any::<u8>(), 0..40), Just(b"20150830T123600Z".to_vec())],
            5,
        ),
        query in prop_oneof![
            "[!-~&&[^#]]{0,100}",
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE/20150830/us-east-1/lambda/aws4_request&X-Amz-Date=20150830T123600Z&X-Amz-SignedHeaders=[a-z;%]{0,9}&X-Amz-Expires=[0-9]{0,25}&X-Amz-Signature=[%a-f0-9]{0,9}",
        ],
        body in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let Ok(request) = Request::builder().uri(format!("/path?{query}")).body(()) else { return Ok(()) };
        let (mut parts, ()) = request.into_parts();
        let first = ("authorization", authorization);
        for (name, value) in std::iter::once(first).chain(names.into_iter().zip(values)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                parts.headers.append(HeaderName::from_static(name), value);
            }
        }
        let signed = Signed { parts, body };
        prop_assert!(signed.verified().is_err());
    }
}
