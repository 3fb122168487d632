//! Why a request is refused: names of exceptions, sentences and HTTP status as AWS has them.

/// The protocols of AWS's services. They name the same exception differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// REST-JSON: Lambda.
    RestJson,
    /// AWS JSON 1.1: CloudWatch Logs.
    AwsJson,
    /// Query with answers in XML: STS.
    Query,
    /// REST-XML: S3.
    RestXml,
}

/// The reason why a signature is not accepted. Clients receive the message, which has no secret in it, and no part of a
/// signature or a session token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The request has no signature.
    #[error("Missing Authentication Token")]
    Missing,
    /// What the request says about its signature is incomplete, contradictory or cannot be parsed.
    #[error("{0}")]
    Incomplete(String),
    /// The signature is of another algorithm.
    #[error("Unsupported AWS 'algorithm': '{0}'. Sign with AWS4-HMAC-SHA256.")]
    Algorithm(String),
    /// There is no such access key, or the session token is not this host's, not the key's, or its maker is gone.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// The session has expired.
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    /// The signature is for another Region.
    #[error(
        "Credential should be scoped to a valid region, not '{given}'. The region of this host is '{region}'."
    )]
    Region {
        /// The Region in the scope.
        given: String,
        /// The Region of this host.
        region: String,
    },
    /// The signature is for another service.
    #[error("Credential should be scoped to correct service: {services}. It is scoped to '{given}'.")]
    Service {
        /// The service in the scope.
        given: String,
        /// The services of this host.
        services: String,
    },
    /// The scope does not end as every scope does.
    #[error("Credential should be scoped with a valid terminator: 'aws4_request', not '{0}'.")]
    Terminator(String),
    /// The date in the scope is not that of the request.
    #[error(
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{scope}' != '{date}', from '{stamp}'."
    )]
    Date {
        /// The date in the scope.
        scope: String,
        /// The date of the request.
        date: String,
        /// The time of the request.
        stamp: String,
    },
    /// The request is too old.
    #[error("Signature expired: {stamp} is now earlier than {earliest} ({now} - {allowed}.)")]
    Expired {
        /// The time of the request.
        stamp: String,
        /// The earliest time that is accepted.
        earliest: String,
        /// The time here.
        now: String,
        /// The difference that is accepted.
        allowed: String,
    },
    /// The request is from the future.
    #[error("Signature not yet current: {stamp} is still later than {latest} ({now} + {allowed}.)")]
    NotYetCurrent {
        /// The time of the request.
        stamp: String,
        /// The latest time that is accepted.
        latest: String,
        /// The time here.
        now: String,
        /// The difference that is accepted.
        allowed: String,
    },
    /// A header that has to be signed is not.
    #[error("{0} must be a 'SignedHeader' in the AWS Authorization.")]
    NotSigned(String),
    /// A header that was signed is not there.
    #[error("The signed header '{0}' is not in the request.")]
    SignedHeaderMissing(String),
    /// The body is not the one that was signed.
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    Body,
    /// A body without a signature on a connection without TLS.
    #[error(
        "UNSIGNED-PAYLOAD is accepted over TLS only: use https, or sign the body (payload_signing_enabled)."
    )]
    UnsignedBody,
    /// A body that is signed piece by piece, which only S3 takes.
    #[error(
        "{payload} is not supported by the service '{service}': only requests to S3 may stream. Sign the whole body."
    )]
    Streaming {
        /// The value of `x-amz-content-sha256`.
        payload: String,
        /// The service.
        service: String,
    },
    /// The signature is another one.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
}

impl SignatureError {
    /// Name of the exception, and HTTP status, in a protocol. AWS JSON answers everything with 400, the others most with
    /// 403.
    #[must_use]
    pub fn exception(&self, protocol: Protocol) -> (&'static str, u16) {
        let [rest_json, query, s3] = self.names();
        match protocol {
            Protocol::RestJson => (rest_json, 403),
            Protocol::AwsJson => (rest_json, 400),
            Protocol::Query => {
                (query, if matches!(self, Self::Incomplete(_) | Self::Algorithm(_)) { 400 } else { 403 })
            }
            Protocol::RestXml => {
                (s3, if matches!(s3, "ExpiredToken" | "AuthorizationHeaderMalformed") { 400 } else { 403 })
            }
        }
    }

    /// Names in JSON, in the Query protocol, and in S3.
    fn names(&self) -> [&'static str; 3] {
        match self {
            Self::Missing => {
                ["MissingAuthenticationTokenException", "MissingAuthenticationToken", "AccessDenied"]
            }
            Self::Incomplete(_) | Self::Algorithm(_) => {
                ["IncompleteSignatureException", "IncompleteSignature", "AuthorizationHeaderMalformed"]
            }
            Self::UnknownKey => ["UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"],
            Self::ExpiredToken => ["ExpiredTokenException", "ExpiredToken", "ExpiredToken"],
            Self::Expired { .. } | Self::NotYetCurrent { .. } => {
                ["InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed"]
            }
            Self::Region { .. } | Self::Service { .. } | Self::Terminator(_) | Self::Date { .. } => {
                ["InvalidSignatureException", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"]
            }
            Self::NotSigned(_)
            | Self::SignedHeaderMissing(_)
            | Self::Body
            | Self::UnsignedBody
            | Self::Streaming { .. }
            | Self::Mismatch => {
                ["InvalidSignatureException", "SignatureDoesNotMatch", "SignatureDoesNotMatch"]
            }
        }
    }
}
