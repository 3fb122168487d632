//! Requests as clients of AWS send them, on logs on disk.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt as _;
use hyper::Request;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::access::{Caller, Policy};
use crate::builds::tests::double::ACCOUNT;
use crate::logs::{Line, Source};
use crate::service::tests::{Host, caller, limited};
use crate::service::{Limits, Profile};

const GROUP: &str = "/aws/lambda-microvms/web";

/// A host, and requests of a caller.
struct Client {
    host: Host,
    caller: Caller,
    now: SystemTime,
}

impl Client {
    async fn new() -> Self {
        let host = limited(Profile::Default, Limits::default()).await;
        let now = host.clock.now();
        Self { host, caller: caller(ACCOUNT, [Policy::everything()].into()), now }
    }

    /// Writes a line that is `age` old.
    fn write(&self, group: &str, stream: &str, age: Duration, message: &str) {
        let writer = self.host.outside.logs.writer(ACCOUNT, group, stream).unwrap();
        let timestamp = self.now - age;
        let line = Line { timestamp, source: Source::Stdout, sequence: 0, message: message.as_bytes() };
        writer.append(line).unwrap();
    }

    /// Writes a line to each of two streams in turn, a second apart.
    fn write_ten(&self) {
        for index in 0..10 {
            let stream = ["2026/11/29[1.0]a", "2026/11/29[1.0]b"][index % 2];
            let age = Duration::from_secs(100 - u64::try_from(index).unwrap());
            self.write(GROUP, stream, age, &format!("line {index}"));
        }
    }

