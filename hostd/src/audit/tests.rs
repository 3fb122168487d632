//! Tests of the audit log, read back from its file.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    Value as Field,
};
use serde_json::{Value, json};

use super::*;

fn clock() -> Clock {
    Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_786_817_864))
}

fn call(operation: &'static str) -> AuditEvent<'static> {
    AuditEvent {
        service: "lambda.amazonaws.com",
        operation,
        region: "eu-central-1",
        identity: Identity {
            account: Some("000000000001"),
            principal: Some("AKIAEXAMPLE"),
            access_key_id: Some("AKIAEXAMPLE"),
            role: None,
        },
        source: "192.0.2.7",
        user_agent: Some("hearth/0.1.0"),
        request_id: "4b2a0cc1-0000-4000-8000-000000000000",
        request: json!({"imageIdentifier": "web", "runHookPayload": "the payload"}),
        response: None,
        additional: Value::Null,
        error: None,
    }
}

/// The lines of a file of the log.
fn read(folder: &Path, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines that are written for `calls`.
async fn lines(config: AuditConfig, calls: Vec<AuditEvent<'_>>) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::open(folder.path(), config, clock()).unwrap();
    for call in calls {
        audit.record(call).done().await;
    }
    audit.flush().await;
    assert_eq!(audit.lost(), 0);
    read(folder.path(), "audit.jsonl")
}

#[tokio::test]
async fn a_call_has_a_line_with_the_names_of_cloudtrail() {
    let mut run = call("RunMicrovm");
    run.response = Some(json!({
        "microvmId": "microvm-1", "state": "PENDING", "endpoint": "e.example", "imageArn": "arn", "imageVersion": "1.0",
        "maximumDurationInSeconds": 28800, "startedAt": "2026-08-15T18:17:44Z",
    }));
    let [mut line] = lines(AuditConfig::default(), vec![run]).await.try_into().unwrap();
    let id = line.as_object_mut().unwrap().remove("eventID").unwrap();
    assert_eq!(id.as_str().unwrap().split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    let expected = json!({
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser", "accountId": "000000000001", "principalId": "AKIAEXAMPLE", "accessKeyId": "AKIAEXAMPLE",
        },
        "eventTime": "2026-08-15T18:17:44Z",
        "eventSource": "lambda.amazonaws.com",
        "eventName": "RunMicrovm",
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "192.0.2.7",
        "userAgent": "hearth/0.1.0",
        "requestParameters": {"imageIdentifier": "web", "runHookPayload": "***"},
        "responseElements": {
            "microvmId": "microvm-1", "microvmState": "PENDING", "endpoint": "e.example",
            "microvmImageArn": "arn", "microvmImageVersion": "1.0",
        },
        "requestID": "4b2a0cc1-0000-4000-8000-000000000000",
        "readOnly": false,
        "eventType": "AwsApiCall",
        "managementEvent": false,
        "recipientAccountId": "000000000001",
        "eventCategory": "Data",
    });
    assert_eq!(line, expected);
}

#[tokio::test]
async fn calls_are_told_apart_by_what_they_do_and_how_they_ended() {
    let mut update = call("UpdateMicrovmImage");
    update.response = Some(json!({"imageArn": "arn", "environmentVariables": {"A": "word"}}));
    let mut token = call("CreateMicrovmAuthToken");
    token.response = Some(json!({"authToken": {"X-aws-proxy-auth": "eyJ"}}));
    let mut read = call("GetMicrovm");
    read.response = Some(json!({"microvmId": "microvm-1"}));
    let mut refused = call("ListMicrovms");
    refused.error = Some(("AccessDeniedException", "no"));
    let lines = lines(AuditConfig::default(), vec![update, token, read, refused]).await;
    let of = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("eventCategory"), ["Management", "Data", "Management", "Management"]);
    assert_eq!(of("readOnly"), [false, false, true, true]);
    let image = json!({"microvmImageArn": "arn", "environmentVariables": {"A": "***"}});
    assert_eq!(of("responseElements"), [image, Value::Null, Value::Null, Value::Null]);
    assert_eq!(
        (&lines[3]["errorCode"], &lines[3]["errorMessage"]),
        (&json!("AccessDeniedException"), &json!("no"))
    );
    assert!(lines[0].get("errorCode").is_none());
}

#[tokio::test]
async fn a_session_is_audited_with_its_role_and_its_maker_and_without_its_secrets() {
    let mut assume = call("AssumeRole");
    assume.service = "sts.amazonaws.com";
    assume.response = Some(json!({
        "credentials": {"accessKeyId": "ASIA", "secretAccessKey": "hush", "sessionToken": "hush"},
    }));
    let mut list = call("ListMicrovms");
    let role = Role { arn: "arn:aws:iam::000000000001:role/app", maker: "AKIAEXAMPLE" };
    list.identity = Identity { access_key_id: Some("ASIA"), role: Some(role), ..list.identity };
    let lines = lines(AuditConfig::default(), vec![assume, list]).await;
    assert_eq!(lines[0]["eventSource"], "sts.amazonaws.com");
    let credentials = json!({"accessKeyId": "ASIA", "secretAccessKey": "***", "sessionToken": "***"});
    assert_eq!(lines[0]["responseElements"]["credentials"], credentials);
    let user = &lines[1]["userIdentity"];
    assert_eq!((&user["type"], &user["accessKeyId"]), (&json!("AssumedRole"), &json!("ASIA")));
    assert_eq!(user["sessionContext"]["sessionIssuer"]["arn"], "arn:aws:iam::000000000001:role/app");
    assert_eq!(user["sessionContext"]["sourceIdentity"], "AKIAEXAMPLE");
}

#[tokio::test]
async fn what_is_not_wanted_is_not_written_and_what_is_too_long_is_shortened() {
    let config = AuditConfig { reads: false, data_events: false, ..AuditConfig::default() };
    let calls = || vec![call("GetMicrovm"), call("RunMicrovm"), call("CreateMicrovmImage")];
    let written = lines(config, calls()).await;
    assert_eq!(written.len(), 1);
    assert_eq!(written[0]["eventName"], "CreateMicrovmImage");
    assert!(lines(AuditConfig { enabled: false, ..AuditConfig::default() }, calls()).await.is_empty());

    let mut long = call("CreateMicrovmImage");
    long.request = json!({"description": "x".repeat(1 << 20)});
    let agent = "y".repeat(5000);
    long.user_agent = Some(&agent);
    let written = lines(AuditConfig::default(), vec![long]).await;
    assert_eq!(written[0]["requestParameters"], json!({"omitted": "too large"}));
    assert!(written[0].to_string().len() < 3000);
}

#[tokio::test]
async fn a_line_that_cannot_be_written_is_counted_and_the_call_goes_on() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("audit");
    let audit = Audit::open(&folder, AuditConfig::default(), clock()).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "a file").unwrap();
    audit.record(call("RunMicrovm")).done().await;
    assert_eq!(audit.lost(), 1);
    fs::remove_file(&folder).unwrap();
    audit.record(call("RunMicrovm")).done().await;
    assert_eq!((audit.lost(), read(&folder, "audit.jsonl").len()), (1, 1));
}

