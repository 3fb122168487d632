//! Answers plain requests.

use std::env;
use std::fs;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tonic::body::Body;

use crate::state::{HookAnswer, State};

const HOOKS: &str = "/aws/lambda-microvms/runtime/v1/";
const PAGE: &str = include_str!("page.html");
/// Longest body that is read, in bytes.
const BODY_MAX: usize = 1 << 20;

/// Answers a request.
pub(crate) async fn answer(state: &State, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some(hook) = path.strip_prefix(HOOKS).filter(|_| head.method == Method::POST) {
        let body = Limited::new(body, BODY_MAX).collect().await;
        let body =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        return match state.hook(hook, body) {
            HookAnswer::Status(status) => text(status, String::new()),
            HookAnswer::Hangs => std::future::pending().await,
        };
    }
    if let Some(status) = path.strip_prefix("/exit/") {
        println!("counter: exiting with {status}");
        std::process::exit(status.parse().unwrap_or(1));
    }
    match path {
        "/" => text(200, format!("request {} of this microVM's life\n", state.count())),
        "/page" => {
            let mut page = text(200, PAGE.to_owned());
            page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            page
        }
        "/loopback" => match state.round() {
            Ok(round) => text(200, format!("round {round} over the same connection\n")),
            Err(error) => text(500, format!("the connection is gone: {error}\n")),
        },
        "/run" => text(200, state.run()),
        "/environment" => text(200, env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()),
        "/machine" => text(200, machine()),
        _ => text(404, "no such page\n".to_owned()),
    }
}

/// The host name, the machine id and the seconds for which the machine has run, as far as there are files with them.
fn machine() -> String {
    let files = ["/proc/sys/kernel/hostname", "/etc/machine-id", "/proc/uptime"];
    let words = files.map(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().unwrap_or("-").to_owned()
    });
    words.join(" ") + "\n"
}

/// A status with a text.
pub(crate) fn text(status: u16, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
