//! Signatures of other signers: AWS's own test vectors and the signer of AWS's SDK for Rust; what is refused, and how.

mod clients;
mod refusals;
mod vectors;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use hyper::Request;
use hyper::http::request::Parts;

use super::verify::Scope;
use super::{Claim, SignatureError, SigningKeys};
use crate::access::{Access, Caller};

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const REGION: &str = "us-east-1";

/// 30 August 2015, 12:36:00 UTC: the time of AWS's test vectors.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_440_938_160)
}

/// The signing keys of the only access key.
pub(super) fn key_of(access: &Access) -> &SigningKeys {
    &access.keys[KEY].signing
}

pub(super) fn access() -> Access {
    let config = format!("[[keys]]\nid = \"{KEY}\"\nsecret = \"{SECRET}\"\naccount = \"111122223333\"");
    Access::new(&toml::from_str(&config).unwrap(), REGION).unwrap()
}

/// An [`Access`] for the service of AWS's test vectors.
fn access_to_service() -> Access {
    Access { scope: Scope { region: REGION.to_owned(), services: &["service"] }, ..access() }
}

/// A request as it is received, with what its signer has done.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) parts: Parts,
    pub(crate) body: Vec<u8>,
}

/// What a signer is told.
pub(crate) struct Signer<'a> {
    pub(crate) key: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
    pub(crate) time: SystemTime,
    pub(crate) token: Option<&'a str>,
    pub(crate) payload: Option<&'a str>,
    pub(crate) settings: SigningSettings,
}

impl Default for Signer<'_> {
    fn default() -> Self {
        Self {
            key: KEY,
            secret: SECRET,
            service: "lambda",
            region: REGION,
            time: noon(),
            token: None,
            payload: None,
            settings: SigningSettings::default(),
        }
    }
}

impl Signer<'_> {
    pub(crate) fn presigning(seconds: u64) -> Self {
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(Duration::from_secs(seconds));
        Self { settings, ..Self::default() }
    }

    /// Signs a request to `http://127.0.0.1:9000` with the signer of AWS's SDK for Rust.
    pub(crate) fn sign(self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Signed {
        let Self { key, secret, service, region, time, token, payload, settings } = self;
        let token = token.map(str::to_owned);
        let identity = aws_credential_types::Credentials::new(key, secret, token, None, "test").into();
        let params = SigningParams::builder().identity(&identity).region(region).name(service).time(time);
        let params = params.settings(settings).build().unwrap().into();
        let mut builder = Request::builder().method(method).uri(format!("http://127.0.0.1:9000{path}"));
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let content = match payload {
            Some(precomputed) => SignableBody::Precomputed(precomputed.to_owned()),
            None => SignableBody::Bytes(body),
        };
        let uri = format!("http://127.0.0.1:9000{path}");
        let signable = SignableRequest::new(method, uri, headers.iter().copied(), content).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        let mut request = builder.body(()).unwrap();
        instructions.apply_to_request_http1x(&mut request);
        Signed { parts: request.into_parts().0, body: body.to_vec() }.over_http1()
    }
}

impl Signed {
    /// The request as HTTP/1.1 has it: with the header `host`.
    fn over_http1(mut self) -> Self {
        let target = self.parts.uri.path_and_query().unwrap().as_str().parse().unwrap();
        let host = self.parts.uri.authority().unwrap().as_str().parse().unwrap();
        self.parts.uri = target;
        self.parts.headers.insert("host", host);
        self
    }

    /// The request as HTTP/2 has it: with `:authority`.
    fn over_http2(mut self) -> Self {
        let host = self.parts.headers.remove("host").unwrap();
        let host = host.to_str().unwrap();
        self.parts.uri = format!("http://{host}{}", self.parts.uri).parse().unwrap();
        self
    }

    fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.parts.headers.insert(name, value.parse().unwrap());
        self
    }

    /// Replaces a part of the header `authorization`.
    fn authorized(self, from: &str, to: &str) -> Self {
        let given = self.parts.headers["authorization"].to_str().unwrap().to_owned();
        assert!(given.contains(from), "{given}");
        self.with_header("authorization", &given.replacen(from, to, 1))
    }

    /// Replaces a part of the path or query.
    fn rewritten(mut self, from: &str, to: &str) -> Self {
        let given = self.parts.uri.to_string();
        assert!(given.contains(from), "{given}");
        self.parts.uri = given.replacen(from, to, 1).parse().unwrap();
        self
    }

    pub(crate) fn verified_by(
        &self,
        access: &Access,
        now: SystemTime,
        tls: bool,
    ) -> Result<Caller, SignatureError> {
        let claim = Claim::read(&self.parts)?.ok_or(SignatureError::Missing)?;
        let key = access.known(&claim, now)?;
        access.verified(&key, &claim, &self.parts, &self.body, tls, "id".into())
    }

    fn verified(&self) -> Result<Caller, SignatureError> {
        self.verified_by(&access(), noon(), false)
    }
}
