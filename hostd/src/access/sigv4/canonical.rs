//! The canonical request: the form of a request that is hashed and signed.

use hyper::http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode, percent_encode_byte};

use super::S3;
use super::claim::{Claim, SIGNATURE};
use super::error::SignatureError;

/// What is encoded in a path: everything but unreserved characters and slashes.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The canonical request of a claim. `payload` is its last line: the hash of the body, or what stands for it.
///
/// # Errors
/// [`SignatureError::SignedHeaderMissing`]
pub(super) fn request(claim: &Claim, parts: &Parts, payload: &str) -> Result<Vec<u8>, SignatureError> {
    let mut text = Vec::with_capacity(1024);
    let line = |text: &mut Vec<u8>, content: &str| {
        text.extend_from_slice(content.as_bytes());
        text.push(b'\n');
    };
    line(&mut text, parts.method.as_str());
    line(&mut text, &path(parts.uri.path(), &claim.service));
    line(&mut text, &query(parts.uri.query().unwrap_or_default()));
    for name in claim.signed_headers.split(';') {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        if !add_values(&mut text, parts, name) {
            return Err(SignatureError::SignedHeaderMissing(name.chars().take(128).collect()));
        }
        text.push(b'\n');
    }
    line(&mut text, "");
    line(&mut text, &claim.signed_headers);
    text.extend_from_slice(payload.as_bytes());
    Ok(text)
}

/// The path as it is signed: as received, and encoded once more for every service but S3. `%3A` is signed as `%253A`.
pub(super) fn path(raw: &str, service: &str) -> String {
    let raw = if raw.is_empty() { "/" } else { raw };
    if service == S3 { raw.to_owned() } else { percent_encode(raw.as_bytes(), IN_PATH).to_string() }
}

/// The query as it is signed: names and values as received, sorted. What clients should have encoded and have not is
/// encoded. The signature of a presigned URL is not a part of it.
pub(super) fn query(raw: &str) -> String {
    let pairs = raw.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut pairs: Vec<(String, String)> = pairs
        .filter(|(name, _)| *name != SIGNATURE)
        .map(|(name, value)| (component(name), component(value)))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// A name or a value of a query: what is encoded, and what need not be, stays as it was received.
fn component(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    for byte in raw.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%' => {
                text.push(char::from(byte))
            }
            other => text.push_str(percent_encode_byte(other)),
        }
    }
    text
}

/// Adds the values of a header, with `,` between them, each without spaces around it and with one space where several follow one
/// another; returns whether there is one. The host is what HTTP/2 has in `:authority`.
fn add_values(text: &mut Vec<u8>, parts: &Parts, name: &str) -> bool {
    let mut is_there = false;
    for value in parts.headers.get_all(name) {
        if is_there {
            text.push(b',');
        }
        is_there = true;
        let words = value.as_bytes().split(|byte| byte.is_ascii_whitespace());
        for (index, word) in words.filter(|word| !word.is_empty()).enumerate() {
            if index > 0 {
                text.push(b' ');
            }
            text.extend_from_slice(word);
        }
    }
    match parts.uri.authority() {
        Some(authority) if !is_there && name == "host" => {
            text.extend_from_slice(authority.as_str().as_bytes());
            true
        }
        _ => is_there,
    }
}
