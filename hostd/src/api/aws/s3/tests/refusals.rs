//! Requests that are refused: not signed right, of others, or for what this host does not have.

use super::*;

#[tokio::test]
async fn what_is_not_signed_right_does_nothing() {
    let client = Client::new().await;
    let wrong = Unsigned { secret: "another secret", ..request("PUT", "/artifacts/key", b"x") };
    client.send(wrong.signed()).await.is(403, "SignatureDoesNotMatch");
    for seconds in [310, 100_000] {
        let old = SystemTime::now() - Duration::from_secs(seconds);
        let old =
            client.send(Unsigned { time: old, ..request("PUT", "/artifacts/key", b"x") }.signed()).await;
        old.is(403, "RequestTimeTooSkewed");
    }
    let mut other_key = request("PUT", "/artifacts/key", b"x").signed();
    let header = other_key.headers()["authorization"].to_str().unwrap().replace(KEY, "AKIDOTHER");
    other_key.headers_mut().insert("authorization", header.parse().unwrap());
    client.send(other_key).await.is(403, "InvalidAccessKeyId");
    let mut added = request("PUT", "/artifacts/key", b"x").signed();
    added.headers_mut().insert("x-amz-meta-admin", "yes".parse().unwrap());
    client.send(added).await.is(403, "AccessDenied");
    let (parts, _) = request("PUT", "/artifacts/key", b"x").signed().into_parts();
    let other_body = Request::from_parts(parts, Full::new(Bytes::from_static(b"y")));
    let told = client.send(other_body).await;
    assert_eq!(told.status.as_u16(), 400, "{}", told.body);
    let anonymous = Request::put("/artifacts/key").body(Full::new(Bytes::from_static(b"x"))).unwrap();
    assert!(client.send(anonymous).await.status.is_client_error());
    let version_2 = [
        Request::get("/artifacts/key").header("authorization", "AWS AKIDEXAMPLE:c2lnbmF0dXJl"),
        Request::get("/artifacts/key?AWSAccessKeyId=AKIDEXAMPLE&Expires=9999999999&Signature=x"),
    ];
    for request in version_2 {
        client.send(request.body(Full::default()).unwrap()).await.is(400, "InvalidRequest");
    }
    let signed = request("GET", "/artifacts/key", b"").signed();
    let (signable, presigned) = (SignableBody::UnsignedPayload, true);
    let presigned = Unsigned { signable, presigned, ..request("GET", "/artifacts/key", b"") }.signed();
    let header = &signed.headers()["authorization"];
    let sent = |uri: &str, header: Option<&HeaderValue>| {
        let mut request = Request::get(uri).body(Full::default()).unwrap();
        request.headers_mut().insert("host", HeaderValue::from_static("s3.example:9000"));
        request.headers_mut().extend(header.map(|header| (AUTHORIZATION, header.clone())));
        client.send(request)
    };
    let uri = presigned.uri().to_string();
    sent(&uri, None).await.is(404, "NoSuchKey");
    sent(&uri, Some(header)).await.is(400, "InvalidRequest");
    for (plain, other) in [
        ("X-Amz-Signature=", "%58-Amz-Signature="),
        ("X-Amz-Algorithm=", "X-Amz-Algorith%6d="),
        ("X-Amz-SignedHeaders=", "X-Amz-Signed%48eaders="),
    ] {
        let uri = uri.replace(plain, other);
        assert!(uri.contains(other), "{uri}");
        sent(&uri, None).await.is(400, "InvalidRequest");
    }
    for name in [
        "X-Amz-Signature",
        "x-amz-signature",
        "signature",
        "awsaccesskeyid",
        "X-AMZ-ALGORITHM",
        "%53ignature",
    ] {
        let uri = format!("/artifacts/key?{name}=x");
        sent(&uri, Some(header)).await.is(400, "InvalidRequest");
    }
    let other = HeaderValue::from_bytes("AWS AKIDEXAMPLE\u{e9}:x".as_bytes()).unwrap();
    sent("/artifacts/key", Some(&other)).await.is(400, "InvalidRequest");
    for form in [
        "multipart/form-data; boundary=x",
        "Multipart/Form-Data; boundary=x",
        "MULTIPART/FORM-DATA; boundary=x",
        "multipart/form-data; boundary=x; name=\u{e9}",
        "Multipart/form-data; boundary=\u{e9}",
    ] {
        let mut request = request("POST", "/artifacts", b"--x--").signed();
        request.headers_mut().insert("content-type", HeaderValue::from_bytes(form.as_bytes()).unwrap());
        client.send(request).await.is(501, "NotImplemented");
    }
    client.call("GET", "/artifacts/key", b"").await.is(404, "NoSuchKey");
}

