//! What a request says about its signature.

use std::fmt;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, DATE, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;

use super::error::SignatureError;
use super::stamp::Stamp;
use super::{ALGORITHM, TERMINATOR};

/// Longest lifetime of a presigned URL: a week.
pub const EXPIRES_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Greatest length of a text of the client in a message, in characters.
const SHOWN: usize = 128;

/// The header with the hash of the body.
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// The members of the query of a presigned URL that a URL without a session has.
const PRESIGNED: [&str; 6] =
    ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", SIGNATURE];
/// The member of a presigned URL's query that is not signed.
pub(super) const SIGNATURE: &str = "X-Amz-Signature";
/// The member of a presigned URL's query with a session token.
const TOKEN: &str = "X-Amz-Security-Token";

/// What a request says about its signature. Nothing of it is verified.
#[derive(Clone)]
pub struct Claim {
    pub(super) access_key: String,
    pub(super) date: String,
    pub(super) region: String,
    pub(super) service: String,
    /// Names of headers, in lower case and sorted, with `;` between them.
    pub(super) signed_headers: String,
    pub(super) signature: String,
    pub(super) token: Option<String>,
    pub(super) stamp: Stamp,
    /// Lifetime of a presigned URL.
    pub(super) expires: Option<Duration>,
    /// `x-amz-content-sha256`.
    pub(super) payload: Option<String>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = [&self.access_key, &self.date, &self.region, &self.service];
        f.debug_struct("Claim")
            .field("scope", &scope)
            .field("stamp", &self.stamp.text)
            .finish_non_exhaustive()
    }
}

impl Claim {
    /// What the head of a request says about its signature; `None` if it has no signature of AWS.
    ///
    /// # Errors
    /// [`SignatureError::Incomplete`], [`SignatureError::Algorithm`], [`SignatureError::Terminator`].
    pub fn read(parts: &Parts) -> Result<Option<Self>, SignatureError> {
        let in_header = in_header(&parts.headers)?;
        let query = parts.uri.query().unwrap_or_default();
        let presigned = Presigned::of(query)?;
        match (in_header, presigned) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(incomplete(
                "Only one auth mechanism allowed: the X-Amz-Algorithm query parameter or the Authorization header.",
            )),
            (Some(given), None) => Self::from_header(given, &parts.headers).map(Some),
            (None, Some(given)) => Self::from_query(given, &parts.headers).map(Some),
        }
    }

    /// The service in the scope: `lambda`, `logs`, `sts`, `s3` or anything else that a client has written.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Id of the access key.
    #[must_use]
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    fn from_header(given: &str, headers: &HeaderMap) -> Result<Self, SignatureError> {
        let [mut credential, mut signed_headers, mut signature] = [None; 3];
        for part in given.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let place = match name.trim_end() {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                other => {
                    return Err(incomplete(format!(
                        "Authorization header has the unknown parameter '{}'.",
                        shown(other)
                    )));
                }
            };
            if place.replace(value.trim_start()).is_some() {
                return Err(incomplete(format!("Authorization header has the parameter '{name}' twice.")));
            }
        }
        let stamp = stamp(headers)?;
        let parts = [("Credential", credential), ("Signature", signature), ("SignedHeaders", signed_headers)];
        let (Some(credential), Some(signature), Some(signed_headers), Some(stamp)) =
            (credential, signature, signed_headers, stamp.clone())
        else {
            let missing = parts.iter().filter(|(_, value)| value.is_none());
            let mut why: Vec<String> = missing
                .map(|(name, _)| format!("Authorization header requires '{name}' parameter."))
                .collect();
            if stamp.is_none() {
                why.push(
                    "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
                        .to_owned(),
                );
            }
            return Err(incomplete(why.join(" ")));
        };
        let token = single(headers, &SECURITY_TOKEN)?;
        Self::new(credential, signed_headers, signature, stamp, token, None, headers)
    }

    fn from_query(given: Presigned, headers: &HeaderMap) -> Result<Self, SignatureError> {
        let Presigned { algorithm, credential, date, expires, signed_headers, signature, token } = given;
        if algorithm != ALGORITHM {
            return Err(SignatureError::Algorithm(shown(&algorithm)));
        }
        let stamp = Stamp::basic(&date).ok_or_else(|| not_a_date(&date))?;
        let seconds = Some(&expires).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let expires = seconds.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let range = Duration::from_secs(1)..=EXPIRES_MAX;
        let expires = expires.filter(|expires| range.contains(expires)).ok_or_else(|| {
            incomplete(format!(
                "X-Amz-Expires must be a number of seconds from 1 to {}.",
                EXPIRES_MAX.as_secs()
            ))
        })?;
        let token = match token {
            Some(token) => Some(token),
            None => single(headers, &SECURITY_TOKEN)?.map(str::to_owned),
        };
        Self::new(&credential, &signed_headers, &signature, stamp, token.as_deref(), Some(expires), headers)
    }

    fn new(
        credential: &str,
        signed_headers: &str,
        signature: &str,
        stamp: Stamp,
        token: Option<&str>,
        expires: Option<Duration>,
        headers: &HeaderMap,
    ) -> Result<Self, SignatureError> {
        let scope: Vec<&str> = credential.split('/').collect();
        let [access_key, date, region, service, terminator] = scope.as_slice() else {
            return Err(incomplete(format!(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'",
                shown(credential)
            )));
        };
        if *terminator != TERMINATOR {
            return Err(SignatureError::Terminator(shown(terminator)));
        }
        let is_lower = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        let names: Vec<&str> = signed_headers.split(';').collect();
        if !names.iter().all(|name| !name.is_empty() && name.bytes().all(is_lower))
            || !names.is_sorted_by(|a, b| a < b)
        {
            return Err(incomplete(
                "SignedHeaders must be names of headers in lower case, sorted, each once, with ';' between them.",
            ));
        }
        let payload = single(headers, &CONTENT_SHA256)?;
        Ok(Self {
            access_key: (*access_key).to_owned(),
            date: (*date).to_owned(),
            region: (*region).to_owned(),
            service: (*service).to_owned(),
            signed_headers: signed_headers.to_owned(),
            signature: signature.to_owned(),
            token: token.map(str::to_owned),
            stamp,
            expires,
            payload: payload.map(str::to_owned),
        })
    }
}

