//! Whole requests and their responses, without a connection.

use std::time::Instant;

use bytes::Bytes;
use hearth_proto::microvms::v1 as proto;
use http_body_util::BodyExt as _;
use hyper::Request;
use serde_json::{Value, json};

use super::super::super::Signed;
use super::super::super::listen::tests::stand::{OTHER, Stand};
use super::super::answer;
use crate::builds::tests::double::ACCOUNT;
use crate::service::Profile;
use crate::service::pipeline::Incoming;

const BASE: &str = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";

fn arn(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:{ACCOUNT}:microvm-image:{name}")
}

/// A response: status, exception, body.
#[derive(Debug, PartialEq)]
struct Told(u16, Option<String>, Value);

impl Stand {
    async fn ask_as(&self, account: &str, method: &str, path: &str, body: &[u8]) -> Told {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let incoming = Incoming {
            caller: Ok(Self::caller(account)),
            request_id: "id".into(),
            address: "local".into(),
            user_agent: String::new(),
            since: Instant::now(),
        };
        let (parts, ()) = request.into_parts();
        let signed = Signed { incoming, parts, body: Bytes::copy_from_slice(body) };
        let response = answer(&self.service, signed).await;
        let status = response.status().as_u16();
        let exception = response.headers().get("x-amzn-errortype");
        let exception = exception.map(|name| name.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = match body.first() {
            None => Value::Null,
            Some(b'<') => Value::String(String::from_utf8(body.to_vec()).unwrap()),
            Some(_) => serde_json::from_slice(&body).unwrap(),
        };
        Told(status, exception, body)
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Told {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask_as(ACCOUNT, method, path, body.as_bytes()).await
    }

    async fn image(&self, name: &str) {
        let Told(status, exception, body) =
            self.ask("POST", "/2025-09-09/microvm-images", create(name)).await;
        assert_eq!((status, exception), (201, None), "{body}");
        self.daemon.idle().await;
    }
}

fn create(name: &str) -> Value {
    json!({
        "name": name,
        "baseImageArn": BASE,
        "buildRoleArn": "arn:aws:iam::123456789012:role/build",
        "codeArtifact": { "uri": "s3://bucket/app.zip" },
        "environmentVariables": { "NAME": "value" },
        "hooks": { "port": 8080, "microvmHooks": { "run": "ENABLED" }, "microvmImageHooks": { "ready": "ENABLED" } },
    })
}

fn refused(status: u16, exception: &str, message: &str) -> Told {
    Told(status, Some(exception.to_owned()), json!({ "message": message }))
}

#[tokio::test]
async fn an_image_is_built_and_a_microvm_lives() {
    let stand = Stand::new(Profile::Default).await;
    let Told(status, _, created) = stand.ask("POST", "/2025-09-09/microvm-images", create("demo")).await;
    assert_eq!(
        (status, &created["state"], &created["imageVersion"]),
        (201, &json!("CREATING"), &json!("1.0"))
    );
    assert_eq!(created["resources"], json!([{ "minimumMemoryInMiB": 2048 }]));
    assert!(created["createdAt"].is_number() && created.get("tags").is_none(), "{created}");
    stand.daemon.idle().await;
    let encoded = arn("demo").replace(':', "%3A");
    let path = format!("/2025-09-09/microvm-images/{encoded}/versions/1.0");
    let Told(_, _, version) = stand.ask("GET", &path, Value::Null).await;
    assert_eq!((&version["state"], &version["status"]), (&json!("SUCCESSFUL"), &json!("ACTIVE")));
    let Told(_, _, builds) = stand.ask("GET", &format!("{path}/builds?maxResults=1"), Value::Null).await;
    let id = builds["items"][0]["buildId"].as_str().unwrap().to_owned();
    let Told(_, _, build) = stand.ask("GET", &format!("{path}/builds/{id}"), Value::Null).await;
    assert_eq!(build["snapshotBuild"]["codeInstallSizeInBytes"], json!(77));

    let run =
        json!({ "imageIdentifier": arn("demo"), "runHookPayload": "{}", "logging": { "disabled": {} } });
    let Told(status, _, microvm) = stand.ask("POST", "/2025-09-09/microvms", run).await;
    assert_eq!((status, &microvm["state"]), (200, &json!("PENDING")), "{microvm}");
    assert_eq!(microvm["maximumDurationInSeconds"], json!(28800));
    let started = microvm["startedAt"].to_string();
    assert!(started.split('.').nth(1).is_none_or(|digits| digits.len() <= 3), "{started}");
    let id = microvm["microvmId"].as_str().unwrap();
    for _ in 0..2 {
        let done = stand.ask("DELETE", &format!("/2025-09-09/microvms/{id}"), Value::Null).await;
        assert_eq!(done, Told(200, None, json!({})));
    }
    let tags = format!("/2017-03-31/tags/{encoded}");
    assert_eq!(stand.ask("GET", &tags, Value::Null).await, Told(200, None, json!({ "Tags": {} })));
    let tag = json!({ "Tags": { "a": "1", "b": "2" } });
    assert_eq!(stand.ask("POST", &tags, tag).await, Told(204, None, Value::Null));
    assert_eq!(
        stand.ask("DELETE", &format!("{tags}?tagKeys=a"), Value::Null).await,
        Told(204, None, Value::Null)
    );
    assert_eq!(stand.ask("GET", &tags, Value::Null).await, Told(200, None, json!({ "Tags": { "b": "2" } })));
}

#[tokio::test]
async fn sentences_are_those_of_aws() {
    let stand = Stand::new(Profile::Default).await;
    stand.image("demo").await;
    let validation = |message: &str| refused(400, "ValidationException", message);
    let post = |body| stand.ask("POST", "/2025-09-09/microvm-images", body);
    let mut wrong = create("bad name!");
    wrong["codeArtifact"] = Value::Null;
    let Told(_, _, body) = post(wrong).await;
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with("2 validation errors detected: "), "{message}");
    for part in [
        "Value 'bad name!' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+",
        "Value null at 'codeArtifact' failed to satisfy constraint: Member must not be null",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let mut other = create("other");
    other["cpuConfigurations"] = json!([{ "architecture": "MIPS" }]);
    other["additionalOsCapabilities"] = json!(["ALL"]);
    assert_eq!(
        post(other.clone()).await,
        validation(
            "1 validation error detected: Value 'MIPS' at 'cpuConfigurations.1.member.architecture' failed to satisfy \
             constraint: Member must satisfy enum value set: [ARM_64, X86_64]"
        )
    );
    other["cpuConfigurations"] = json!([{ "architecture": "X86_64" }]);
    assert_eq!(
        post(other.clone()).await,
        validation(&format!(
            "The requested CPU architecture X86_64 is not supported by base MicroVM image {BASE}. \
             Supported CPU architectures are: [ARM_64]."
        ))
    );
    other["cpuConfigurations"] = Value::Null;
    other["kmsKeyIdentifier"] = json!("alias/mine");
    let no_keys = "The kmsKeyIdentifier cannot be used because this host has no key provider";
    assert_eq!(post(other).await, validation(no_keys));
    let run = |body| stand.ask("POST", "/2025-09-09/microvms", body);
    assert_eq!(run(json!({ "imageIdentifier": "demo", "kmsKeyIdentifier": "a" })).await, validation(no_keys));
    let secret = "s3cret".repeat(4000);
    let Told(_, _, body) = run(json!({ "imageIdentifier": "demo", "runHookPayload": secret })).await;
    assert_eq!(
        body["message"],
        "1 validation error detected: Value at 'runHookPayload' failed to satisfy constraint: \
         Member must have length less than or equal to 16384"
    );
    let mut variables = create("other");
    variables["environmentVariables"] = json!({ "a b": "s3cret" });
    let Told(_, _, body) = post(variables).await;
    assert!(!body.to_string().contains("s3cret"), "{body}");

    let not_found = |kind: &str, id: &str, message: &str| {
        let body = json!({ "message": message, "resourceType": kind, "resourceId": id });
        Told(404, Some("ResourceNotFoundException".into()), body)
    };
    let gone = stand.ask("GET", "/2025-09-09/microvms/microvm-1", Value::Null).await;
    assert_eq!(gone, not_found("Microvm", "microvm-1", "MicroVM not found: microvm-1"));
    let path = format!("/2025-09-09/microvm-images/{}/versions/1.0", arn("none"));
    let gone = stand.ask("GET", &path, Value::Null);
    let message = format!("MicroVMImage not found for MicroVMImage: {}, Version: 1.0", arn("none"));
    assert_eq!(gone.await, not_found("MicrovmImageVersion", &format!("{}:1.0", arn("none")), &message));
    let query = format!("/2025-09-09/microvms?imageIdentifier={}", arn("demo"));
    let Told(status, exception, _) = stand.ask_as(OTHER, "GET", &query, b"").await;
    assert_eq!((status, exception.as_deref()), (403, Some("AccessDeniedException")));
    let Told(status, exception, body) = stand.ask("GET", "/2017-03-31/tags/arn%3Ax", Value::Null).await;
    assert_eq!((status, exception.as_deref()), (400, Some("InvalidParameterValueException")));
    assert_eq!(body["Type"], "User");
}

#[tokio::test]
async fn bounds_that_aws_has_not_have_its_sentence_over_both_protocols() {
    let stand = Stand::new(Profile::Default).await;
    let processor = proto::CpuConfiguration { architecture: Some(proto::Architecture::Arm64.into()) };
    let known = proto::CreateMicrovmImageRequest {
        name: Some("demo".into()),
        base_image_arn: Some(BASE.into()),
        build_role_arn: Some("arn:aws:iam::123456789012:role/build".into()),
        code_artifact: Some(proto::CodeArtifact {
            artifact: Some(proto::code_artifact::Artifact::Uri("s3://bucket/app.zip".into())),
        }),
        ..Default::default()
    };
    let capability = proto::Capability::All.into();
    for (member, value, request, told, most) in [
        (
            "description",
            json!("d".repeat(4097)),
            proto::CreateMicrovmImageRequest { description: Some("d".repeat(4097)), ..known.clone() },
            format!("Value '{}…'", "d".repeat(256)),
            4096,
        ),
        (
            "cpuConfigurations",
            json!(vec![json!({ "architecture": "ARM_64" }); 17]),
            proto::CreateMicrovmImageRequest { cpu_configurations: vec![processor; 17], ..known.clone() },
            "Value".to_owned(),
            16,
        ),
        (
            "additionalOsCapabilities",
            json!(vec!["ALL"; 65]),
            proto::CreateMicrovmImageRequest {
                additional_os_capabilities: vec![capability; 65],
                ..known.clone()
            },
            format!("Value '[{}…'", "ALL, ".repeat(51)),
            64,
        ),
    ] {
        let message = format!(
            "1 validation error detected: {told} at '{member}' failed to satisfy constraint: \
             Member must have length less than or equal to {most}"
        );
        let mut body = create("demo");
        body[member] = value;
        let answer = stand.ask("POST", "/2025-09-09/microvm-images", body).await;
        assert_eq!(answer, refused(400, "ValidationException", &message));
        let incoming = Incoming {
            caller: Ok(Stand::caller(ACCOUNT)),
            request_id: "id".into(),
            address: "local".into(),
            user_agent: String::new(),
            since: Instant::now(),
        };
        // What gRPC has as its status.
        let error = stand.service.call(&incoming, request).await.unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[tokio::test]
async fn another_account_learns_nothing() {
    for profile in [Profile::Default, Profile::AwsStrict] {
        let stand = Stand::new(profile).await;
        stand.image("demo").await;
        for (method, path) in [
            ("GET", "/2025-09-09/microvm-images/ARN"),
            ("DELETE", "/2025-09-09/microvm-images/ARN"),
            ("GET", "/2025-09-09/microvm-images/ARN/versions"),
            ("GET", "/2025-09-09/microvm-images/ARN/versions/1.0"),
            ("DELETE", "/2025-09-09/microvm-images/ARN/versions/1.0"),
            ("GET", "/2025-09-09/microvm-images/ARN/versions/1.0/builds"),
            ("GET", "/2017-03-31/tags/ARN"),
            ("GET", "/2025-09-09/microvms?imageIdentifier=ARN"),
        ] {
            let ask = async |name: &str| {
                let path = path.replace("ARN", &arn(name).replace(':', "%3A"));
                let Told(status, exception, body) = stand.ask_as(OTHER, method, &path, b"").await;
                Told(status, exception, body.to_string().replace(&arn(name), "ARN").into())
            };
            let (there, absent) = (ask("demo").await, ask("nothing").await);
            assert_eq!(there, absent, "{method} {path}");
            assert_eq!((there.0, there.1.as_deref()), (403, Some("AccessDeniedException")), "{path}");
        }
        let Told(status, ..) =
            stand.ask("GET", &format!("/2025-09-09/microvm-images/{}", arn("demo")), Value::Null).await;
        assert_eq!(status, 200, "nothing was removed");
    }
}

#[tokio::test]
async fn the_strict_profile_has_sentences_of_its_own() {
    let stand = Stand::new(Profile::AwsStrict).await;
    stand.image("demo").await;
    let Told(status, exception, body) = stand.ask("GET", "/2017-03-31/tags/arn%3Ax", Value::Null).await;
    assert_eq!((status, exception.as_deref()), (400, Some("InvalidParameterValueException")));
    let message = body["message"].as_str().unwrap();
    let told = "1 validation error detected: Value 'arn:x' at 'Resource' failed to satisfy constraint: \
                Member must satisfy regular expression pattern: arn:(aws";
    assert!(message.starts_with(told), "{message}");
    let validation = |message: &str| refused(400, "ValidationException", message);
    let run = |body| stand.ask("POST", "/2025-09-09/microvms", body);
    let logged = json!({ "imageIdentifier": arn("demo"), "logging": { "cloudWatch": { "logGroup": "g" } } });
    assert_eq!(run(logged).await, validation("Logging cannot be enabled without providing executionRoleArn"));
    let Told(status, _, microvm) = run(json!({ "imageIdentifier": arn("demo") })).await;
    assert_eq!(status, 200);
    let image = format!("/2025-09-09/microvm-images/{}", arn("demo"));
    let used = stand.ask("DELETE", &image, Value::Null).await;
    assert_eq!(used, validation("Cannot delete microvm image with running microvms."));
    let path = format!("/2025-09-09/microvms/{}", microvm["microvmId"].as_str().unwrap());
    stand.ask("DELETE", &path, Value::Null).await;
    loop {
        let Told(_, _, microvm) = stand.ask("GET", &path, Value::Null).await;
        if microvm["state"] == "TERMINATED" {
            break;
        }
        tokio::task::yield_now().await;
    }
    let Told(status, _, deleted) = stand.ask("DELETE", &image, Value::Null).await;
    assert_eq!((status, &deleted["state"]), (200, &json!("DELETING")));
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_as_recorded() {
    let stand = Stand::new(Profile::Default).await;
    let raw = async |body: &[u8]| stand.ask_as(ACCOUNT, "POST", "/2025-09-09/microvms", body).await;
    for unparsable in [&b"{"[..], b"\xff", b"{\"imageIdentifier\": \xff}"] {
        assert_eq!(raw(unparsable).await, Told(400, None, json!({ "message": null })));
    }
    let told = raw(b"{\"imageIdentifier\": 1}").await;
    let expected = json!({ "Message": "Expected a string" });
    assert_eq!(told, Told(400, Some("SerializationException".into()), expected));
    let told = stand.ask("GET", "/2025-09-09/microvms?nextToken=a=", Value::Null).await;
    assert_eq!(told, Told(400, None, json!({ "message": null })));
    let told = stand.ask("GET", "/2025-09-09/microvm-images/arn:x:microvm-image/demo", Value::Null).await;
    assert!(
        matches!(&told, Told(404, None, Value::String(page)) if page.contains("404 Not Found")),
        "{told:?}"
    );
    let unknown = "Unable to determine service/operation name to be authorized";
    for (method, path) in [("GET", "/"), ("PATCH", "/2025-09-09/microvms"), ("GET", "/2015-03-31/functions")]
    {
        let told = stand.ask(method, path, Value::Null).await;
        assert_eq!(told, refused(403, "AccessDeniedException", unknown), "{method} {path}");
    }
    let told = stand.ask("GET", "/2026-04-04/network-connectors/nc-1", Value::Null).await;
    let body = json!({ "Type": "User", "Message": "Network connector not found: nc-1" });
    assert_eq!(told, Told(404, Some("ResourceNotFoundException".into()), body));
}
