//! Tests of RunMicrovm.

use hearth_model::build::ImageBuild;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::MicrovmRecord;
use proto::logging::Logging;

use super::*;
use crate::records;
use crate::service::Quota;

async fn message(host: &Host, request: proto::RunMicrovmRequest) -> String {
    host.run(request).await.unwrap_err().to_string()
}

fn record(host: &Host, id: &str) -> MicrovmRecord {
    host.daemon.db.get(Table::Microvms, &records::microvm(ACCOUNT, id)).unwrap().unwrap()
}

#[tokio::test]
async fn what_is_not_given_has_its_default_in_the_answer() {
    let host = host(Profile::Default).await;
    let microvm = host.run(request(&arn("demo"))).await.unwrap();
    assert!(microvm.microvm_id.starts_with("microvm-"));
    assert_eq!(microvm.microvm_id.len(), "microvm-".len() + 36);
    assert!(microvm.endpoint.ends_with(".lambda-microvm.us-east-1.localhost"));
    assert!(!microvm.endpoint.contains(microvm.microvm_id.trim_start_matches("microvm-")));
    let expected = proto::Microvm {
        state: proto::MicrovmState::Pending.into(),
        image_arn: arn("demo"),
        image_version: "1.0".into(),
        maximum_duration_in_seconds: 28_800,
        ingress_network_connectors: vec![connector("HTTP_INGRESS")],
        egress_network_connectors: vec![connector("INTERNET_EGRESS")],
        microvm_id: microvm.microvm_id.clone(),
        endpoint: microvm.endpoint.clone(),
        started_at: microvm.started_at,
        ..Default::default()
    };
    assert_eq!(microvm, expected);
    let record = record(&host, &microvm.microvm_id);
    assert_eq!(
        (record.image_name.as_str(), record.version_number, record.internet_egress),
        ("demo", 1, true)
    );
    assert_eq!(record.log_group, "/aws/lambda-microvms/demo");
    assert!(record.log_stream.ends_with(&format!("[1.0]{}", microvm.microvm_id)), "{}", record.log_stream);
}

#[tokio::test]
async fn the_image_is_looked_up_by_arn_or_name_unless_strict() {
    let lenient = host(Profile::Default).await;
    lenient.run(request("demo")).await.unwrap();
    let strict = host(Profile::AwsStrict).await;
    assert_eq!(message(&strict, request("demo")).await, "Malformed ARN - doesn't start with 'arn:'");
    strict.run(request(&arn("demo"))).await.unwrap();
}

#[tokio::test]
async fn a_version_that_is_known_to_be_damaged_is_refused_by_name_until_it_is_whole() {
    let host = host(Profile::Default).await;
    host.build("demo").await;
    let microvm = host.run(request(&arn("demo"))).await.unwrap();
    let record = record(&host, &microvm.microvm_id);
    let build =
        ImageBuild::parse(ACCOUNT, &record.image_uid, record.version_number, &record.build_id).unwrap();
    let damaged = &host.service.parts().damaged;
    damaged.set(&build, Some("disk: its 4096 bytes at 0 are not what was written".to_owned()));
    let error = host.run(request(&arn("demo"))).await.unwrap_err();
    let version = &microvm.image_version;
    assert!(
        error.to_string().starts_with(&format!("Version {version} of MicroVM image {}", arn("demo"))),
        "{error}"
    );
    assert!(error.to_string().contains("Build the image again"), "{error}");
    assert_eq!(error.exception().name, "ConflictException");
    assert_eq!(error.resource().unwrap().id, format!("{}:{version}", arn("demo")));
    let other = proto::RunMicrovmRequest { image_version: Some("1.0".into()), ..request(&arn("demo")) };
    host.run(other).await.unwrap();
    damaged.set(&build, None);
    host.run(request(&arn("demo"))).await.unwrap();
}

