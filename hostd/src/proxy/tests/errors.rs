//! Requests that the endpoint refuses.

use super::*;

fn error(status: u16, code: &str, text: &str) -> (u16, String, String) {
    (status, code.to_owned(), text.to_owned())
}

fn unauthenticated() -> (u16, String, String) {
    error(403, "UNAUTHORIZED", "Request missing authentication")
}

#[tokio::test]
async fn whoever_has_no_valid_token_for_the_microvm_learns_nothing() {
    let host = Host::new().await;
    let mint = |change: &dyn Fn(&mut Grant)| {
        let mut grant = Host::grant();
        change(&mut grant);
        host.tokens.mint(&grant).unwrap()
    };
    let good = host.token();
    let tampered = format!("{}A", &good[..good.len() - 1]);
    let tokens = [
        String::new(),
        "no token".to_owned(),
        if tampered == good { format!("{}B", &good[..good.len() - 1]) } else { tampered },
        mint(&|grant| grant.endpoint = format!("two.{DOMAIN}")),
        mint(&|grant| grant.minutes = 0),
    ];
    let mut client = host.http1().await;
    for token in tokens {
        let mut request = host.get("/count");
        request.headers_mut().insert("x-aws-proxy-auth", token.parse().unwrap());
        assert_eq!(refusal(client.send(request).await).await, unauthenticated(), "{token}");
    }
    let mut request = host.get("/count");
    request.headers_mut().remove("x-aws-proxy-auth");
    assert_eq!(refusal(client.send(request).await).await, unauthenticated());
    // The connection can still be used.
    assert_eq!(text(client.send(host.get("/count")).await).await, "0");
}

#[tokio::test]
async fn a_connection_is_for_the_host_that_it_was_opened_for() {
    let host = Host::new().await;
    let mut client = host.http1().await;
    for (name, expected) in [
        (
            format!("two.{DOMAIN}"),
            error(421, "BAD_REQUEST", "The connection is for another endpoint; open one for this endpoint"),
        ),
        ("example.com".to_owned(), unauthenticated()),
        (DOMAIN.to_owned(), unauthenticated()),
        (format!("one.two.{DOMAIN}"), unauthenticated()),
        (format!("user:password@one.{DOMAIN}"), error(400, "BAD_REQUEST", "Invalid Host")),
    ] {
        let mut request = host.get("/count");
        request.headers_mut().insert("host", name.parse().unwrap());
        assert_eq!(refusal(client.send(request).await).await, expected, "{name}");
    }
    let mut request = host.get("/count");
    request.headers_mut().insert("host", format!("ONE.{DOMAIN}:443").parse().unwrap());
    assert_eq!(text(client.send(request).await).await, "0", "a port and capitals make no difference");
}

#[tokio::test]
async fn a_port_is_a_number_that_the_token_allows() {
    let host = Host::new().await;
    let mut client = host.http2().await;
    for (port, expected) in [
        ("eighty", error(400, "BAD_REQUEST", "Invalid x-aws-proxy-port: eighty")),
        ("0", error(400, "BAD_REQUEST", "Invalid x-aws-proxy-port: 0")),
        ("7999", error(403, "UNAUTHORIZED", "Access to port denied")),
        ("8081", error(502, "APP_CONNECT_FAILED", "")),
    ] {
        let mut request = host.get("/count");
        request.headers_mut().insert("x-aws-proxy-port", port.parse().unwrap());
        assert_eq!(refusal(client.send(request).await).await, expected, "{port}");
    }
    let mut request = host.get("/count");
    request.headers_mut().insert("x-aws-proxy-port", "9000".parse().unwrap());
    assert_eq!(text(client.send(request).await).await, "0");
}

#[tokio::test]
async fn connect_is_refused() {
    let host = Host::new().await;
    let mut client = host.http1().await;
    let mut request = host.request("CONNECT", "/", nothing());
    *request.uri_mut() = format!("{}:443/", Host::name()).parse().unwrap_or_default();
    let request = Request::builder()
        .method("CONNECT")
        .uri(format!("{}:443", Host::name()))
        .header("host", Host::name())
        .header("x-aws-proxy-auth", host.token())
        .body(nothing())
        .unwrap();
    client.0.ready().await.unwrap();
    let response = client.0.send_request(request).await.unwrap();
    assert_eq!(refusal(response).await, error(400, "BAD_REQUEST", "CONNECT is not supported"));
}

#[tokio::test]
async fn what_has_ended_does_not_answer() {
    let host = Host::new().await;
    let mut client = host.http2().await;
    host.ask(Ask::Terminate).await;
    host.until(MicrovmState::Terminated).await;
    let expected = error(502, "MICROVM_CONNECT_FAILED", "");
    assert_eq!(refusal(client.send(host.get("/count")).await).await, expected);
    let mut request = host.get("/count");
    request.headers_mut().remove("x-aws-proxy-auth");
    assert_eq!(refusal(client.send(request).await).await, unauthenticated());
}