    async fn send(&self, target: &str, body: &[u8]) -> (u16, Value) {
        let request = Request::post("/").header("x-amz-target", target).body(()).unwrap();
        let incoming = Incoming {
            caller: Ok(self.caller.clone()),
            request_id: "id".into(),
            address: "local".into(),
            user_agent: String::new(),
            since: Instant::now(),
        };
        let signed = Signed { incoming, parts: request.into_parts().0, body: Bytes::copy_from_slice(body) };
        let response = answer(&self.host.service, signed).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/x-amz-json-1.1");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn call(&self, action: &str, body: Value) -> Value {
        let (status, answer) =
            self.send(&format!("Logs_20140328.{action}"), body.to_string().as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The exception's name and message.
    async fn refused(&self, action: &str, body: Value) -> (String, String) {
        let (status, answer) =
            self.send(&format!("Logs_20140328.{action}"), body.to_string().as_bytes()).await;
        assert_eq!(status, 400, "{answer}");
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        (text("__type"), text("message"))
    }
}

fn millis(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn messages(answer: &Value) -> Vec<&str> {
    answer["events"].as_array().unwrap().iter().map(|event| event["message"].as_str().unwrap()).collect()
}

/// The values of a member of each item.
fn all<'a>(answer: &'a Value, list: &str, member: &str) -> Vec<&'a str> {
    answer[list].as_array().unwrap().iter().map(|item| item[member].as_str().unwrap()).collect()
}

#[tokio::test]
async fn groups_are_described_page_by_page() {
    let client = Client::new().await;
    for group in ["/a", "/aws/lambda-microvms/web", "/b"] {
        client.write(group, "s", Duration::from_secs(1), "line");
    }
    let whole = client.call("DescribeLogGroups", json!({})).await;
    assert_eq!(all(&whole, "logGroups", "logGroupName"), ["/a", GROUP, "/b"]);
    let group = &whole["logGroups"][1];
    assert_eq!(group["logGroupArn"], format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{GROUP}"));
    assert_eq!(group["arn"], format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{GROUP}:*"));
    assert_eq!((&group["logGroupClass"], &group["retentionInDays"]), (&json!("STANDARD"), &json!(14)));
    assert!(group["storedBytes"].as_i64().unwrap() > 0 && group["creationTime"].as_i64().unwrap() > 0);
    assert!(whole.get("nextToken").is_none());

    let first = client.call("DescribeLogGroups", json!({ "limit": 2 })).await;
    assert_eq!(all(&first, "logGroups", "logGroupName"), ["/a", GROUP]);
    let rest = client.call("DescribeLogGroups", json!({ "limit": 2, "nextToken": first["nextToken"] })).await;
    assert_eq!(all(&rest, "logGroups", "logGroupName"), ["/b"]);
    for (body, expected) in [
        (json!({ "logGroupNamePrefix": "/a" }), vec!["/a", GROUP]),
        (json!({ "logGroupNamePattern": "microvms" }), vec![GROUP]),
        (json!({ "logGroupNamePattern": "Microvms" }), vec![]),
        (json!({ "logGroupNamePattern": "", "logGroupClass": "STANDARD" }), vec!["/a", GROUP, "/b"]),
        (json!({ "logGroupClass": "DELIVERY" }), vec![]),
    ] {
        let found = client.call("DescribeLogGroups", body.clone()).await;
        assert_eq!(all(&found, "logGroups", "logGroupName"), expected, "{body}");
    }
    let empty = client.send("Logs_20140328.DescribeLogGroups", b"").await;
    assert_eq!(empty.1["logGroups"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn streams_are_described_by_name_and_by_their_last_event() {
    let client = Client::new().await;
    for (age, stream) in [(10, "b"), (30, "a"), (20, "c")] {
        client.write(GROUP, stream, Duration::from_secs(age), "line");
    }
    for (order, descending, expected) in [
        ("LogStreamName", false, ["a", "b", "c"]),
        ("LogStreamName", true, ["c", "b", "a"]),
        ("LastEventTime", false, ["a", "c", "b"]),
        ("LastEventTime", true, ["b", "c", "a"]),
    ] {
        let mut body =
            json!({ "logGroupName": GROUP, "orderBy": order, "descending": descending, "limit": 2 });
        let first = client.call("DescribeLogStreams", body.clone()).await;
        body["nextToken"] = first["nextToken"].clone();
        let second = client.call("DescribeLogStreams", body).await;
        let names = [&first, &second].map(|page| all(page, "logStreams", "logStreamName")).concat();
        assert_eq!(names, expected);
    }
    let body = json!({ "logGroupIdentifier": format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{GROUP}:*"),
        "logStreamNamePrefix": "b" });
    let found = client.call("DescribeLogStreams", body).await;
    let stream = &found["logStreams"][0];
    let at = millis(client.now - Duration::from_secs(10));
    assert_eq!((&stream["firstEventTimestamp"], &stream["lastEventTimestamp"]), (&json!(at), &json!(at)));
    assert_eq!(stream["arn"], format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{GROUP}:log-stream:b"));
}

#[tokio::test]
async fn events_of_a_stream_are_read_in_both_directions_and_tokens_stay_at_the_ends() {
    let client = Client::new().await;
    for index in 0..5 {
        client.write(GROUP, "s", Duration::from_secs(50 - index), &format!("line {index}"));
    }
    let get = async |more: Value| {
        let mut body = json!({ "logGroupName": GROUP, "logStreamName": "s", "limit": 2 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.call("GetLogEvents", body).await
    };
    // Without `startFromHead` the last events come first, in order of time.
    let last = get(json!({})).await;
    assert_eq!(messages(&last), ["line 3", "line 4"]);
    let at = millis(client.now - Duration::from_secs(47));
    assert_eq!(last["events"][0], json!({ "timestamp": at, "message": "line 3", "ingestionTime": at }));
    let before = get(json!({ "nextToken": last["nextBackwardToken"] })).await;
    assert_eq!(messages(&before), ["line 1", "line 2"]);
    let first = get(json!({ "nextToken": before["nextBackwardToken"], "startFromHead": true })).await;
    assert_eq!(messages(&first), ["line 0"], "the token says the direction");
    let begin = get(json!({ "nextToken": first["nextBackwardToken"] })).await;
    assert!(messages(&begin).is_empty());
    assert_eq!(begin["nextBackwardToken"], first["nextBackwardToken"]);

    // From the head to the end, as SDKs' users do: until the token stays.
    let (mut seen, mut token) = (Vec::new(), Value::Null);
    loop {
        let more =
            if token.is_null() { json!({ "startFromHead": true }) } else { json!({ "nextToken": token }) };
        let page = get(more).await;
        seen.extend(messages(&page).into_iter().map(str::to_owned));
        if page["nextForwardToken"] == token {
            break;
        }
        token = page["nextForwardToken"].clone();
    }
    assert_eq!(seen, ["line 0", "line 1", "line 2", "line 3", "line 4"]);
    client.write(GROUP, "s", Duration::ZERO, "later");
    let later = get(json!({ "nextToken": token })).await;
    assert_eq!(messages(&later), ["later"], "the token at the end leads to what is written later");

    let (start, end) =
        (millis(client.now - Duration::from_secs(49)), millis(client.now - Duration::from_secs(47)));
    let part = get(json!({ "startTime": start, "endTime": end, "startFromHead": true })).await;
    assert_eq!(messages(&part), ["line 1", "line 2"], "endTime is exclusive");
}

#[tokio::test]
async fn events_of_a_group_are_filtered() {
    let client = Client::new().await;
    client.write_ten();
    client.write(GROUP, "other", Duration::from_secs(1), r#"{"level": "error", "ms": 700}"#);
    let filter = async |more: Value| {
        let mut body = json!({ "logGroupName": GROUP });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.call("FilterLogEvents", body).await
    };
    let whole = filter(json!({})).await;
    assert_eq!((messages(&whole).len(), &whole["searchedLogStreams"]), (11, &json!([])));
    assert!(all(&whole, "events", "eventId").is_sorted_by(|one, next| one < next));
    assert!(all(&whole, "events", "eventId").iter().all(|id| id.len() == 56));
    assert_eq!(whole["events"][1]["logStreamName"], "2026/11/29[1.0]b", "streams are interleaved");
    for (more, expected) in [
        (json!({ "filterPattern": "\"line 7\"" }), vec!["line 7"]),
        (json!({ "filterPattern": "?\"line 7\" ?\"line 8\"" }), vec!["line 7", "line 8"]),
        (json!({ "filterPattern": "[word, n >= 8]" }), vec!["line 8", "line 9"]),
        (
            json!({ "filterPattern": "{ $.level = \"error\" && $.ms > 500 }" }),
            vec![r#"{"level": "error", "ms": 700}"#],
        ),
        (json!({ "logStreamNames": ["2026/11/29[1.0]b"], "limit": 2 }), vec!["line 1", "line 3"]),
        (json!({ "logStreamNamePrefix": "2026/11/29[1.0]a", "limit": 1 }), vec!["line 0"]),
        (
            json!({ "startTime": millis(client.now - Duration::from_secs(98)),
                    "endTime": millis(client.now - Duration::from_secs(96)) }),
            vec!["line 2", "line 3", "line 4"],
        ),
        (json!({ "startTime": i64::MAX }), vec![]),
        (
            json!({ "endTime": i64::MAX, "filterPattern": "9", "unmask": true, "interleaved": true }),
            vec!["line 9"],
        ),
    ] {
        assert_eq!(messages(&filter(more.clone()).await), expected, "{more}");
    }
    let (mut seen, mut token) = (Vec::new(), Value::Null);
    loop {
        let page = filter(json!({ "limit": 3, "nextToken": token })).await;
        seen.extend(all(&page, "events", "eventId").into_iter().map(str::to_owned));
        token = page["nextToken"].clone();
        if token.is_null() {
            break;
        }
    }
    assert_eq!(seen, all(&whole, "events", "eventId"));
}

#[tokio::test]
async fn refusals_have_the_names_and_sentences_of_cloudwatch() {
    let client = Client::new().await;
    client.write_ten();
    let missing = |what: &str| {
        ("ResourceNotFoundException".to_owned(), format!("The specified log {what} does not exist."))
    };
    let none = json!({ "logGroupName": "/none", "logStreamName": "s" });
    for action in ["DescribeLogStreams", "GetLogEvents", "FilterLogEvents"] {
        assert_eq!(client.refused(action, none.clone()).await, missing("group"));
    }
    for foreign in [
        "arn:aws:logs:us-east-1:999999999999:log-group:/aws/lambda-microvms/web",
        &format!("arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:{GROUP}"),
        "arn:aws:s3:::bucket",
    ] {
        let body = json!({ "logGroupIdentifier": foreign });
        assert_eq!(client.refused("FilterLogEvents", body).await, missing("group"), "{foreign}");
    }
    let body = json!({ "logGroupName": GROUP, "logStreamName": "none" });
    assert_eq!(client.refused("GetLogEvents", body).await, missing("stream"));
    let body = json!({ "logGroupName": GROUP, "logStreamNames": ["none"] });
    assert_eq!(client.refused("FilterLogEvents", body).await, missing("stream"));

    for (action, body, word) in [
        (
            "DescribeLogGroups",
            json!({ "limit": 51 }),
            "at 'limit' failed to satisfy constraint: Member must have value less than or equal to 50",
        ),
        ("DescribeLogGroups", json!({ "logGroupNamePrefix": "" }), "at 'logGroupNamePrefix' failed"),
        (
            "DescribeLogGroups",
            json!({ "logGroupNamePrefix": "a", "logGroupNamePattern": "b" }),
            "mutually exclusive",
        ),
        (
            "DescribeLogGroups",
            json!({ "includeLinkedAccounts": true }),
            "includeLinkedAccounts is not supported",
        ),
        ("DescribeLogGroups", json!({ "accountIdentifiers": ["1"] }), "accountIdentifiers is not supported"),
        (
            "DescribeLogGroups",
            json!({ "logGroupIdentifiers": ["a"] }),
            "logGroupIdentifiers is not supported",
        ),
        ("DescribeLogGroups", json!({ "logGroupClass": "GOLD" }), "enum value set"),
        ("DescribeLogGroups", json!({ "nextToken": "x" }), "The specified nextToken is invalid."),
        (
            "DescribeLogStreams",
            json!({}),
            "at 'logGroupName' failed to satisfy constraint: Member must not be null",
        ),
        ("DescribeLogStreams", json!({ "logGroupName": GROUP, "limit": 0 }), "greater than or equal to 1"),
        (
            "DescribeLogStreams",
            json!({ "logGroupName": GROUP, "orderBy": "Size" }),
            "Value 'Size' at 'orderBy' failed",
        ),
        (
            "DescribeLogStreams",
            json!({ "logGroupName": GROUP, "orderBy": "LastEventTime", "logStreamNamePrefix": "a" }),
            "Cannot order by LastEventTime",
        ),
        (
            "DescribeLogStreams",
            json!({ "logGroupName": "a", "logGroupIdentifier": "b" }),
            "mutually exclusive",
        ),
        ("GetLogEvents", json!({ "logGroupName": GROUP }), "Value null at 'logStreamName'"),
        (
            "GetLogEvents",
            json!({ "logGroupName": GROUP, "logStreamName": "s", "nextToken": "x/y" }),
            "nextToken is invalid",
        ),
        (
            "GetLogEvents",
            json!({ "logGroupName": GROUP, "logStreamName": "s", "nextToken": "f/y" }),
            "nextToken is invalid",
        ),
        (
            "GetLogEvents",
            json!({ "logGroupName": GROUP, "logStreamName": "s", "startTime": -1 }),
            "Value '-1' at 'startTime'",
        ),
        (
            "GetLogEvents",
            json!({ "logGroupName": GROUP, "logStreamName": "s", "limit": 10_001 }),
            "less than or equal to 10000",
        ),
        (
            "FilterLogEvents",
            json!({ "logGroupName": GROUP, "logStreamNames": ["a"], "logStreamNamePrefix": "b" }),
            "mutually exclusive",
        ),
        (
            "FilterLogEvents",
            json!({ "logGroupName": GROUP, "logStreamNames": vec!["a"; 101] }),
            "at 'logStreamNames' failed",
        ),
        (
            "FilterLogEvents",
            json!({ "logGroupName": GROUP, "filterPattern": "foo.bar" }),
            "Invalid character(s) in term 'foo.bar'",
        ),
        (
            "FilterLogEvents",
            json!({ "logGroupName": GROUP, "filterPattern": "%(a)%" }),
            "which is not supported",
        ),
        (
            "FilterLogEvents",
            json!({ "logGroupName": GROUP, "filterPattern": "x".repeat(1025) }),
            "at 'filterPattern' failed",
        ),
    ] {
        let (name, message) = client.refused(action, body.clone()).await;
        assert_eq!(name, "InvalidParameterException", "{action} {body}");
        assert!(message.contains(word), "{action} {body}: {message}");
    }
    let (name, _) = client.refused("FilterLogEvents", json!({ "logGroupName": 7 })).await;
    assert_eq!(name, "SerializationException");
    for (target, word) in [
        (
            "Logs_20140328.StartLiveTail",
            "StartLiveTail is not supported by this host: follow a log with `aws logs tail --follow`",
        ),
        ("Logs_20140328.PutLogEvents", "only microVMs and builds write logs"),
        ("Logs_20140328.Whatever", "this host has DescribeLogGroups"),
        ("Logs_20140328.", "names no action"),
        ("Logs_20990101.GetLogEvents", "names no action"),
        ("", "names no action"),
    ] {
        let (status, answer) = client.send(target, b"{}").await;
        assert_eq!((status, answer["__type"].as_str()), (400, Some("UnknownOperationException")));
        assert!(answer["message"].as_str().unwrap().contains(word), "{answer}");
    }
}

#[tokio::test]
async fn who_may_not_read_logs_is_refused_and_each_call_is_audited() {
    let mut client = Client::new().await;
    client.write_ten();
    client.call("FilterLogEvents", json!({ "logGroupName": GROUP })).await;
    let seen = client.host.outside.observed.last();
    assert_eq!((seen.operation.name(), &seen.request["logGroup"]), ("ReadLogs", &json!(GROUP)));
    let policy = Policy { actions: vec!["ListLogGroups".into()], images: vec!["*".into()], roles: None };
    client.caller = caller(ACCOUNT, [policy].into());
    client.call("DescribeLogGroups", json!({})).await;
    let (name, message) = client.refused("FilterLogEvents", json!({ "logGroupName": GROUP })).await;
    assert_eq!(name, "AccessDeniedException");
    assert!(message.contains("lambda:ReadLogs"), "{message}");
    client.caller = caller("999999999999", [Policy::everything()].into());
    let (name, _) = client.refused("FilterLogEvents", json!({ "logGroupName": GROUP })).await;
    assert_eq!(name, "ResourceNotFoundException", "another account's logs");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any body and any target are answered with JSON.
    #[test]
    fn any_request_is_stood(
        action in prop::sample::select(vec!["DescribeLogGroups", "DescribeLogStreams", "GetLogEvents", "FilterLogEvents", "X"]),
        body in prop_oneof![
            "\\PC{0,80}",
            any::<(i64, i32, String)>().prop_map(|(time, limit, text)| json!({
                "logGroupName": GROUP, "logStreamName": "s", "startTime": time, "endTime": time, "limit": limit,
                "nextToken": text, "filterPattern": text, "logStreamNamePrefix": text,
            }).to_string()),
        ],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::new().await;
            client.write(GROUP, "s", Duration::from_secs(1), "line");
            let (status, answer) = client.send(&format!("Logs_20140328.{action}"), body.as_bytes()).await;
            assert!(status == 200 || status == 400, "{status} {answer}");
        });
    }
}
