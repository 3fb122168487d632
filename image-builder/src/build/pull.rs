//! Images that cannot be pulled: which, from where, and what to do.
//!
//! Programs that pull images say so in many ways. The image is taken from the step of the Dockerfile, or from the
//! error, and the error's words decide between the few things that a reader can do.

use hearth_model::text::harmless;

use super::progress::Failure;

/// Most bytes of what the registry, or the way to it, said.
const WORDS: usize = 300;
/// Docker's registry, whose images need no registry in their names.
const DOCKER: &str = "docker.io";

/// What BuildKit says of names that the policy of the container bases keeps from registries (`policy.json`).
const POLICY: &str = "denied by policy";

/// What is known of a build's images beside its output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources<'a> {
    /// The container bases of this host, like `hearth/debian:13`.
    pub(super) bases: &'a [String],
    /// Whether the build has a network.
    pub(super) network: bool,
}

/// Why an image cannot be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Unreachable,
    Unauthorized,
    Missing,
    RateLimit,
    OtherPlatform,
}

/// Words of errors, in lower case, with what they mean: the first that is found counts.
const WORDINGS: [(&str, Cause); 25] = [
    ("toomanyrequests", Cause::RateLimit),
    ("too many requests", Cause::RateLimit),
    ("no image found in image index for architecture", Cause::OtherPlatform),
    ("no image found in manifest list for architecture", Cause::OtherPlatform),
    ("no match for platform", Cause::OtherPlatform),
    ("no such host", Cause::Unreachable),
    ("server misbehaving", Cause::Unreachable),
    ("connection refused", Cause::Unreachable),
    ("connection reset", Cause::Unreachable),
    ("network is unreachable", Cause::Unreachable),
    ("no route to host", Cause::Unreachable),
    ("i/o timeout", Cause::Unreachable),
    ("deadline exceeded", Cause::Unreachable),
    ("timeout", Cause::Unreachable),
    ("x509:", Cause::Unreachable),
    ("tls:", Cause::Unreachable),
    ("unexpected eof", Cause::Unreachable),
    ("manifest unknown", Cause::Missing),
    ("name unknown", Cause::Missing),
    ("image not known", Cause::Missing),
    ("unauthorized", Cause::Unauthorized),
    ("authentication required", Cause::Unauthorized),
    ("denied", Cause::Unauthorized),
    ("forbidden", Cause::Unauthorized),
    ("not found", Cause::Missing),
];

/// The sentence for a failure to pull an image; none if the failure is another.
pub(super) fn explain(failure: &Failure, sources: Sources<'_>) -> Option<String> {
    let error = failure.error.as_str();
    let pulled = error.split_once("failed to resolve source metadata for ");
    let pulled = pulled.and_then(|(_, rest)| rest.split_once(": ")).map(|(image, _)| image);
    let from = failure.step.as_ref().filter(|step| step.instruction().eq_ignore_ascii_case("FROM"));
    let named = from.and_then(|step| step.order.split(' ').skip(1).find(|word| !word.starts_with("--")));
    let image = named.or(pulled).filter(|image| !image.is_empty())?;
    let lower = error.to_ascii_lowercase();
    let cause = WORDINGS.iter().find(|(words, _)| lower.contains(words)).map(|(_, cause)| *cause)?;
    let step = failure.step.as_ref().map(|step| format!("{step}: ")).unwrap_or_default();
    let what = format!("{step}the image {image} cannot be pulled");
    let name = Name::of(image);
    if name.is_of_host() || lower.contains(POLICY) {
        return Some(format!(
            "{what}: this host has no such container base. It has {}.",
            list(sources.bases)
        ));
    }
    let (registry, words) = (name.registry, harmless(last_words(error).as_bytes(), WORDS));
    let why = match cause {
        Cause::Unreachable if !sources.network => {
            format!(
                "the build has no network (its egress connector is NO_EGRESS), so {registry} is not reached."
            )
        }
        Cause::Unreachable => format!("{registry} cannot be reached from the build: {words}."),
        Cause::Unauthorized => {
            format!(
                "{registry} has no such image, or not for everybody, and a FROM is pulled without a user: {words}."
            )
        }
        Cause::Missing => format!("{registry} has no such image or tag: {words}."),
        Cause::RateLimit => {
            format!("{registry} limits how often images are pulled from this address: {words}.")
        }
        Cause::OtherPlatform => format!("{registry} does not have it for linux/arm64, which microVMs are."),
    };
    let hint = if name.is_short && cause != Cause::RateLimit && cause != Cause::OtherPlatform {
        format!(" A name without a registry is one of {DOCKER}. This host's own are {}.", list(sources.bases))
    } else {
        String::new()
    };
    Some(format!("{what}: {why}{hint}"))
}

/// An image's name in a Dockerfile.
struct Name<'a> {
    image: &'a str,
    registry: &'a str,
    /// Whether it names no registry.
    is_short: bool,
}

impl<'a> Name<'a> {
    /// Docker's rule: the first part is a registry if it has a dot or a colon, or is `localhost`.
    fn of(image: &'a str) -> Self {
        match image.split_once('/') {
            Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => {
                Self { image, registry: first, is_short: false }
            }
            _ => Self { image, registry: DOCKER, is_short: true },
        }
    }