#[tokio::test]
async fn a_link_with_a_token_becomes_a_cookie_where_that_is_allowed() {
    let host = Host::with(Wish { browser_login: true, ..Wish::default() }).await;
    let mut client = host.http1().await;
    let link = format!("/headers?a=1&x-aws-proxy-auth={}&x-aws-proxy-port=9000&b=2", host.token());
    let mut request = host.get(&link);
    request.headers_mut().remove("x-aws-proxy-auth");
    let response = client.send(request).await;
    assert_eq!(response.status(), 303);
    assert_eq!(response.headers()["location"], format!("https://{}/headers?a=1&b=2", Host::name()));
    let cookies: Vec<String> = response
        .headers()
        .get_all("set-cookie")
        .iter()
        .map(|cookie| {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.ends_with("; Secure; HttpOnly; SameSite=Lax"), "{cookie}");
            cookie.split(';').next().unwrap().to_owned()
        })
        .collect();
    let mut request = host.get("/headers?a=1&b=2");
    request.headers_mut().remove("x-aws-proxy-auth");
    request.headers_mut().insert("cookie", format!("own=1; {}", cookies.join("; ")).parse().unwrap());
    let seen = text(client.send(request).await).await;
    assert!(seen.contains("\ncookie: own=1\n") && !seen.contains("hearth-token"), "{seen}");

    let strict = Host::new().await;
    let mut client = strict.http1().await;
    let mut request = strict.get(&format!("/headers?x-aws-proxy-auth={}", strict.token()));
    request.headers_mut().remove("x-aws-proxy-auth");
    assert_eq!(refusal(client.send(request).await).await, unauthenticated());
}

#[tokio::test]
async fn an_endpoint_takes_what_its_class_has_where_that_is_wanted() {
    let host = Host::with(Wish { limited: true, ..Wish::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = host.http2().await;
        assert_eq!(client.send(host.get("/count")).await.status(), 200);
        clients.push(client);
    }
    let expected = (429, "TOO_MANY_REQUESTS".to_owned(), String::new());
    assert_eq!(refusal(host.http2().await.send(host.get("/count")).await).await, expected);
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(clients[0].send(host.get("/count")).await.status().as_u16());
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn a_panic_ends_a_request_and_not_its_connection() {
    const PANICS: u16 = 9666;
    let host = Host::new().await;
    host.platform.always(Point::Connect(PANICS), Deviation::Panics);
    let (mut http1, mut http2) = (host.http1().await, host.http2().await);
    let expected =
        error(500, "INTERNAL_ERROR", "The endpoint has failed; the app may have received the request");
    for round in 0..3 {
        let request = || {
            let mut request = host.get("/count");
            request.headers_mut().insert("x-aws-proxy-port", PANICS.into());
            request
        };
        assert_eq!(refusal(http1.send(request()).await).await, expected);
        assert_eq!(refusal(http2.send(request()).await).await, expected);
        // The same connections can still be used.
        assert_eq!(text(http1.send(host.get("/count")).await).await, (2 * round).to_string());
        assert_eq!(text(http2.send(host.get("/count")).await).await, (2 * round + 1).to_string());
    }
}

#[tokio::test]
async fn a_microvm_that_is_not_reached_is_told_from_an_app_that_does_not_answer() {
    let host = Host::new().await;
    let (mut http1, mut http2) = (host.http1().await, host.http2().await);
    for (way, code) in [
        (Deviation::Fails("the agent is silent"), "MICROVM_CONNECT_FAILED"),
        // A connection whose other end is closed.
        (Deviation::Pretends, "APP_CONNECT_FAILED"),
    ] {
        host.platform.always(Point::Connect(8080), way.clone());
        assert_eq!(refusal(http1.send(host.get("/count")).await).await, error(502, code, ""), "{way:?}");
        assert_eq!(refusal(http2.send(host.get("/count")).await).await, error(502, code, ""), "{way:?}");
        host.platform.release(Point::Connect(8080));
    }
    assert_eq!(text(http1.send(host.get("/count")).await).await, "0");
    assert_eq!(text(http2.send(host.get("/count")).await).await, "1");
}

#[tokio::test]
async fn an_app_that_is_never_reached_holds_up_its_own_requests_only() {
    let host = Host::new().await;
    host.platform.world().ports.insert(8081, host.app.address);
    host.platform.always(Point::Connect(8081), Deviation::Hangs);
    let (mut http1, http2) = (host.http1().await, host.http2().await);
    let mut request = host.get("/count");
    request.headers_mut().insert("x-aws-proxy-port", "8081".parse().unwrap());
    let (mut hanging, other) = (http2.clone(), host.get("/count"));
    let waits = tokio::spawn(async move { hanging.send(request).await });
    host.platform.hung(Point::Connect(8081)).await;
    let gate = host.microvms.gate("microvm-1").unwrap();
    assert_eq!(text(http1.send(host.get("/count")).await).await, "0");
    assert_eq!(text(http2.clone().send(other).await).await, "1", "not even on the same connection");
    // A client that gives up waiting leaves nothing behind.
    waits.abort();
    host.when(|_| gate.counts() == (0, 0, 0)).await;
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
}
