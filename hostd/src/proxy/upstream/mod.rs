//! Connections to apps.
//!
//! Each process of a microVM has its own connections, which are reused and end with the process. An app is reached over
//! plain HTTP/1.1. Requests with `X-aws-proxy-force-h2` and gRPC requests use HTTP/2 with prior knowledge. If the port
//! turns out to speak TLS, the connection uses HTTP/1.1 or HTTP/2 over TLS, with any certificate: the app is identified
//! by its microVM.
//!
//! * [`pool`] – the ports of each process; [`port`] – the connections to a port
//! * [`send`] – sends a request, and again where it has to be; [`repeat`] – which requests may be sent again
//! * [`scheme`] – what a port speaks; [`question`] – asks a port whether it speaks TLS
//! * [`dial`] – opens a connection; [`tls`] – the handshake with an app that speaks TLS
//! * [`wire`] – a connection, as the HTTP client sees it; [`passed`] – what has passed on it

mod dial;
mod passed;
mod pool;
mod port;
mod question;
mod repeat;
mod scheme;
mod send;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

pub(super) use self::pool::Upstreams;
pub(super) use self::scheme::Protocol;