#[tokio::test]
async fn unknown_callers_push_no_line_out_and_have_no_contents() {
    let folder = tempfile::tempdir().unwrap();
    let config = AuditConfig {
        max_file_bytes: 1 << 20,
        max_files: 1,
        max_unknown_bytes: 1 << 20,
        ..AuditConfig::default()
    };
    let audit = Audit::open(folder.path(), config, clock()).unwrap();
    audit.record(call("RunMicrovm")).done().await;
    let agent = "y".repeat(1024);
    for _ in 0..5000 {
        let mut refused = call("CreateMicrovmImage");
        refused.identity = Identity::default();
        refused.user_agent = Some(&agent);
        refused.error = Some(("AccessDeniedException", "no"));
        audit.record(refused).done().await;
    }
    audit.flush().await;
    let known = read(folder.path(), "audit.jsonl");
    assert_eq!((known.len(), &known[0]["eventName"]), (1, &json!("RunMicrovm")));
    let unknown = read(folder.path(), "unknown.jsonl");
    assert_eq!(unknown[0]["userIdentity"], json!({"type": "Unknown"}));
    assert_eq!(unknown[0]["requestParameters"], Value::Null);
    assert!(!fs::read_to_string(folder.path().join("unknown.jsonl")).unwrap().contains("the payload"));
    let sizes = ["unknown.jsonl", "unknown.1.jsonl"]
        .map(|name| fs::metadata(folder.path().join(name)).map_or(0, |file| file.len()));
    assert!(sizes.iter().sum::<u64>() <= 1 << 20, "{sizes:?}");
    assert_eq!((audit.lost(), fs::read_dir(folder.path()).unwrap().count() <= 3), (0, true));
}

