//! Messages for the endpoint's own errors (docs/behaviour.md, "Errors of the endpoint").

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName};

/// Response header that only errors of the endpoint itself have, with a code.
pub(crate) const ERROR: HeaderName = HeaderName::from_static("x-aws-proxy-error");
/// The code for requests whose token is missing, expired, or for something else.
pub(crate) const UNAUTHORIZED: &str = "UNAUTHORIZED";
/// Characters of an error's text that are printed.
const TEXT: usize = 200;

/// Message: why the endpoint has not opened a shell for `id`, and what to do.
pub(crate) fn refusal(id: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let code = headers.get(ERROR).and_then(|code| code.to_str().ok()).unwrap_or_default();
    let why = match (status.as_u16(), code) {
        (_, "MICROVM_CONNECT_FAILED") => {
            format!("{id} cannot be reached; `hearth get {id}` says its state")
        }
        (_, "APP_CONNECT_FAILED") => {
            format!("nothing answers there in {id}; `hearth logs {id}` shows what its app wrote")
        }
        (401 | 403, _) => {
            format!(
                "the token was refused; look whether {id} was run with --ingress SHELL_INGRESS, and try again"
            )
        }
        (429, _) => format!("{id} has too many connections; close some, and try again"),
        (502..=504, _) => format!("{id} does not answer; `hearth get {id}` says its state"),
        (200..=399, _) => {
            "it does not speak WebSocket; look whether another server has taken its address".to_owned()
        }
        _ => "the daemon's own log says more".to_owned(),
    };
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().take(TEXT).collect();
    let details = [status.as_str(), code, text.as_str()];
    let details: Vec<_> = details.into_iter().filter(|detail| !detail.is_empty()).collect();
    format!("the endpoint opens no shell ({}): {why}", details.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: Option<&str>, body: &str) -> String {
        let mut headers = HeaderMap::new();
        if let Some(code) = code {
            headers.insert(ERROR, code.parse().unwrap());
        }
        refusal("microvm-1", StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn refusals_say_what_to_do() {
        assert_eq!(
            refused(403, Some("UNAUTHORIZED"), "Request missing authentication"),
            "the endpoint opens no shell (403 UNAUTHORIZED Request missing authentication): the token was refused; \
             look whether microvm-1 was run with --ingress SHELL_INGRESS, and try again"
        );
        let text = refused(502, Some("MICROVM_CONNECT_FAILED"), "");
        assert!(text.contains("(502 MICROVM_CONNECT_FAILED): microvm-1 cannot be reached"), "{text}");
        assert!(refused(502, None, "").contains("hearth get microvm-1"));
        assert!(refused(200, None, "<html>").contains("WebSocket"));
        assert!(refused(500, None, &"x".repeat(10_000)).len() < 400);
    }
}
