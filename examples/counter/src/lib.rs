//! A counter over HTTP/1.1, HTTP/2, WebSocket and gRPC: what survives a snapshot can be seen with `curl`.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /` | how often it was asked: kept in memory |
//! | `GET /page` | a page that counts over a WebSocket |
//! | `GET /socket` | a WebSocket: each text message counts and is answered, each binary one comes back |
//! | `GET /events` | server-sent events: the count, whenever it has changed |
//! | gRPC `hearth.example.v1.Counter` | a call of each kind (`proto/counter.proto`), with reflection |
//! | `GET /loopback` | a byte goes round over a TCP connection that was opened at the start |
//! | `GET /run` | what `/run` was told |
//! | `GET /environment` | the environment |
//! | `GET /exit/N` | none: the program ends with status N |
//! | `POST /aws/lambda-microvms/runtime/v1/HOOK` | 200, or what the variable `HOOK_<NAME>` says: statuses to be answered in turn (the last one for ever), or `hang` |
//!
//! It says each call of a hook with its number: that is kept in memory, too, and goes on in the log of a microVM that was suspended and
//! resumed.
//!
//! * [`state`] – what it remembers; [`answer`] – plain requests; [`live`] – WebSocket and events; [`grpc`]

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
/// They cannot.
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
            // A client that goes away is no concern of ours.
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