#[tokio::test]
async fn accounts_and_permissions_are_kept_apart() {
    let mut client = Client::new().await;
    client.call("PUT", "/artifacts/key", b"mine").await;
    client.caller = caller("999999999999", [Policy::everything()].into());
    client.call("GET", "/artifacts/key", b"").await.is(404, "NoSuchKey");
    assert!(client.call("GET", "/artifacts?list-type=2", b"").await.elements("Key").is_empty());
    client.call("DELETE", "/artifacts/key", b"").await;
    let reads =
        Policy { actions: vec!["Get*".into(), "List*".into()], images: vec!["*".into()], roles: None };
    client.caller = caller(ACCOUNT, [reads].into());
    assert_eq!(client.call("GET", "/artifacts/key", b"").await.body, "mine");
    client.call("PUT", "/artifacts/key", b"x").await.is(403, "AccessDenied");
    client.call("DELETE", "/artifacts/key", b"").await.is(403, "AccessDenied");
    client.call("POST", "/artifacts/key?uploads=", b"").await.is(403, "AccessDenied");
    client.caller = caller(ACCOUNT, [].into());
    client.call("GET", "/artifacts?list-type=2", b"").await.is(403, "AccessDenied");
    client.call("GET", "/", b"").await.is(403, "AccessDenied");
}

#[tokio::test]
async fn what_this_host_does_not_have_is_refused_by_name() {
    let client = Client::new().await;
    for (method, path, name) in [
        ("PUT", "/artifacts", "CreateBucket"),
        ("DELETE", "/artifacts", "DeleteBucket"),
        ("GET", "/artifacts?versions=", "ListObjectVersions"),
        ("GET", "/artifacts?uploads=", "ListMultipartUploads"),
        ("GET", "/artifacts/key?acl=", "GetObjectAcl"),
        ("POST", "/artifacts?delete=", "DeleteObjects"),
        ("PUT", "/artifacts/key?tagging=", "PutObjectTagging"),
    ] {
        // Its body is not looked at.
        let told = client.call(method, path, b"no XML").await;
        told.is(501, "NotImplemented");
        assert!(told.element("Message").unwrap().contains(name), "{}", told.body);
    }
    for (header, value) in [
        ("x-amz-acl", "public-read"),
        ("x-amz-storage-class", "GLACIER"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-grant-read", "id=1"),
        ("x-amz-object-lock-legal-hold", "ON"),
    ] {
        let told = client.call_with("PUT", "/artifacts/key", b"x", &[(header, value)]).await;
        told.is(501, "NotImplemented");
    }
    client.call("PUT", "/other/key", b"x").await.is(404, "NoSuchBucket");
    client.call("PUT", "/artifacts/key", &[0; 101]).await.is(400, "EntityTooLarge");
    client.call("PUT", &format!("/artifacts/{}", "k".repeat(1025)), b"x").await.is(400, "KeyTooLongError");
    let metadata = "m".repeat(70 << 10);
    client
        .call_with("PUT", "/artifacts/key", b"x", &[("x-amz-meta-a", &metadata)])
        .await
        .is(400, "MetadataTooLarge");
}