#[tokio::test]
async fn only_an_active_version_is_run() {
    let host = host(Profile::Default).await;
    let none =
        |name: &str, rest: &str| format!("No active version found for MicroVM image {}{rest}", arn(name));
    let pinned = |version: &str| proto::RunMicrovmRequest {
        image_version: Some(version.into()),
        ..request(&arn("demo"))
    };
    assert_eq!(message(&host, request(&arn("gone"))).await, none("gone", ""));
    assert_eq!(message(&host, pinned("2.0")).await, none("demo", " and version 2.0"));
    assert_eq!(message(&host, pinned("latest")).await, none("demo", " and version latest"));
    host.build("demo").await;
    assert_eq!(host.run(request("demo")).await.unwrap().image_version, "2.0");
    assert_eq!(host.run(pinned("1")).await.unwrap().image_version, "1.0");
    for version in ["1.0", "2.0"] {
        let change = proto::UpdateMicrovmImageVersionRequest {
            image_identifier: Some(arn("demo")),
            image_version: Some(version.into()),
            status: Some(proto::MicrovmImageVersionStatus::Inactive.into()),
        };
        host.service.call_as(&host.caller, change).await.unwrap();
        assert_eq!(message(&host, pinned(version)).await, none("demo", &format!(" and version {version}")));
    }
    let error = host.run(request("demo")).await.unwrap_err();
    assert_eq!((error.to_string(), error.exception().http_status), (none("demo", ""), 404));
}

#[tokio::test]
async fn a_payload_needs_the_run_hook() {
    let host = host(Profile::Default).await;
    let with = |payload: &str| proto::RunMicrovmRequest {
        run_hook_payload: Some(payload.into()),
        ..request("demo")
    };
    assert_eq!(
        message(&host, with("x")).await,
        "The run hook must be enabled in the MicroVM image to pass the run hook payload"
    );
    host.run(with("")).await.unwrap();
    let enabled = proto::MicrovmHooks { run: Some(proto::HookState::Enabled.into()), ..Default::default() };
    let hooks = proto::Hooks { port: Some(9000), microvm_hooks: Some(enabled), ..Default::default() };
    host.configure("demo", 1, |version| version.hooks = Some(hooks)).await;
    host.run(with("x")).await.unwrap();
}

#[tokio::test]
async fn connectors_are_given_or_the_images() {
    let host = host(Profile::Default).await;
    let egress = |arns: &[&str]| proto::RunMicrovmRequest {
        egress_network_connectors: arns.iter().map(|arn| (*arn).to_owned()).collect(),
        ..request("demo")
    };
    let none = connector("NO_EGRESS");
    assert_eq!(message(&host, egress(&["INTERNET_EGRESS"])).await, "Malformed network connector ARN");
    let both = message(&host, egress(&[&none, &connector("INTERNET_EGRESS")])).await;
    assert!(both.contains("Only one"), "{both}");
    let microvm = host.run(egress(&[&none])).await.unwrap();
    assert!(!record(&host, &microvm.microvm_id).internet_egress);
    host.configure("demo", 1, |version| version.egress_network_connectors = vec![none.clone()]).await;
    let microvm = host.run(request("demo")).await.unwrap();
    assert_eq!(microvm.egress_network_connectors, [none]);
    assert!(!record(&host, &microvm.microvm_id).internet_egress);
}

#[tokio::test]
async fn output_goes_where_the_request_says() {
    let host = host(Profile::Default).await;
    let logging = |logging| proto::RunMicrovmRequest {
        logging: Some(proto::Logging { logging: Some(logging) }),
        ..request("demo")
    };
    let disabled = host.run(logging(Logging::Disabled(proto::LoggingDisabled {}))).await.unwrap();
    assert_eq!(record(&host, &disabled.microvm_id).log_group, "");
    let given = proto::CloudWatchLogging { log_group: Some("/mine".into()), log_stream: Some("one".into()) };
    let given = host.run(logging(Logging::CloudWatch(given))).await.unwrap();
    let given = record(&host, &given.microvm_id);
    assert_eq!((given.log_group.as_str(), given.log_stream.as_str()), ("/mine", "one"));
}

