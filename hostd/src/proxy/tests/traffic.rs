//! Tests of requests and responses that are forwarded.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt as _, StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::*;

#[tokio::test]
async fn the_app_sees_the_clients_request_and_the_client_the_apps_answer() {
    let host = Host::new().await;
    let mut request = host.request("PUT", "/headers?a=%20b", full("body"));
    for (name, value) in [
        ("x-aws-proxy-port", "8080"),
        ("x-aws-proxy-other", "1"),
        ("x-forwarded-for", "6.6.6.6"),
        ("traceparent", "00-1"),
        ("connection", "x-private"),
        ("x-private", "1"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = host.http1().await.send(request).await;
    let id = response.headers()["x-amzn-requestid"].to_str().unwrap().to_owned();
    let mut seen: Vec<String> = text(response).await.lines().map(str::to_owned).collect();
    seen[1..].sort();
    let expected = [
        "PUT /headers?a=%20b HTTP/1.1".to_owned(),
        "content-length: 4".to_owned(),
        format!("host: {}", Host::name()),
        "traceparent: 00-1".to_owned(),
        format!("x-amzn-requestid: {id}"),
        "x-forwarded-for: 127.0.0.1".to_owned(),
    ];
    assert_eq!(seen, expected);
    // From a request over HTTP/2, the app receives the host as a header.
    let seen = text(host.http2().await.send(host.get("/headers")).await).await;
    assert!(seen.lines().any(|line| line == format!("host: {}", Host::name())), "{seen}");
    // A response of the app has none of the headers that only the endpoint sets.
    let response = host.http2().await.send(host.request("POST", "/echo", full("x"))).await;
    assert_eq!(response.headers().get("x-aws-proxy-error"), None);
}

#[tokio::test]
async fn connections_to_the_app_are_used_again() {
    // Each thread has its own connections to apps.
    let host = Host::with(Wish { threads: 1, ..Wish::default() }).await;
    let (mut one, two) = (host.http1().await, host.http2().await);
    for number in 0..20 {
        assert_eq!(text(one.send(host.get("/count")).await).await, (2 * number).to_string());
        assert_eq!(text(two.clone().send(host.get("/count")).await).await, (2 * number + 1).to_string());
    }
    assert_eq!(host.platform.world().connections[&8080], 1);
}

#[tokio::test]
async fn large_bodies_flow_both_ways() {
    const SIZE: usize = 64 << 20;
    let host = Host::new().await;
    let length = |response: Response<Incoming>| async {
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        length
    };
    let pieces = || {
        let pieces = stream::iter(0..SIZE / (1 << 16));
        let pieces = pieces.map(|_| Ok(Frame::data(Bytes::from_static(&[7; 1 << 16]))));
        BoxBody::new(StreamBody::new(pieces))
    };
    let path = format!("/zeros/{SIZE}");
    assert_eq!(length(host.http1().await.send(host.get(&path)).await).await, SIZE);
    assert_eq!(length(host.http2().await.send(host.get(&path)).await).await, SIZE);
    assert_eq!(length(host.http1().await.send(host.request("POST", "/echo", pieces())).await).await, SIZE);
    assert_eq!(length(host.http2().await.send(host.request("POST", "/echo", pieces())).await).await, SIZE);
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_been_read_reaches_the_client() {
    let host = Host::new().await;
    let endless = || {
        let pieces = stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[7; 1 << 14]))));
        BoxBody::new(StreamBody::new(pieces))
    };
    let response = host.http2().await.send(host.request("POST", "/early", endless())).await;
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (413, "too large"));
    let response = host.http1().await.send(host.request("POST", "/early", endless())).await;
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (413, "too large"));
}

#[tokio::test]
async fn what_a_client_sends_on_after_its_answer_is_read() {
    /// More than the windows of HTTP/2 and the buffers of sockets, and less than is read for nothing.
    const SIZE: usize = 7 << 20;
    const PIECE: &[u8] = &[7; 1 << 14];
    let host = Host::new().await;
    for http2 in [true, false] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let pieces = stream::iter(0..SIZE / PIECE.len()).map(move |_| {
            counted.fetch_add(PIECE.len(), Ordering::SeqCst);
            Ok(Frame::data(Bytes::from_static(PIECE)))
        });
        let request = host.request("POST", "/early", BoxBody::new(StreamBody::new(pieces)));
        let response = match http2 {
            true => host.http2().await.send(request).await,
            false => host.http1().await.send(request).await,
        };
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (413, "too large"));
        let all = host.when(|_| sent.load(Ordering::SeqCst) == SIZE);
        if tokio::time::timeout(LONG / 2, all).await.is_err() {
            panic!("{} of {SIZE} bytes, http2: {http2}", sent.load(Ordering::SeqCst));
        }
    }
}

