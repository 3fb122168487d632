//! What is refused, and how that is said.

use super::super::Protocol;
use super::*;

const PATH: &str = "/2025-09-09/microvms";

fn get() -> Signed {
    Signer::default().sign("GET", PATH, &[], b"")
}

fn post(signer: Signer<'_>) -> Signed {
    signer.sign("POST", PATH, &[], b"{}")
}

fn presigned(seconds: u64) -> Signed {
    Signer::presigning(seconds).sign("GET", PATH, &[], b"")
}

/// Name in JSON, and message.
fn refused(request: &Signed) -> (&'static str, String) {
    let error = request.verified().unwrap_err();
    (error.exception(Protocol::RestJson).0, error.to_string())
}

#[test]
fn other_credentials_than_signatures_are_none() {
    let without = Request::builder().uri(PATH).header("host", "h");
    for request in [
        Request::builder().uri(PATH).header("host", "h"),
        without.header("authorization", "Basic QUtJRDpzZWNyZXQ="),
        Request::builder().uri(PATH).header("authorization", "Bearer x"),
        Request::builder().uri("/?x-amz-signature=1"),
    ] {
        let request = Signed { parts: request.body(()).unwrap().into_parts().0, body: Vec::new() };
        assert!(Claim::read(&request.parts).unwrap().is_none());
        let expected = ("MissingAuthenticationTokenException", "Missing Authentication Token".to_owned());
        assert_eq!(refused(&request), expected);
    }
}

#[test]
fn unknown_keys_and_tokens_are_refused_before_anything_of_the_body_is_read() {
    let invalid = "The security token included in the request is invalid.";
    for request in [
        get().authorized(KEY, "AKIDOTHER"),
        post(Signer { token: Some("another host's"), ..Signer::default() }),
        presigned(60).rewritten(KEY, "AKIDOTHER"),
        presigned(60).rewritten("X-Amz-Date", "X-Amz-Security-Token=x&X-Amz-Date"),
    ] {
        let claim = Claim::read(&request.parts).unwrap().unwrap();
        assert_eq!(access().known(&claim, noon()).unwrap_err(), SignatureError::UnknownKey);
        assert_eq!(refused(&request), ("UnrecognizedClientException", invalid.to_owned()));
    }
}

#[test]
fn another_signature_is_refused() {
    let sentence = "The request signature we calculated does not match the signature you provided. Check your AWS \
                    Secret Access Key and signing method. Consult the service documentation for details.";
    let signature = |request: &Signed| Claim::read(&request.parts).unwrap().unwrap().signature;
    let (mine, other) = (signature(&get()), signature(&presigned(60)));
    for request in [
        post(Signer { secret: "another secret", ..Signer::default() }),
        get().authorized(&mine, &other),
        get().authorized(&mine, &mine.to_uppercase()),
        get().authorized(&mine, mine.get(..63).unwrap()),
        get().authorized(&mine, ""),
        get().rewritten("microvms", "microvm%73"),
        presigned(60).rewritten("X-Amz-Expires=60", "X-Amz-Expires=61"),
        presigned(60).rewritten(&other, &mine),
        Signed { body: b"{ }".to_vec(), ..post(Signer::default()) },
    ] {
        assert_eq!(refused(&request), ("InvalidSignatureException", sentence.to_owned()));
    }
}

#[test]
fn a_signature_is_good_for_five_minutes_in_both_directions() {
    let at = |seconds: i64| {
        let offset = Duration::from_secs(seconds.unsigned_abs());
        let now = if seconds < 0 { noon() - offset } else { noon() + offset };
        get().verified_by(&access(), now, false)
    };
    at(300).unwrap();
    at(-300).unwrap();
    assert_eq!(
        at(301).unwrap_err().to_string(),
        "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T124101Z - 5 min.)"
    );
    let early = at(-301).unwrap_err();
    assert_eq!(
        early.to_string(),
        "Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z (20150830T123059Z + 5 min.)"
    );
    assert_eq!(early.exception(Protocol::RestJson), ("InvalidSignatureException", 403));
    assert_eq!(early.exception(Protocol::RestXml), ("RequestTimeTooSkewed", 403));
}