#[tokio::test]
async fn a_used_token_returns_the_first_answer() {
    let host = host(Profile::Default).await;
    let with = |seconds| proto::RunMicrovmRequest {
        client_token: Some("token".into()),
        maximum_duration_in_seconds: Some(seconds),
        ..request("demo")
    };
    let first = host.run(with(180)).await.unwrap();
    let stop = proto::TerminateMicrovmRequest { microvm_identifier: Some(first.microvm_id.clone()) };
    host.service.call_as(&host.caller, stop).await.unwrap();
    assert_eq!(host.run(with(180)).await.unwrap(), first);
    let error = host.run(with(181)).await.unwrap_err();
    assert_eq!(error.to_string(), "The provided clientToken was used with different request parameters.");
    assert_eq!(error.exception().name, "ValidationException");
    // Client tokens are separate for each account.
    let other = caller("999999999999", [Policy::everything()].into());
    let error = host.service.call_as(&other, with(180)).await.unwrap_err();
    assert!(error.to_string().starts_with("No active version"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_calls_at_a_time_launch_one_microvm() {
    let host = host(Profile::Default).await;
    let calls = (0..20).map(|_| {
        let (service, caller) = (host.service.clone(), host.caller.clone());
        let request = proto::RunMicrovmRequest { client_token: Some("token".into()), ..request("demo") };
        tokio::spawn(async move { service.call_as(&caller, request).await.unwrap() })
    });
    let mut answers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        answers.push(call.await.unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let all: Vec<MicrovmRecord> = host.daemon.all(Table::Microvms);
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn memory_of_an_account_is_limited() {
    let host = limited(Profile::Default, Limits { memory_mib: Some(2047), ..Limits::default() }).await;
    let error = host.run(request("demo")).await.unwrap_err();
    assert_eq!((error.exception().http_status, error.quota()), (402, Some(Quota::Memory)));
    assert_eq!(error.resource().unwrap().id, ACCOUNT);
    let limit = "The base maximum allocated memory limit has been reached for this account.";
    assert_eq!(error.to_string(), limit);
    let host = limited(Profile::Default, Limits { memory_mib: Some(2048), ..Limits::default() }).await;
    host.run(request("demo")).await.unwrap();
}

#[tokio::test]
async fn rates_are_limited() {
    let host = limited(Profile::AwsStrict, Limits::of(Profile::AwsStrict)).await;
    let mut calls = 0;
    let refused = loop {
        calls += 1;
        let error = host.run(request(&arn("gone"))).await.unwrap_err();
        if error.retry_after().is_some() {
            break error;
        }
        assert!(calls < 1000, "never throttled");
    };
    assert!(calls > 5, "{calls}");
    assert_eq!((refused.exception().name, refused.exception().http_status), ("ThrottlingException", 429));
}

#[tokio::test]
async fn policies_are_about_the_image() {
    let host = host(Profile::Default).await;
    let policy = Policy { actions: vec!["RunMicrovm".into()], images: vec!["web-*".into()], roles: None };
    let caller = caller(ACCOUNT, [policy].into());
    let error = host.service.call_as(&caller, request("demo")).await.unwrap_err();
    assert_eq!(error.exception().name, "AccessDeniedException");
    assert!(
        error.to_string().contains(&format!("lambda:RunMicrovm on resource: {}", arn("demo"))),
        "{error}"
    );
    host.build("web-1").await;
    host.service.call_as(&caller, request("web-1")).await.unwrap();
    let foreign = arn("web-1").replace(ACCOUNT, "999999999999");
    let error = host.service.call_as(&caller, request(&foreign)).await.unwrap_err();
    assert_eq!(error.exception().name, "AccessDeniedException");
}

#[tokio::test]
async fn a_call_is_observed_once_also_if_its_client_goes() {
    let host = host(Profile::Default).await;
    let token =
        |token: &str| proto::RunMicrovmRequest { client_token: Some(token.into()), ..request("demo") };
    let exceptions = || {
        let calls = host.outside.observed.calls.lock().unwrap();
        calls.iter().map(|call| (call.operation, call.exception)).collect::<Vec<_>>()
    };
    // An identical call is under way, so that this one stops midway.
    let turn = host.service.turn(&host.caller, Operation::RunMicrovm, Some("a")).await;
    let mut call = Box::pin(host.run(token("a")));
    tokio::select! {
        biased;
        _ = call.as_mut() => panic!("the call has not waited"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(exceptions(), []);
    drop(call);
    let given_up = (Operation::RunMicrovm, Some("RequestCancelledException"));
    assert_eq!(exceptions(), [given_up]);
    assert_eq!(host.outside.observed.last().request["clientToken"], "a");
    drop(turn);
    host.run(token("a")).await.unwrap();
    assert_eq!(exceptions(), [given_up, (Operation::RunMicrovm, None)]);
    host.run(proto::RunMicrovmRequest::default()).await.unwrap_err();
    assert_eq!(exceptions().len(), 3);
}
