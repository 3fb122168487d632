//! Connections to apps.
//!
//! Each process of a microVM has its own connections, which are reused and end with the process. An app is reached over
//! plain HTTP/1.1. Requests with `X-aws-proxy-force-h2` and gRPC requests use HTTP/2 with prior knowledge. If the port
//! turns out to speak TLS, the connection uses HTTP/1.1 or HTTP/2 over TLS, with any certificate: the app is identified
//! by its microVM.
//!
//! * [`pool`] – the connections of each process and port
//! * [`scheme`] – what a port speaks; [`first`] – the first request to a port, which shows whether it speaks TLS
//! * [`dial`] – opens a connection; [`tls`] – the handshake with an app that speaks TLS
//! * [`wire`] – a connection, as the HTTP client sees it

mod dial;
mod first;
mod pool;
mod scheme;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

pub(super) use self::pool::Upstreams;
pub(super) use self::scheme::Protocol;