#[tokio::test]
async fn an_account_whose_queue_is_full_waits_for_room_and_loses_nothing_and_no_other_waits() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::open(folder.path(), AuditConfig::default(), clock()).unwrap();
    let agent = "y".repeat(1000);
    let of = |account: &'static str| {
        let mut call = call("GetMicrovm");
        call.identity.account = Some(account);
        call.user_agent = Some(&agent);
        call
    };
    // Handed over faster than the thread can write: some of these wait for room.
    let many: Vec<_> = (0..2000).map(|_| audit.record(of("000000000001"))).collect();
    let other = audit.record(of("000000000002"));
    assert!(matches!(other.0, Step::Done), "it has room, and reads do not wait");
    for recorded in many {
        recorded.done().await;
    }
    audit.flush().await;
    assert_eq!((audit.lost(), read(folder.path(), "audit.jsonl").len()), (0, 2001));
}

#[tokio::test]
async fn what_was_answered_is_in_the_file_or_the_daemon_says_that_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::open(folder.path(), AuditConfig::default(), clock()).unwrap();
    for number in 1..=20 {
        audit.record(call("TerminateMicrovm")).done().await;
        // As a daemon that is killed now leaves it: nothing was flushed.
        assert_eq!(read(folder.path(), "audit.jsonl").len(), number);
    }
    // A client that has gone waits for no room: what does not fit is counted.
    let full: Vec<_> = (0..5000).map(|_| audit.record(call("GetMicrovm"))).collect();
    let waiting = full.iter().filter(|recorded| matches!(recorded.0, Step::Full { .. })).count();
    drop(full);
    audit.flush().await;
    let written = read(folder.path(), "audit.jsonl").len();
    assert_eq!(audit.lost(), u64::try_from(waiting).unwrap());
    assert_eq!(written, 20 + 5000 - waiting);
}

/// Fields that contain secrets. A new secret field of the API is added here, and the test shows whether it is redacted.
const SECRETS: [&str; 7] = [
    "hearth.microvms.v1.RunMicrovmRequest.run_hook_payload",
    "hearth.microvms.v1.CreateMicrovmImageRequest.environment_variables",
    "hearth.microvms.v1.UpdateMicrovmImageRequest.environment_variables",
    "hearth.microvms.v1.MicrovmImageDetails.environment_variables",
    "hearth.microvms.v1.MicrovmImageVersion.environment_variables",
    "hearth.microvms.v1.CreateMicrovmAuthTokenResponse.auth_token",
    "hearth.microvms.v1.CreateMicrovmShellAuthTokenResponse.auth_token",
];

/// The string in a field: a marker by which the test finds it again.
fn marker(field: &FieldDescriptor, secret: bool) -> String {
    format!(
        "<{}:{}>",
        if secret || SECRETS.contains(&field.full_name()) { "secret" } else { "open" },
        field.full_name()
    )
}

fn filled(message: &MessageDescriptor, secret: bool, depth: usize) -> DynamicMessage {
    let mut filled = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let secret = secret || SECRETS.contains(&field.full_name());
        let value = |field: &FieldDescriptor| match field.kind() {
            Kind::String => Some(Field::String(marker(field, secret))),
            Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => None,
            Kind::Message(inner) if depth < 6 => {
                Some(Field::Message(self::filled(&inner, secret, depth + 1)))
            }
            _ => None,
        };
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { continue };
            let inner = match entry.map_entry_value_field().kind() {
                Kind::String => Some(Field::String(marker(&field, secret))),
                _ => None,
            };
            inner.map(|inner| Field::Map([(MapKey::String("name".to_owned()), inner)].into()))
        } else if field.cardinality() == Cardinality::Repeated {
            value(&field).map(|element| Field::List(vec![element.clone(), element]))
        } else {
            value(&field)
        };
        if let Some(value) = value {
            filled.set_field(&field, value);
        }
    }
    filled
}

#[test]
fn no_secret_of_any_message_survives_and_nothing_else_is_lost() {
    let pool = DescriptorPool::decode(hearth_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut found = std::collections::BTreeSet::new();
    for message in pool.all_messages().filter(|message| message.package_name().starts_with("hearth.")) {
        let filled = filled(&message, false, 0);
        let original = serde_json::to_value(&filled).unwrap();
        let named = filled.serialize_with_options(
            serde_json::value::Serializer,
            &prost_reflect::SerializeOptions::new().use_proto_field_name(true),
        );
        for mut value in [original, named.unwrap()] {
            let before = value.to_string();
            found.extend(SECRETS.into_iter().filter(|secret| before.contains(&format!("<secret:{secret}>"))));
            redact(&mut value);
            let after = value.to_string();
            assert!(!after.contains("<secret:"), "{}: {after}", message.full_name());
            assert_eq!(
                before.matches("<open:").count(),
                after.matches("<open:").count(),
                "{}",
                message.full_name()
            );
            assert_eq!(before.matches("<secret:").count(), after.matches(REDACTED).count());
        }
    }
    assert_eq!(found, SECRETS.into(), "the messages of the API have all of these");
}
