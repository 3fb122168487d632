//! A counter over HTTP/1.1, HTTP/2, WebSocket and gRPC: it shows with `curl` what survives a snapshot.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /` | the number of requests so far, which is kept in memory |
//! | `GET /page` | a page that counts over a WebSocket |
//! | `GET /socket` | a WebSocket: each text message is counted and answered, each binary one is echoed |
//! | `GET /events` | server-sent events: the count, whenever it has changed |
//! | gRPC `hearth.example.v1.Counter` | one method of each kind (`proto/counter.proto`), with reflection |
//! | `GET /loopback` | sends a byte over a TCP connection to itself that was opened at the start |
//! | `GET /run` | the body of the `/run` hook |
//! | `GET /environment` | the environment |
//! | `GET /exit/N` | none: the program ends with status N |
//! | `POST /aws/lambda-microvms/runtime/v1/HOOK` | 200, or the value of the variable `HOOK_<NAME>`: statuses for successive calls (the last one repeats), or `hang` |
//!
//! It prints each call of a hook with a number, which is kept in memory, too, and continues in the log of a microVM that was suspended
//! and resumed.
//!
//! * [`state`] – the program's state; [`answer`] – plain requests; [`live`] – WebSocket and events; [`grpc`]

#![forbid(unsafe_code)]

mod answer;
mod grpc;
mod live;
mod state;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tonic::body::Body;

use grpc::Grpc;
use state::State;

/// Serves a new counter for as long as connections can be accepted.
///
/// # Errors
/// No connection can be accepted.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let state = Arc::new(State::new()?);
    let grpc = Grpc::new(&state).map_err(io::Error::other)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (state, grpc) = (Arc::clone(&state), grpc.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (state, grpc) = (Arc::clone(&state), grpc.clone());
                async move { Ok::<_, Infallible>(route(&state, grpc, request).await) }
            });
            let builder = Builder::new(TokioExecutor::new());
            // A client that closes the connection is no error.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn route(state: &Arc<State>, grpc: Grpc, request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return grpc.call(request).await;
    }
    match request.uri().path() {
        "/socket" => live::socket(state, request),
        "/events" => live::events(state),
        _ => answer::answer(state, request).await,
    }
}
