//! A panic ends a call, but not the daemon.

use std::convert::Infallible;

use bytes::Bytes;
use hearth_proto::host::v1::GetHostStatusRequest;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use hyper::http;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::{Layer as _, Service as _, service_fn};

use super::super::panics::EndsCalls;
use super::*;

#[tokio::test]
async fn a_handler_that_panics_is_answered_and_told_of_like_other_failures() {
    let server = server().await;
    let mut client = HostServiceClient::new(server.channel.clone());
    for _ in 0..3 {
        server.host.outside.panics.store(true, Ordering::Relaxed);
        let status = client.get_host_status(GetHostStatusRequest::default()).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Internal, "InternalServerException".into()));
        assert!(!status.message().contains("on purpose"), "{}", status.message());
        let id = status.metadata().get(REQUEST_ID).unwrap().to_str().unwrap().to_owned();
        let seen = server.host.outside.observed.last();
        assert_eq!((seen.operation, seen.request_id), (Operation::GetHostStatus, id));
        assert_eq!(seen.exception, Some("InternalServerException"));
        // The connection can still be used.
        server.host.outside.panics.store(false, Ordering::Relaxed);
        client.get_host_status(GetHostStatusRequest::default()).await.unwrap();
    }
}

type Answer = http::Response<tonic::body::Body>;

async fn ask(
    handler: impl Fn() -> Result<Answer, Infallible> + Clone + Send + 'static,
    sudden: bool,
) -> Answer {
    let service = service_fn(move |_: http::Request<()>| {
        let answer = if sudden { Some(handler()) } else { None };
        let handler = handler.clone();
        async move { answer.unwrap_or_else(handler) }
    });
    EndsCalls.layer(service).call(http::Request::new(())).await.unwrap()
}

#[tokio::test]
async fn a_panic_outside_of_operations_is_answered_too() {
    for sudden in [true, false] {
        let answer = ask(|| panic!("on purpose"), sudden).await;
        assert_eq!(answer.headers()["grpc-status"], "13");
        assert!(answer.headers().contains_key(REQUEST_ID));
    }
}

struct Breaks(bool);

impl Body for Breaks {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        assert!(!self.0, "on purpose");
        self.0 = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"first")))))
    }
}

#[tokio::test]
async fn an_answer_that_panics_ends_with_a_status() {
    let answer = ask(|| Ok(http::Response::new(tonic::body::Body::new(Breaks(false)))), false).await;
    let collected = answer.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "13");
    assert!(collected.trailers().unwrap().contains_key(REQUEST_ID));
    assert_eq!(collected.to_bytes(), "first");
}
