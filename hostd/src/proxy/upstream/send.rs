//! Sends a request to a port: once in most cases; again where that cannot do harm, and the app has closed a kept connection
//! or turns out to speak TLS (docs/architecture.md, "What a port speaks").

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::LOCATION;
use hyper::http::request::Parts;
use hyper::http::{Extensions, Uri};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Error;
use tokio::time::sleep;

use super::dial::handshake_failed;
use super::passed::Passed;
use super::port::Port;
use super::repeat::{self, causes};
use super::scheme::{PortScheme, Protocol, Speaks};
use crate::proxy::body::{Meter, RequestBody};
use crate::proxy::shares::Seat;
use crate::proxy::upload::{Source, Upload};

/// How long the body of the first request to a port is held back. TLS servers refuse plain text sooner.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a port that has never answered may be silent before it is asked whether it speaks TLS.
const SILENCE: Duration = Duration::from_secs(2);

/// A request on its way to a port.
pub(super) struct Sending<'a, M> {
    port: &'a Port,
    protocol: Protocol,
    head: Parts,
    body: Source,
    /// Makes the meters of attempts.
    meter: M,
    /// Whether the request may be executed twice.
    safe: bool,
    /// Whether the request has to have a connection of its own.
    alone: bool,
    tried: Tried,
}

/// What has been tried already. Each is tried once.
#[derive(Debug, Default)]
struct Tried {
    /// Whether it was found out what the port speaks.
    asked: bool,
    /// Whether the port was taken for one that speaks TLS, and is not any more.
    forgotten: bool,
    /// Whether the request was sent again because the app has closed a kept connection.
    repeated: bool,
}

impl<'a, M: Fn() -> Meter> Sending<'a, M> {
    /// `seat` counts what is kept of the body; without it nothing is.
    pub(super) fn new(
        port: &'a Port,
        protocol: Protocol,
        request: Request<RequestBody>,
        seat: Option<&Arc<Seat>>,
        meter: M,
    ) -> Self {
        let (mut head, body) = request.into_parts();
        // They are the client's connection's.
        head.extensions = Extensions::new();
        let safe = repeat::is_safe(&head);
        let body = Source::new(body, seat);
        // Many apps do not read the body of such a request, and would take it for the next request of the connection.
        let strange = !body.is_empty() && matches!(head.method, Method::GET | Method::HEAD);
        let alone = strange || !safe && port.closes();
        Self { port, protocol, head, body, meter, safe, alone, tried: Tried::default() }
    }

    /// Sends the request until there is an answer that is the client's.
    ///
    /// # Errors
    /// The app does not respond.
    pub(super) async fn send(mut self) -> Result<Response<Incoming>, Error> {
        let mut body = self.body.upload((self.meter)(), self.pause());
        loop {
            match self.attempt(body).await {
                Attempt::Over(answer) => {
                    self.body.settle();
                    return answer;
                }
                Attempt::Again(whole) => body = whole,
            }
        }
    }

    async fn attempt(&mut self, body: Upload) -> Attempt {
        let scheme = self.port.known.get();
        let request = Request::from_parts(self.head.clone(), body);
        let mut sent = self.port.client(self.protocol, self.alone).request(request);
        let answer = match scheme {
            Some(_) => sent.await,
            None => tokio::select! {
                biased;
                answer = &mut sent => answer,
                whole = self.silent() => return Attempt::Again(whole),
            },
        };
        if self.goes_again(scheme, &answer).await
            && let Some(whole) = self.again()
        {
            return Attempt::Again(whole);
        }
        Attempt::Over(answer)
    }

    fn pause(&self) -> Option<Duration> {
        self.port.known.get().is_none().then_some(PAUSE)
    }

    /// The body for a further attempt, if it is still whole.
    fn again(&self) -> Option<Upload> {
        self.body.again((self.meter)(), self.pause())
    }

    /// Asks a port that does not answer. Returns when it speaks TLS, and the request may be sent again though nobody knows
    /// whether the app is busy with it.
    async fn silent(&mut self) -> Upload {
        sleep(SILENCE).await;
        if self.speaks_tls().await
            && self.safe
            && let Some(whole) = self.again()
        {
            return whole;
        }
        std::future::pending().await
    }

    /// Whether the port turns out to speak TLS.
    async fn speaks_tls(&mut self) -> bool {
        if self.tried.asked {
            return false;
        }
        let speaks = self.port.known.ask(&self.port.dial, self.safe).await;
        self.tried.asked = true;
        speaks == Speaks::Tls
    }