#[test]
fn a_presigned_url_is_good_as_long_as_it_says() {
    for seconds in [1, 60, 604_800] {
        let request = presigned(seconds);
        let after =
            |more: u64| request.verified_by(&access(), noon() + Duration::from_secs(seconds + more), false);
        after(0).unwrap();
        let error = after(1).unwrap_err().to_string();
        assert!(error.starts_with("Signature expired: 20150830T123600Z is now earlier than"), "{error}");
        request.verified_by(&access(), noon() - Duration::from_secs(300), false).unwrap();
        request.verified_by(&access(), noon() - Duration::from_secs(301), false).unwrap_err();
    }
    for wrong in ["0", "604801", "-1", "1.5", "", "+60", "99999999999999999999999"] {
        let request = presigned(60).rewritten("X-Amz-Expires=60", &format!("X-Amz-Expires={wrong}"));
        let (name, message) = refused(&request);
        assert_eq!(name, "IncompleteSignatureException");
        assert!(message.contains("from 1 to 604800"), "{message}");
    }
}

#[test]
fn the_scope_is_this_host() {
    let (name, message) = refused(&post(Signer { region: "eu-west-1", ..Signer::default() }));
    assert_eq!(name, "InvalidSignatureException");
    assert_eq!(
        message,
        "Credential should be scoped to a valid region, not 'eu-west-1'. The region of this host is 'us-east-1'."
    );
    let (_, message) = refused(&post(Signer { service: "ec2", ..Signer::default() }));
    assert_eq!(
        message,
        "Credential should be scoped to correct service: 'lambda', 'lambda-core', 'logs', 'sts', 's3'. It is scoped to 'ec2'."
    );
    let (_, message) = refused(&get().authorized("aws4_request", "aws5_request"));
    assert!(message.contains("not 'aws5_request'"), "{message}");
    let (_, message) = refused(&get().authorized("20150830", "20150831"));
    assert!(message.contains("'20150831' != '20150830', from '20150830T123600Z'."), "{message}");
}