    /// Whether it has the prefix of container bases, which is asked for at no registry.
    fn is_of_host(&self) -> bool {
        self.image.starts_with("hearth/") || self.image.starts_with("localhost/hearth/")
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The end of an error, which says why: the rest says what was tried, and repeats names.
fn last_words(error: &str) -> &str {
    let start = error.rmatch_indices(": ").nth(1).map_or(0, |(at, _)| at + 2);
    error.get(start..).unwrap_or(error).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::super::progress::Output;
    use super::*;

    /// What is told of a Dockerfile's line with this number, whose image cannot be pulled.
    fn told(line: &str, error: &str, network: bool) -> Option<String> {
        let mut output = Output::default();
        output.line(b"#2 [internal] load metadata for docker.io/library/x:latest");
        output.line(format!("#2 ERROR: {error}").as_bytes());
        output.line(format!("   1 | >>> {line}").as_bytes());
        output.line(format!("ERROR: failed to build: failed to solve: {error}").as_bytes());
        let bases = ["hearth/debian:13".to_owned(), "hearth/python:3.13".to_owned()];
        explain(&output.failure(1), Sources { bases: &bases, network })
    }

    #[test]
    fn the_image_the_registry_and_what_to_do_are_told() {
        for (line, error, network, expected) in [
            (
                "FROM nosuch",
                "nosuch: failed to resolve source metadata for docker.io/library/nosuch:latest: pull access denied, repository does \
                 not exist or may require authorization: server message: insufficient_scope: authorization failed",
                true,
                "Line 1 (FROM nosuch): the image nosuch cannot be pulled: docker.io has no such image, or not for everybody, and a \
                 FROM is pulled without a user: insufficient_scope: authorization failed. A name without a registry is one of \
                 docker.io. This host's own are hearth/debian:13, hearth/python:3.13.",
            ),
            (
                "FROM --platform=linux/arm64 r.example/team/app:9 AS build",
                "r.example/team/app:9: failed to resolve source metadata for r.example/team/app:9: r.example/team/app:9: not found",
                true,
                "Line 1 (FROM --platform=linux/arm64 r.example/team/app:9 AS build): the image r.example/team/app:9 cannot be \
                 pulled: r.example has no such image or tag: r.example/team/app:9: not found.",
            ),
            (
                "FROM r.example/app",
                "r.example/app: failed to resolve source metadata for r.example/app:latest: failed to do request: Head \
                 \"https://r.example/v2/app/manifests/latest\": dial tcp: lookup r.example on 169.254.53.53:53: no such host",
                true,
                "Line 1 (FROM r.example/app): the image r.example/app cannot be pulled: r.example cannot be reached from the \
                 build: lookup r.example on 169.254.53.53:53: no such host.",
            ),
            (
                "FROM debian:13",
                "debian:13: failed to resolve source metadata for docker.io/library/debian:13: failed to do request: Head \
                 \"https://registry-1.docker.io/v2/library/debian/manifests/13\": dial tcp: connect: network is unreachable",
                false,
                "Line 1 (FROM debian:13): the image debian:13 cannot be pulled: the build has no network (its egress connector is \
                 NO_EGRESS), so docker.io is not reached. A name without a registry is one of docker.io. This host's own are \
                 hearth/debian:13, hearth/python:3.13.",
            ),
            (
                "FROM hearth/debian:99",
                "hearth/debian:99: failed to resolve source metadata for docker.io/hearth/debian:99: could not resolve image due to \
                 policy: source \"docker-image://docker.io/hearth/debian:99\" denied by policy: source denied by policy",
                true,
                "Line 1 (FROM hearth/debian:99): the image hearth/debian:99 cannot be pulled: this host has no such container base. \
                 It has hearth/debian:13, hearth/python:3.13.",
            ),
            (
                "COPY --from=ghcr.io/a/b:1 /uv /",
                "ghcr.io/a/b:1: failed to resolve source metadata for ghcr.io/a/b:1: failed to authorize: failed to fetch anonymous \
                 token: unexpected status from GET request to https://ghcr.io/token: 403 Forbidden",
                true,
                "Line 1 (COPY --from=ghcr.io/a/b:1 /uv /): the image ghcr.io/a/b:1 cannot be pulled: ghcr.io has no such image, or \
                 not for everybody, and a FROM is pulled without a user: unexpected status from GET request to \
                 https://ghcr.io/token: 403 Forbidden.",
            ),
        ] {
            assert_eq!(told(line, error, network).as_deref(), Some(expected), "{error}");
        }
    }

    #[test]
    fn other_failures_are_none_of_a_pull() {
        assert_eq!(
            told(
                "RUN curl x",
                "process \"/bin/sh -c curl x\" did not complete successfully: exit code: 6",
                true
            ),
            None
        );
        assert_eq!(told("FROM a", "something else", true), None);
        assert_eq!(told("COPY a /", "failed to compute cache key: \"/a\": not found", true), None);
    }
}