    /// Whether the request has to be sent again after this answer, which it got from a port that was known to speak this.
    async fn goes_again(
        &mut self,
        scheme: Option<PortScheme>,
        answer: &Result<Response<Incoming>, Error>,
    ) -> bool {
        match answer {
            Ok(response) => {
                let first = Passed::of(response).is_some_and(Passed::answers);
                if scheme == Some(PortScheme::Tls) {
                    return false;
                }
                if first && is_doubtful(response, &self.head.uri) && self.speaks_tls().await {
                    return true;
                }
                if scheme.is_none() && self.port.known.get().is_none() {
                    self.port.known.found(PortScheme::Plain);
                }
                false
            }
            Err(error) if error.is_connect() => self.forgets(scheme, error).await,
            Err(error) if repeat::is_clients(error) => false,
            Err(error) => {
                let passed = Passed::of_failed(error);
                let untouched = repeat::is_untouched(error);
                let lost = |passed: &Passed| passed.has_answered() && passed.is_silent();
                if untouched || repeat::is_lost(error) && passed.as_ref().is_some_and(lost) {
                    return self.repeats(passed.is_some_and(|passed| !passed.is_http2()), untouched);
                }
                if scheme != Some(PortScheme::Tls) {
                    return self.speaks_tls().await;
                }
                self.port.known.forget().await;
                false
            }
        }
    }

    /// Whether another app listens at a port that has spoken TLS: nothing of the request was sent.
    async fn forgets(&mut self, scheme: Option<PortScheme>, error: &Error) -> bool {
        let failed = causes(error).filter_map(|cause| cause.downcast_ref()).any(handshake_failed);
        if scheme != Some(PortScheme::Tls) || !failed || self.tried.forgotten {
            return false;
        }
        self.tried.forgotten = true;
        self.port.known.forget().await;
        true
    }

    /// Whether a request goes to a new connection when the one that it was sent on has ended; `kept`: the app has closed it
    /// after other requests.
    fn repeats(&mut self, kept: bool, untouched: bool) -> bool {
        if kept {
            self.port.has_closed();
            self.alone = true;
        }
        !std::mem::replace(&mut self.tried.repeated, true) && (self.safe || untouched)
    }
}

/// What comes of an attempt.
enum Attempt {
    Over(Result<Response<Incoming>, Error>),
    /// The request goes again, with its whole body.
    Again(Upload),
}

/// Whether servers of TLS give such a response to plain text, for a request to `target`: 400, as most do, or a redirect to
/// itself with `https`.
fn is_doubtful<B>(response: &Response<B>, target: &Uri) -> bool {
    response.status() == StatusCode::BAD_REQUEST
        || response.status().is_redirection() && {
            let location = response.headers().get(LOCATION).map(|value| Uri::try_from(value.as_bytes()));
            location.and_then(Result::ok).is_some_and(|location| {
                location.scheme_str() == Some("https")
                    && location.host() == target.host()
                    && location.path_and_query() == target.path_and_query()
            })
        }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, TLS, World};
    use super::super::{Protocol, Upstreams};
    use super::*;

    #[tokio::test]
    async fn the_first_response_shows_the_scheme_of_a_port() {
        let world = World::new().await;
        let guest = world.guest().await;
        let upstream = Upstreams::default().of("microvm-1", &guest);
        for (port, scheme) in [(PLAIN, PortScheme::Plain), (TLS, PortScheme::Tls)] {
            assert_eq!(upstream.known_scheme(port), None);
            for _ in 0..2 {
                assert_eq!(world.get(&upstream, port, Protocol::Http1).await.unwrap(), 200);
                assert_eq!(upstream.known_scheme(port), Some(scheme));
            }
        }
    }

    #[test]
    fn a_bad_request_and_a_redirect_to_the_same_place_with_https_are_doubtful() {
        let target = Uri::from_static("http://one.example/a?b");
        for (status, location, doubtful) in [
            (400, "", true),
            (200, "", false),
            (404, "", false),
            (502, "", false),
            (301, "https://one.example/a?b", true),
            (308, "https://one.example:8443/a?b", true),
            (302, "https://one.example/", false),
            (302, "https://other.example/a?b", false),
            (302, "http://one.example/a?b", false),
            (302, "/a?b", false),
            (200, "https://one.example/a?b", false),
        ] {
            let response = Response::builder().status(status).header(LOCATION, location).body(()).unwrap();
            assert_eq!(is_doubtful(&response, &target), doubtful, "{status} {location}");
        }
    }
}
