//! Parses `ID[:PORT][/PATH]`: the target of a request.

use std::str::FromStr;

/// The port of requests that name none (docs/behaviour.md, "Ports").
const DEFAULT_PORT: u16 = 8080;

/// A port of a microVM, and a path there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Id of the microVM, or its beginning.
    pub(crate) id: String,
    pub(crate) port: u16,
    /// Begins with `/`; may have a query.
    pub(crate) path: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, path) = match text.find(['/', '?']) {
            Some(at) => text.split_at(at),
            None => (text, "/"),
        };
        if path.chars().any(|character| character.is_whitespace() || character.is_control()) {
            return Err("the path has white space: write %20 instead".to_owned());
        }
        let (id, port) = match address.split_once(':') {
            None => (address, DEFAULT_PORT),
            Some((id, port)) => (id, port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
        };
        if id.is_empty() || !id.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
        {
            return Err(wrong());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { id: id.to_owned(), port, path })
    }
}

fn wrong() -> String {
    "write ID, ID:PORT or ID:PORT/PATH, as in a1b2:8080/index.html; `hearth ps` lists ids".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_and_path_may_be_left_out() {
        let parsed = |text: &str| text.parse::<Target>().map(|target| (target.id, target.port, target.path));
        for (text, port, path) in [
            ("a1", 8080, "/"),
            ("a1:80", 80, "/"),
            ("a1/x:y/", 8080, "/x:y/"),
            ("a1:65535/x?y=/z", 65535, "/x?y=/z"),
            ("a1?q", 8080, "/?q"),
        ] {
            assert_eq!(parsed(text), Ok(("a1".to_owned(), port, path.to_owned())), "{text}");
        }
        for wrong in ["", ":80", "/x", "a1:", "a1:0", "a1:65536", "a1:80:80", "a 1", "a1/x y", "https://a1/"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
