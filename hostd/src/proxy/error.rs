//! What the endpoint answers by itself (docs/behaviour.md, "Errors of the endpoint").

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::body::Answer;
use crate::driver::gate::Refused;
use crate::platform::ConnectError;

/// The header that tells the endpoint's own answers from the app's.
pub const ERROR: HeaderName = HeaderName::from_static("x-aws-proxy-error");

/// Why a request did not reach the app. The message is the answer's body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// A port that is none.
    #[error("Invalid x-aws-proxy-port: {0}")]
    Port(String),
    /// A request that cannot be passed on.
    #[error("{0}")]
    Bad(&'static str),
    /// A request for another host than the connection is for; browsers then open one.
    #[error("The connection is for another endpoint; open one for this endpoint")]
    Misdirected,
    /// No valid token for this microVM, or no such microVM: whoever has no token learns no more.
    #[error("Request missing authentication")]
    Unauthenticated,
    /// The token is for other ports.
    #[error("Access to port denied")]
    PortDenied,
    /// What the platform calls is not called from outside.
    #[error("Lifecycle hooks cannot be called through the endpoint")]
    Hook,
    /// Too many requests wait already.
    #[error("")]
    TooMany,
    /// The app does not answer.
    #[error("")]
    App,
    /// The microVM cannot be reached.
    #[error("")]
    Microvm,
    /// What handled the request has panicked; the app may have seen it.
    #[error("The endpoint has failed; the app may have received the request")]
    Panicked,
}

impl ProxyError {
    /// Its HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Port(_) | Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Unauthenticated | Self::PortDenied | Self::Hook => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::App | Self::Microvm => StatusCode::BAD_GATEWAY,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Its code in `x-aws-proxy-error`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Port(_) | Self::Bad(_) | Self::Misdirected => "BAD_REQUEST",
            Self::Unauthenticated | Self::PortDenied | Self::Hook => "UNAUTHORIZED",
            Self::TooMany => "TOO_MANY_REQUESTS",
            Self::App => "APP_CONNECT_FAILED",
            Self::Microvm => "MICROVM_CONNECT_FAILED",
            Self::Panicked => "INTERNAL_ERROR",
        }
    }

    /// The answer.
    #[must_use]
    pub fn response(&self) -> Response<Answer> {
        let text = self.to_string();
        let mut response = Response::new(Answer::text(text.clone()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(ERROR, HeaderValue::from_static(self.code()));
        if !text.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        if *self == Self::TooMany {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Refused> for ProxyError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Crowded(_) => Self::TooMany,
            Refused::Gone
            | Refused::Asleep
            | Refused::Launching
            | Refused::TooLong(_)
            | Refused::NotResumed(_) => Self::Microvm,
        }
    }
}

impl From<ConnectError> for ProxyError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::App(_) => Self::App,
            ConnectError::Guest(_) => Self::Microvm,
        }
    }
}
