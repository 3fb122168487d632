//! Error responses of the endpoint itself (docs/behaviour.md, "Errors of the endpoint").

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::body::ResponseBody;
use super::headers::MOST;
use super::limiter::LimitReached;
use super::shares::ShareTaken;
use crate::driver::gate::GateError;
use crate::platform::ConnectError;

/// The header that distinguishes the endpoint's own responses from those of the app.
pub const ERROR: HeaderName = HeaderName::from_static("x-aws-proxy-error");

/// The reason why a request did not reach the app. The message is the body of the response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The port is not a valid port number.
    #[error("Invalid x-aws-proxy-port: {0}")]
    Port(String),
    /// The request cannot be forwarded.
    #[error("{0}")]
    Bad(&'static str),
    /// The request has more headers than are passed on.
    #[error("The request has more than {MOST} headers")]
    Headers,
    /// The request is for another host than the connection. Browsers react by opening a new connection.
    #[error("The connection is for another endpoint; open one for this endpoint")]
    Misdirected,
    /// The token is missing or invalid for this microVM, or the microVM does not exist. Both give the same error, so
    /// that clients without a token learn nothing about microVMs.
    #[error("Request missing authentication")]
    Unauthenticated,
    /// The token does not allow this port.
    #[error("Access to port denied")]
    PortDenied,
    /// The request could call a lifecycle hook, which only the platform may call.
    #[error("Lifecycle hooks cannot be called through the endpoint")]
    Hook,
    /// Too many requests are waiting, or a limit of the endpoint is exceeded.
    #[error("")]
    TooMany,
    /// The microVM or its account has as much under way as it may.
    #[error(transparent)]
    Share(#[from] ShareTaken),
    /// The app does not respond.
    #[error("")]
    App,
    /// The microVM cannot be reached.
    #[error("")]
    Microvm,
    /// The code that handled the request has panicked; the app may have received the request.
    #[error("The endpoint has failed; the app may have received the request")]
    Panicked,
}

impl ProxyError {
    /// HTTP status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Port(_) | Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Headers => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Unauthenticated | Self::PortDenied | Self::Hook => StatusCode::FORBIDDEN,
            Self::TooMany | Self::Share(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::App | Self::Microvm => StatusCode::BAD_GATEWAY,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The error code in `x-aws-proxy-error`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Port(_) | Self::Bad(_) | Self::Headers | Self::Misdirected => "BAD_REQUEST",
            Self::Unauthenticated | Self::PortDenied | Self::Hook => "UNAUTHORIZED",
            Self::TooMany | Self::Share(_) => "TOO_MANY_REQUESTS",
            Self::App => "APP_CONNECT_FAILED",
            Self::Microvm => "MICROVM_CONNECT_FAILED",
            Self::Panicked => "INTERNAL_ERROR",
        }
    }

    /// The response for this error.
    #[must_use]
    pub fn response(&self) -> Response<ResponseBody> {
        let text = self.to_string();
        let mut response = Response::new(ResponseBody::text(text.clone()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(ERROR, HeaderValue::from_static(self.code()));
        if !text.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        if matches!(self, Self::TooMany | Self::Share(_)) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<LimitReached> for ProxyError {
    fn from(_: LimitReached) -> Self {
        Self::TooMany
    }
}

impl From<GateError> for ProxyError {
    fn from(error: GateError) -> Self {
        match error {
            GateError::TooManyWaiting(_) => Self::TooMany,
            GateError::Terminated
            | GateError::Suspended
            | GateError::Launching
            | GateError::Timeout(_)
            | GateError::ResumeFailed(_) => Self::Microvm,
        }
    }
}

impl From<&ConnectError> for ProxyError {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::App(_) => Self::App,
            ConnectError::Guest(_) => Self::Microvm,
        }
    }
}
