//! Connections to apps.
//!
//! Each process of a microVM has its own connections, which are reused and end with the process. An app is reached over
//! plain HTTP/1.1. Requests with `X-aws-proxy-force-h2` and gRPC requests use HTTP/2 with prior knowledge. If the port
//! turns out to speak TLS, the connection uses HTTP/1.1 or HTTP/2 over TLS, with any certificate: the app is identified
//! by its microVM.
//!
//! * [`pool`] – the connections of each process and port
//! * [`scheme`] – whether a port speaks plain text or TLS
//! * [`dial`] – opens a connection; [`tls`] – the handshake with an app that speaks TLS
//! * [`wire`] – a connection, as the HTTP client sees it

mod dial;
mod pool;
mod scheme;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

use hyper::body::Body as _;

pub(super) use self::dial::Protocol;
pub(super) use self::pool::Upstreams;
use super::body::{Meter, RequestBody, Upload};

fn upload(meter: Meter, body: RequestBody) -> Upload {
    if body.is_end_stream() { Upload::nothing(meter) } else { Upload::body(meter, body) }
}
