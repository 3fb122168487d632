//! A layer that finds out who calls, from the connection and the headers of a call.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::http::{Extensions, HeaderMap, Request};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tower::{Layer, Service};
use uuid::Uuid;

use super::panics::RequestId;
use crate::access::{Access, Origin, UnknownCaller, fingerprint};
use crate::service::pipeline::Incoming;

/// A layer that adds the [`Incoming`] call to the extensions of a request. It refuses nobody: calls of unknown callers
/// are audited, which [`crate::service`] does.
#[derive(Debug, Clone)]
pub(super) struct Identifies(pub(super) Arc<Access>);

impl<S> Layer<S> for Identifies {
    type Service = Identified<S>;

    fn layer(&self, inner: S) -> Identified<S> {
        Identified { inner, access: Arc::clone(&self.0) }
    }
}

/// A service whose requests have their [`Incoming`] call.
#[derive(Debug, Clone)]
pub(super) struct Identified<S> {
    inner: S,
    access: Arc<Access>,
}

impl<S: Service<Request<A>>, A> Service<Request<A>> for Identified<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> S::Future {
        let incoming = identify(&self.access, request.headers(), request.extensions());
        request.extensions_mut().insert(incoming);
        self.inner.call(request)
    }
}

fn identify(access: &Access, headers: &HeaderMap, extensions: &Extensions) -> Incoming {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let new = || Uuid::new_v4().to_string();
    let request_id = extensions.get::<RequestId>().map_or_else(new, |id| id.0.clone());
    let origin = origin(extensions);
    let address = origin.as_ref().map(Origin::address).unwrap_or_default();
    let caller = origin.ok_or(UnknownCaller::NoOrigin);
    let caller =
        caller.and_then(|origin| access.identify(&origin, text("authorization"), request_id.clone()));
    let user_agent = text("user-agent").unwrap_or_default().to_owned();
    Incoming { caller, request_id, address, user_agent, since: Instant::now() }
}

/// Where a connection comes from; `None` if that is unknown.
fn origin(extensions: &Extensions) -> Option<Origin> {
    if let Some(socket) = extensions.get::<UdsConnectInfo>() {
        // Without credentials of the peer, the caller is unknown.
        return Some(Origin::Socket(socket.peer_cred?.uid()));
    }
    let address =
        |info: &TcpConnectInfo| info.remote_addr().map(|address| address.to_string()).unwrap_or_default();
    if let Some(info) = extensions.get::<TlsConnectInfo<TcpConnectInfo>>() {
        let certificate =
            info.peer_certs().and_then(|chain| chain.first().map(|first| fingerprint(first.as_ref())));
        return Some(Origin::Network { address: address(info.get_ref()), certificate });
    }
    let info = extensions.get::<TcpConnectInfo>()?;
    Some(Origin::Network { address: address(info), certificate: None })
}
