//! Which requests may be sent again when nobody knows whether the app has begun with them.

use std::error::Error;

use hyper::Method;
use hyper::http::HeaderName;
use hyper::http::request::Parts;

/// Headers with which a client says that a request may be repeated, whatever its method. Go's HTTP client knows both.
const KEYS: [HeaderName; 2] =
    [HeaderName::from_static("idempotency-key"), HeaderName::from_static("x-idempotency-key")];

/// Whether a request may be executed twice: "Request methods are considered 'idempotent' if the intended effect on the
/// server of multiple identical requests with that method is the same as the effect for a single such request. Of the
/// request methods defined by this specification, PUT, DELETE, and safe request methods are idempotent" (RFC 9110, section
/// 9.2.2).
pub(super) fn is_safe(request: &Parts) -> bool {
    let methods = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];
    methods.contains(&request.method) || KEYS.iter().any(|key| request.headers.contains_key(key))
}

/// Whether the app has said, in HTTP/2, that it has not begun with the request (RFC 9113, section 8.7).
pub(super) fn is_untouched(error: &(dyn Error + 'static)) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(|error| {
        error.is_remote()
            && match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) => true,
                Some(h2::Reason::NO_ERROR) => error.is_go_away(),
                _ => false,
            }
    })
}

/// Whether the connection has ended, and not one stream of it.
pub(super) fn is_lost(error: &(dyn Error + 'static)) -> bool {
    let mut streams = causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>());
    streams.all(|error| error.is_io() || error.is_go_away())
}

/// Whether the client, and not the app, is why a request has failed: its body has broken off.
pub(super) fn is_clients(error: &(dyn Error + 'static)) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_user)
}

/// An error and its causes.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn what_may_be_executed_twice_is_known_by_its_method_or_said_by_its_client() {
        let safe = |method: &str, header: &str| {
            let request = Request::builder().method(method).header(header, "");
            is_safe(&request.body(()).unwrap().into_parts().0)
        };
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(safe(method, "accept"), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "PROPFIND", "get"] {
            assert!(!safe(method, "accept"), "{method}");
            assert!(safe(method, "Idempotency-Key") && safe(method, "X-Idempotency-Key"), "{method}");
        }
    }
}
