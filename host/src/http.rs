//! Shared by the HTTP clients of this process: one TLS provider, and complete error messages.

use std::error::Error;

/// Makes ring the process's cryptography provider for TLS, which every HTTP client needs when it is made. Does nothing after the
/// first call, and keeps a provider that the program has chosen itself.
pub fn install_tls() {
    // An error means that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// An error with its causes, which HTTP clients leave out of their messages: `error sending request` alone does not explain much.
/// Causes whose text is already part of an error's own message are not repeated.
#[must_use]
pub fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// [`in_full`] for a client that could not be made, with advice where the cause is known.
#[must_use]
pub fn client_not_made(error: &dyn Error) -> String {
    let text = in_full(error);
    if text.contains("No CA certificates") {
        return format!("{text} (install Debian's package ca-certificates, or set ca_file)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_are_told_once() {
        let error = Layer(
            "sending: refused",
            Some(Box::new(Layer("refused", Some(Box::new(Layer("by all", None)))))),
        );
        assert_eq!(in_full(&error), "sending: refused: by all");
        let error = Layer("making it", Some(Box::new(Layer("No CA certificates were loaded", None))));
        assert!(client_not_made(&error).ends_with("or set ca_file)"));
    }
}