#[tokio::test]
async fn an_answer_flows_as_it_comes() {
    let host = Host::new().await;
    let mut body = host.http2().await.send(host.get("/stream")).await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "part 0\n");
    host.app.go.add_permits(1);
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(second, "part 1\n");
    assert_eq!(body.collect().await.unwrap().to_bytes(), "", "that was all");
}

#[tokio::test]
async fn http2_with_the_app_has_trailers_and_both_directions_at_once() {
    let host = Host::new().await;
    let (sender, pieces) = tokio::sync::mpsc::channel(1);
    let body = BoxBody::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(pieces)));
    let mut request = host.request("POST", "/echo", body);
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    let mut answer = host.http2().await.send(request).await.into_body();
    for piece in ["one", "two"] {
        sender.send(Ok(Frame::data(Bytes::from(piece)))).await.unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
    }
    let trailers: hyper::HeaderMap =
        [(hyper::header::HeaderName::from_static("grpc-status"), "0".parse().unwrap())].into_iter().collect();
    sender.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
    drop(sender);
    assert_eq!(answer.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);

    let mut request = host.get("/headers");
    request.headers_mut().insert("x-aws-proxy-force-h2", "true".parse().unwrap());
    let seen = text(host.http1().await.send(request).await).await;
    assert!(seen.starts_with(&format!("GET http://{}/headers HTTP/2.0", Host::name())), "{seen}");
}

#[tokio::test]
async fn grpc_web_reaches_an_app_as_it_is() {
    let host = Host::new().await;
    for (content_type, version) in [
        ("application/grpc-web+proto", "HTTP/1.1"),
        ("application/grpc-web-text", "HTTP/1.1"),
        ("Application/gRPC-Web; charset=utf-8", "HTTP/1.1"),
        ("application/grpc; charset=utf-8", "HTTP/2.0"),
        ("APPLICATION/GRPC+PROTO", "HTTP/2.0"),
    ] {
        let request = || {
            let mut request = host.request("POST", "/headers", full("\0\0\0\0\0"));
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
            request
        };
        for seen in [host.http1().await.send(request()).await, host.http2().await.send(request()).await] {
            let seen = text(seen).await;
            assert!(
                seen.lines().next().is_some_and(|line| line.ends_with(version)),
                "{content_type}: {seen}"
            );
            assert!(seen.lines().any(|line| line == format!("content-type: {content_type}")), "{seen}");
        }
    }
}

#[tokio::test]
async fn an_app_that_speaks_tls_is_found_out_and_gets_the_whole_request() {
    let host = Host::new().await;
    for protocols in [vec![b"h2".to_vec()], vec![b"http/1.1".to_vec()], vec![]] {
        let (_, mut config, _) = certificate();
        config.alpn_protocols = protocols;
        let app = App::start_tls(config).await;
        let port = 8443 + u16::try_from(host.platform.world().ports.len()).unwrap();
        host.platform.world().ports.insert(port, app.address);
        let mut client = host.http2().await;
        for body in ["x".repeat(200_000), String::new(), "y".to_owned()] {
            let mut request = host.request("POST", "/echo", full(body.clone()));
            request.headers_mut().insert("x-aws-proxy-port", port.into());
            assert_eq!(text(client.send(request).await).await, body);
        }
        let mut request = host.get("/count");
        request.headers_mut().insert("x-aws-proxy-port", port.into());
        assert_eq!(text(client.send(request).await).await, "0");
    }
}

#[tokio::test]
async fn websockets_are_tunnelled_and_subprotocols_are_the_apps() {
    let host = Host::new().await;
    for (offered, chosen) in
        [("", Some("lambda-microvms")), (", other", Some("lambda-microvms")), (", chat", Some("chat"))]
    {
        let protocols = format!(
            "lambda-microvms, lambda-microvms.authentication.{}, lambda-microvms.port.8080{offered}",
            host.token()
        );
        let mut request = format!("wss://{}/chat", Host::name()).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        let stream = host.tls(&Host::name(), b"http/1.1").await;
        let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let found = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
        assert_eq!(found, chosen);
        for message in [Message::text("a"), Message::binary(vec![0; 300_000])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
    }
    // Without the platform's subprotocols, the token in the header is enough.
    let mut request = format!("wss://{}/chat", Host::name()).into_client_request().unwrap();
    request.headers_mut().insert("x-aws-proxy-auth", host.token().parse().unwrap());
    let stream = host.tls(&Host::name(), b"http/1.1").await;
    let (_, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers().get("sec-websocket-protocol"), None);
}
