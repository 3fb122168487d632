//! AWS's own test vectors.

use super::*;

/// Vectors whose signers have normalised the path, which is not what they have sent.
const NORMALISED: [&str; 6] = [
    "get-relative-normalized",
    "get-relative-relative-normalized",
    "get-slash-dot-slash-normalized",
    "get-slash-normalized",
    "get-slash-pointless-dot-normalized",
    "get-slashes-normalized",
];

/// The requests with their names.
fn vectors() -> Vec<(String, Signed)> {
    let text = include_str!("vectors.txt");
    let requests: Vec<_> = text.split("=== ").skip(1).map(vector).collect();
    assert_eq!(requests.len(), 70);
    requests
}

fn vector(text: &str) -> (String, Signed) {
    let (name, request) = text.split_once('\n').unwrap();
    let (head, body) = request.split_once("\n\n").unwrap();
    let body = body.strip_suffix('\n').unwrap_or(body).as_bytes().to_vec();
    let mut lines = head.lines();
    let mut line = lines.next().unwrap().split(' ');
    let mut builder = Request::builder().method(line.next().unwrap()).uri(line.next().unwrap());
    for header in lines {
        let (name, value) = header.split_once(':').unwrap();
        builder = builder.header(name, value.trim());
    }
    (name.to_owned(), Signed { parts: builder.body(()).unwrap().into_parts().0, body })
}

/// Verifies a request whose session token is another host's.
fn verified(request: &Signed) -> Result<Caller, SignatureError> {
    let access = access_to_service();
    let mut claim = Claim::read(&request.parts)?.unwrap();
    claim.token = None;
    let key = access.known(&claim, noon())?;
    access.verified(&key, &claim, &request.parts, &request.body, false, "id".into())
}

#[test]
fn the_vectors_of_aws_are_verified() {
    for (name, request) in vectors() {
        let result = verified(&request);
        let base = name.split(' ').next().unwrap();
        if NORMALISED.contains(&base) {
            assert_eq!(result.unwrap_err(), SignatureError::Mismatch, "{name}: nothing is normalised");
        } else if name == "post-sts-header-after header" {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("'x-amz-security-token' must be a 'SignedHeader'"), "{name}: {error}");
        } else if name == "post-sts-header-after query" {
            assert_eq!(result.unwrap_err(), SignatureError::Mismatch, "{name}: the token is not signed");
        } else {
            let caller = result.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((caller.principal.as_str(), caller.account.as_str()), (KEY, "111122223333"), "{name}");
        }
    }
}

#[test]
fn a_vector_that_is_changed_anywhere_is_refused() {
    for (name, request) in vectors() {
        if verified(&request).is_err() {
            continue;
        }
        let mut other = request.clone();
        other.parts.method = "PATCH".parse().unwrap();
        assert_eq!(verified(&other).unwrap_err(), SignatureError::Mismatch, "{name}");
        let mut other = request.clone();
        other.body.push(b'x');
        assert!(verified(&other).is_err(), "{name}");
        let path = request.parts.uri.path();
        let other = request.clone().rewritten(path, &format!("{path}x"));
        assert_eq!(verified(&other).unwrap_err(), SignatureError::Mismatch, "{name}");
        for header in request.parts.headers.keys().filter(|name| *name != "authorization") {
            let mut other = request.clone();
            other.parts.headers.append(header, "x".parse().unwrap());
            assert!(verified(&other).is_err() || header == "content-length", "{name} {header}");
        }
        let query = request.parts.uri.query().unwrap_or_default();
        let target = format!("{path}?{query}&more=1");
        let mut other = request;
        other.parts.uri = target.parse().unwrap();
        assert_eq!(verified(&other).unwrap_err(), SignatureError::Mismatch, "{name}");
    }
}