#[test]
fn what_is_incomplete_is_said_by_name() {
    let without = |name: &'static str| {
        let mut request = get();
        request.parts.headers.remove(name);
        request
    };
    let twice = |name: &'static str| {
        let mut request = get();
        let value = request.parts.headers[name].clone();
        request.parts.headers.append(name, value);
        request
    };
    for (request, word) in [
        (get().authorized("Credential=", "Key="), "unknown parameter 'Key'"),
        (get().authorized("SignedHeaders=host;x-amz-date, ", ""), "requires 'SignedHeaders' parameter."),
        (get().authorized("Signature=", "Signature=0,Signature="), "'Signature' twice"),
        (get().authorized(&format!("{KEY}/"), ""), "exactly 5 slash-delimited elements"),
        (get().authorized("host;x-amz-date", "x-amz-date;host"), "sorted"),
        (get().authorized("host;", "host;host;"), "each once"),
        (get().authorized("host", "Host"), "lower case"),
        (get().authorized("host;", "host;;"), "SignedHeaders must be"),
        (without("x-amz-date"), "either a 'X-Amz-Date' or a 'Date' header"),
        (twice("x-amz-date"), "'x-amz-date' is there more than once"),
        (twice("authorization"), "'authorization' is there more than once"),
        (get().with_header("x-amz-date", "today"), "Got 'today'"),
        (presigned(60).rewritten("X-Amz-Date=", "Date="), "must include 'X-Amz-Date'."),
        (
            presigned(60).rewritten("X-Amz-Date=", "X-Amz-Expires=1&X-Amz-Date="),
            "'X-Amz-Expires' is there more than once",
        ),
        (presigned(60).rewritten("X-Amz-Date=", "X-Amz-Date=1"), "Got '120150830T123600Z'"),
        (presigned(60).rewritten("AKID", "%FF"), "'X-Amz-Credential' is not UTF-8"),
        (get().rewritten(PATH, &presigned(60).parts.uri.to_string()), "Only one auth mechanism allowed"),
    ] {
        let (name, message) = refused(&request);
        assert_eq!(name, "IncompleteSignatureException", "{message}");
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn other_algorithms_are_refused_by_name() {
    for (request, algorithm) in [
        (get().with_header("authorization", "AWS AKIDEXAMPLE:c2lnbmF0dXJl"), "AWS"),
        (get().authorized("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "AWS4-ECDSA-P256-SHA256"),
        (presigned(60).rewritten("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), "AWS4-HMAC-SHA1"),
    ] {
        let (name, message) = refused(&request);
        assert_eq!(name, "IncompleteSignatureException");
        assert!(message.contains(&format!("'{algorithm}'")), "{message}");
    }
}

#[test]
fn host_and_the_headers_of_aws_have_to_be_signed() {
    for (request, word) in [
        (get().authorized("host;", ""), "'Host' or ':authority' must be a 'SignedHeader'"),
        (get().authorized(";x-amz-date", ""), "'x-amz-date' must be"),
        (get().with_header("x-amz-target", "T"), "'x-amz-target' must be"),
        (
            presigned(60).with_header("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            "'x-amz-content-sha256' must be",
        ),
        (get().authorized("host;", "host;x-absent;"), "'x-absent' is not in the request"),
    ] {
        let (name, message) = refused(&request);
        assert_eq!(name, "InvalidSignatureException");
        assert!(message.contains(word), "{message}");
    }
    // AWS's SDK for Rust does not sign this header of presigned URLs.
    presigned(60).with_header("x-amz-user-agent", "aws-sdk-rust").verified().unwrap();
    // Nor does anybody sign what proxies change.
    get().with_header("user-agent", "x").with_header("x-amzn-trace-id", "x").verified().unwrap();
}

#[test]
fn an_unsigned_body_needs_tls_and_streams_are_for_s3() {
    let with = |service, payload| {
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = aws_sigv4::http_request::PayloadChecksumKind::XAmzSha256;
        post(Signer { service, payload: Some(payload), settings, ..Signer::default() })
    };
    let unsigned = with("lambda", "UNSIGNED-PAYLOAD");
    unsigned.verified_by(&access(), noon(), true).unwrap();
    assert!(refused(&unsigned).1.contains("over TLS only"));
    for streaming in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        let (name, message) = refused(&with("lambda", streaming));
        assert_eq!(name, "InvalidSignatureException");
        assert!(
            message.starts_with(&format!("{streaming} is not supported by the service 'lambda'")),
            "{message}"
        );
        let claim = Claim::read(&with("s3", streaming).parts).unwrap().unwrap();
        access().known(&claim, noon()).unwrap();
    }
    assert_eq!(with("lambda", "0000").verified().unwrap_err(), SignatureError::Body);
}

#[test]
fn every_protocol_has_its_own_names() {
    let names = |error: SignatureError| {
        [Protocol::RestJson, Protocol::AwsJson, Protocol::Query, Protocol::RestXml]
            .map(|it| error.exception(it))
    };
    assert_eq!(
        names(SignatureError::UnknownKey),
        [
            ("UnrecognizedClientException", 403),
            ("UnrecognizedClientException", 400),
            ("InvalidClientTokenId", 403),
            ("InvalidAccessKeyId", 403)
        ]
    );
    assert_eq!(
        names(SignatureError::Mismatch).map(|(name, _)| name),
        [
            "InvalidSignatureException",
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
            "SignatureDoesNotMatch"
        ]
    );
    assert_eq!(names(SignatureError::ExpiredToken)[2], ("ExpiredToken", 403));
    assert_eq!(names(SignatureError::Incomplete(String::new()))[2], ("IncompleteSignature", 400));
}
