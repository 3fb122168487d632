//! What a registry wants to see of whoever asks: the header `WWW-Authenticate`.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>, RFC 9110 section 11.6.1

use hyper::header::{GetAll, HeaderValue};

/// How a registry wants to be signed in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With a user and a password in each request.
    Basic,
    /// With a token of this server.
    Bearer {
        /// The server's URL.
        realm: String,
        service: Option<String>,
    },
}

impl Challenge {
    /// The challenge of an answer: that for a token, if there is one. None if the answer has no challenge that can be met.
    pub(super) fn of(headers: GetAll<'_, HeaderValue>) -> Option<Self> {
        let found: Vec<_> =
            headers.iter().filter_map(|value| value.to_str().ok()).filter_map(Self::parse).collect();
        let token = found.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        token.or(found.first()).cloned()
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim_start().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = rest;
        while let Some((name, value, after)) = parameter(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer { realm: realm?, service })
    }
}

/// The first parameter of a text – `name=value` or `name="value"` – and what is behind it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (name, rest) = text.split_once('=')?;
    let (name, rest) = (name.trim_end(), rest.trim_start());
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        let (value, after) = rest.split_at_checked(end)?;
        return Some((name, value.to_owned(), after));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (position, character) in quoted.char_indices() {
        match character {
            '"' if !escaped => return Some((name, value, quoted.get(position + 1..)?)),
            '\\' if !escaped => escaped = true,
            character => {
                value.push(character);
                escaped = false;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderMap, WWW_AUTHENTICATE};
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(headers.get_all(WWW_AUTHENTICATE))
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn challenges_of_registries_are_understood() {
        let docker = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\"";
        assert_eq!(of(&[docker]), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(of(&["Basic realm=\"x\"", docker]), of(&[docker]), "a token goes before a password");
        let spaced = "bearer  Realm = https://a.example/t , scope=\"repository:a:pull,push\", error=\"x\"";
        assert_eq!(of(&[spaced]), bearer("https://a.example/t", None));
        assert_eq!(of(&["Bearer realm=\"a\\\"b\""]), bearer("a\"b", None));
        assert_eq!(of(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        for none in ["Digest realm=\"x\"", "Bearer service=\"x\"", "Bearer realm=\"x", "Bearer", ""] {
            assert_eq!(of(&[none]), None, "{none}");
        }
        assert_eq!(of(&[]), None);
    }

    proptest! {
        #[test]
        fn any_text_comes_to_an_end(text in "\\PC{0,200}") {
            Challenge::parse(&text);
            Challenge::parse(&format!("Bearer {text}"));
        }
    }
}
