//! Clients of AWS: botocore, the library of the AWS CLI and of boto3, signs requests and reads answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::{Signed, protocol, sts};
use crate::access::sigv4::{Claim, Protocol};
use crate::access::{Access, AccessConfig};
use crate::service::pipeline::Incoming;
use crate::service::tests::{Host, configured};
use crate::service::{Profile, ServiceConfig};

const CONFIG: &str = r#"
    [[keys]]
    id = "AKIDEVELOPER"
    secret = "a/long+enough=secret"
    account = "111122223333"
    [roles."arn:aws:iam::111122223333:role/team/app"]
    policies = [{ actions = ["Get*"] }]
"#;

/// A request as the script describes it. Its target has no host, like that of a client.
fn received(line: &Value) -> (Parts, Bytes) {
    let text = |name: &str| line[name].as_str().unwrap();
    let url: hyper::Uri = text("url").parse().unwrap();
    let mut builder = Request::builder().method(text("method")).uri(url.path_and_query().unwrap().as_str());
    for header in line["headers"].as_array().unwrap() {
        builder = builder.header(header[0].as_str().unwrap(), header[1].as_str().unwrap());
    }
    let (mut parts, ()) = builder.body(()).unwrap().into_parts();
    // botocore's transport adds it.
    parts.headers.entry("host").or_insert(url.authority().unwrap().as_str().parse().unwrap());
    (parts, STANDARD.decode(text("body")).unwrap().into())
}

/// Answers like a listener: every service but STS with an empty document.
async fn answer(
    host: &Host,
    access: &Access,
    parts: Parts,
    body: Bytes,
) -> Response<http_body_util::Full<Bytes>> {
    let id = "an-id";
    let now = SystemTime::now();
    let claim = Claim::read(&parts).unwrap().unwrap();
    let verified = access
        .known(&claim, now)
        .and_then(|key| access.verified(&key, &claim, &parts, &body, false, id.to_owned()));
    let caller = match verified {
        Ok(caller) => caller,
        Err(error) => {
            assert_eq!(claim.service(), "sts", "{error}: {parts:?}");
            let (code, status) = error.exception(Protocol::Query);
            return protocol::refusal(Protocol::Query, id, status, code, &error.to_string());
        }
    };
    if claim.service() != "sts" {
        return Response::new(Bytes::from_static(b"{}").into());
    }
    let incoming = Incoming {
        caller: Ok(caller),
        request_id: id.to_owned(),
        address: "192.0.2.1".to_owned(),
        user_agent: String::new(),
        since: Instant::now(),
    };
    sts::answer(&host.service, Signed { incoming, parts, body }).await
}

#[tokio::test]
async fn botocore_signs_its_requests_and_reads_the_answers() {
    let config: AccessConfig = toml::from_str(CONFIG).unwrap();
    let service = ServiceConfig {
        role_policies: config.role_policies(),
        ..ServiceConfig::new("us-east-1", Profile::Default)
    };
    let host = configured(service, hearth_host::roles::RolesConfig::default()).await;
    let access = Access::new(&config, "us-east-1").unwrap().with_sessions(host.service.sessions().clone());

    // Debian's own Python, which finds the packages of Debian.
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-c").arg(include_str!("botocore.py"));
    command.args(["AKIDEVELOPER", "a/long+enough=secret", "arn:aws:iam::111122223333:role/team/app"]);
    let mut python = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut answers, requests) =
        (python.stdin.take().unwrap(), BufReader::new(python.stdout.take().unwrap()));
    let mut done = false;
    for line in requests.lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if !line["done"].is_null() {
            done = true;
            continue;
        }
        let (parts, body) = received(&line);
        let response = answer(&host, &access, parts, body).await;
        let status = response.status().as_u16();
        let headers: std::collections::BTreeMap<_, _> = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
            .collect();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        writeln!(answers, "{}", json!({"status": status, "headers": headers, "body": body})).unwrap();
    }
    assert!(
        python.wait().unwrap().success() && done,
        "python3-botocore fails; `cargo xtask test` installs it"
    );
}