/// The parameters behind the algorithm in the header `Authorization`; `None` for another scheme of authentication.
fn in_header(headers: &HeaderMap) -> Result<Option<&str>, SignatureError> {
    let Some(given) = single(headers, &AUTHORIZATION)? else { return Ok(None) };
    let (scheme, rest) = given.split_once(' ').unwrap_or((given, ""));
    match scheme {
        ALGORITHM => Ok(Some(rest)),
        _ if scheme.starts_with("AWS") => Err(SignatureError::Algorithm(shown(scheme))),
        _ => Ok(None),
    }
}

/// The time of a request that is signed in its headers.
fn stamp(headers: &HeaderMap) -> Result<Option<Stamp>, SignatureError> {
    if let Some(text) = single(headers, &AMZ_DATE)? {
        return Stamp::basic(text).map(Some).ok_or_else(|| not_a_date(text));
    }
    let Some(text) = single(headers, &DATE)? else { return Ok(None) };
    Stamp::of_date_header(text).map(Some).ok_or_else(|| not_a_date(text))
}

/// The value of a header that must not come twice.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, SignatureError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(incomplete(format!("The header '{name}' is there more than once.")));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(|text| Some(text.trim())).map_err(|_| incomplete(format!("The header '{name}' is not UTF-8.")))
}

/// The signature in the query of a presigned URL, decoded.
struct Presigned {
    algorithm: String,
    credential: String,
    date: String,
    expires: String,
    signed_headers: String,
    signature: String,
    token: Option<String>,
}

impl Presigned {
    /// The signature in a query; `None` if the query has none.
    fn of(query: &str) -> Result<Option<Self>, SignatureError> {
        let mut found: [Option<String>; 6] = Default::default();
        let mut token = None;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match PRESIGNED.iter().position(|known| *known == name) {
                Some(index) => found.get_mut(index),
                None if name == TOKEN => Some(&mut token),
                None => None,
            };
            let Some(place) = place else { continue };
            let decoded = percent_decode_str(value).decode_utf8();
            let decoded =
                decoded.map_err(|_| incomplete(format!("The query parameter '{name}' is not UTF-8.")))?;
            if place.replace(decoded.into_owned()).is_some() {
                return Err(incomplete(format!("The query parameter '{name}' is there more than once.")));
            }
        }
        if found.iter().all(Option::is_none) {
            return Ok(None);
        }
        let missing: Vec<String> = PRESIGNED
            .iter()
            .zip(&found)
            .filter(|(_, it)| it.is_none())
            .map(|(name, _)| format!("'{name}'"))
            .collect();
        let [
            Some(algorithm),
            Some(credential),
            Some(date),
            Some(expires),
            Some(signed_headers),
            Some(signature),
        ] = found
        else {
            return Err(incomplete(format!(
                "AWS query-string parameters must include {}. Re-examine the query-string parameters.",
                missing.join(", ")
            )));
        };
        Ok(Some(Self { algorithm, credential, date, expires, signed_headers, signature, token }))
    }
}

fn incomplete(why: impl Into<String>) -> SignatureError {
    SignatureError::Incomplete(why.into())
}

fn not_a_date(text: &str) -> SignatureError {
    incomplete(format!("Date must be in ISO-8601 'basic format'. Got '{}'.", shown(text)))
}

/// A text of the client for a message: bounded, without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(SHOWN).collect()
}
