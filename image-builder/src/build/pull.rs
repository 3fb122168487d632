//! Images that cannot be pulled: which, from where, and what to do.
//!
//! Programs that pull images say so in many ways. The image is taken from the step of the Dockerfile, or from the `docker://` in the
//! error, and the error's words decide between the few things that a reader can do.

use super::harmless::harmless;
use super::steps::Failure;

/// Most bytes of what the registry, or the way to it, said.
const WORDS: usize = 300;
/// Docker's registry, whose images need no registry in their names.
const DOCKER: &str = "docker.io";

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
    let pulled = error.split_once("docker://").map(|(_, rest)| {
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ')'));
        rest.get(..end.unwrap_or(rest.len())).unwrap_or_default().trim_end_matches(':')
    });
    let from = failure.step.as_ref().filter(|step| step.instruction().eq_ignore_ascii_case("FROM"));
    let named = from.and_then(|step| step.order.split(' ').skip(1).find(|word| !word.starts_with("--")));
    let image = named.or(pulled).filter(|image| !image.is_empty())?;
    let lower = error.to_ascii_lowercase();
    let cause = WORDINGS.iter().find(|(words, _)| lower.contains(words)).map(|(_, cause)| *cause)?;
    let step = failure.step.as_ref().map(|step| format!("{step}: ")).unwrap_or_default();
    let what = format!("{step}the image {image} cannot be pulled");
    let name = Name::of(image);
    if name.is_of_host() {
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

    /// Whether it has the prefix of container bases, which no registry has.
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
    use hearth_proto::guest::v1::LogSource;

    use super::super::steps::Output;
    use super::*;

    fn told(step: &str, error: &str, network: bool) -> Option<String> {
        let mut output = Output::default();
        output.line(LogSource::Stdout, step.as_bytes());
        output.line(LogSource::Stderr, error.as_bytes());
        let bases = ["hearth/debian:13".to_owned(), "hearth/python:3.13".to_owned()];
        explain(&output.failure(125), Sources { bases: &bases, network })
    }

    #[test]
    fn the_image_the_registry_and_what_to_do_are_told() {
        for (step, error, network, expected) in [
            (
                "STEP 1/2: FROM nosuch",
                "Error: creating build container: initializing source docker://nosuch:latest: reading manifest latest in \
                 docker.io/library/nosuch: requested access to the resource is denied",
                true,
                "Step 1/2 (FROM nosuch): the image nosuch cannot be pulled: docker.io has no such image, or not for everybody, and a \
                 FROM is pulled without a user: reading manifest latest in docker.io/library/nosuch: requested access to the \
                 resource is denied. A name without a registry is one of docker.io. This host's own are hearth/debian:13, \
                 hearth/python:3.13.",
            ),
            (
                "[1/2] STEP 1/2: FROM --platform=linux/arm64 r.example/team/app:9 AS build",
                "Error: creating build container: initializing source docker://r.example/team/app:9: reading manifest 9 in \
                 r.example/team/app: manifest unknown",
                true,
                "Step 1/2 of stage 1/2 (FROM --platform=linux/arm64 r.example/team/app:9 AS build): the image r.example/team/app:9 \
                 cannot be pulled: r.example has no such image or tag: reading manifest 9 in r.example/team/app: manifest unknown.",
            ),
            (
                "STEP 1/2: FROM r.example/app",
                "Error: creating build container: initializing source docker://r.example/app:latest: pinging container registry \
                 r.example: Get \"https://r.example/v2/\": dial tcp: lookup r.example on 127.0.0.53:53: no such host",
                true,
                "Step 1/2 (FROM r.example/app): the image r.example/app cannot be pulled: r.example cannot be reached from the \
                 build: lookup r.example on 127.0.0.53:53: no such host.",
            ),
            (
                "STEP 1/2: FROM debian:13",
                "Error: creating build container: initializing source docker://debian:13: pinging container registry \
                 registry-1.docker.io: Get \"https://registry-1.docker.io/v2/\": dial tcp: connect: network is unreachable",
                false,
                "Step 1/2 (FROM debian:13): the image debian:13 cannot be pulled: the build has no network (its egress connector is \
                 NO_EGRESS), so docker.io is not reached. A name without a registry is one of docker.io. This host's own are \
                 hearth/debian:13, hearth/python:3.13.",
            ),
            (
                "STEP 1/2: FROM hearth/debian:99",
                "Error: creating build container: initializing source docker://localhost/hearth/debian:99: pinging container \
                 registry localhost: Get \"http://localhost/v2/\": dial tcp [::1]:80: connect: connection refused",
                true,
                "Step 1/2 (FROM hearth/debian:99): the image hearth/debian:99 cannot be pulled: this host has no such container base. \
                 It has hearth/debian:13, hearth/python:3.13.",
            ),
            (
                "STEP 2/2: COPY --from=ghcr.io/a/b:1 /uv /",
                "Error: building at STEP \"COPY --from=ghcr.io/a/b:1 /uv /\": initializing source docker://ghcr.io/a/b:1: \
                 reading manifest 1 in ghcr.io/a/b: unauthorized: authentication required",
                true,
                "Step 2/2 (COPY --from=ghcr.io/a/b:1 /uv /): the image ghcr.io/a/b:1 cannot be pulled: ghcr.io has no such image, or \
                 not for everybody, and a FROM is pulled without a user: unauthorized: authentication required.",
            ),
        ] {
            assert_eq!(told(step, error, network).as_deref(), Some(expected), "{error}");
        }
    }

    #[test]
    fn other_failures_are_none_of_a_pull() {
        assert_eq!(
            told("STEP 2/2: RUN curl x", "Error: building at STEP \"RUN curl x\": exit status 6", true),
            None
        );
        assert_eq!(told("STEP 1/2: FROM a", "Error: something else", true), None);
        assert_eq!(
            told("STEP 2/2: COPY a /", "Error: building at STEP \"COPY a /\": copier: not found", true),
            None
        );
    }
}
