//! MicroVMs, from the command line.

use crate::daemon::{ALIVE, BROKEN, ENDED, IMAGE};
use crate::endpoint::Endpoint;
use crate::support::Host;
use serde_json::json;

#[tokio::test]
async fn run_waits_until_it_runs_and_prints_id_and_endpoint() {
    let host = Host::start();
    assert_eq!(
        host.out("run demo:1.0").await,
        format!(
            "id        {ALIVE}\nendpoint  https://e.lambda-microvm.eu-test-1.example\nstate     RUNNING\n"
        )
    );
    let seen = host.daemon.seen.lock().unwrap().run.take().unwrap();
    assert_eq!(seen.image_identifier.as_deref(), Some(IMAGE));
    assert_eq!(seen.image_version.as_deref(), Some("1.0"));
    assert_eq!((seen.idle_policy, seen.run_hook_payload), (None, None));
    assert_eq!(host.out("run -q demo").await, format!("{ALIVE}\n"));
    assert_eq!(host.json("run demo").await["state"], "RUNNING");
    assert_eq!(host.json("run -d demo").await["state"], "PENDING");
}

#[tokio::test]
async fn the_endpoint_has_the_hosts_port() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let shown = format!("endpoint  https://e.lambda-microvm.eu-test-1.example:{}\n", endpoint.port);
    let run = host.out("run demo").await;
    assert!(run.contains(&shown), "{run}");
    let get = host.out(&format!("get {ALIVE}")).await;
    assert!(
        get.contains(&format!("https://e.lambda-microvm.eu-test-1.example:{}\n", endpoint.port)),
        "{get}"
    );
}

#[tokio::test]
async fn every_member_of_a_launch_can_be_said() {
    let host = Host::start();
    std::fs::write(host.folder.path().join("payload"), "{}\n").unwrap();
    let words = format!(
        "run demo -d --role exec --payload-file {}/payload --max-duration 2h --suspend-after 15m --terminate-after 1h \
         --no-auto-resume --ingress SHELL_INGRESS --egress none --log-group g --log-stream s --client-token t",
        host.folder.path().display()
    );
    host.out(&words).await;
    let seen = host.daemon.seen.lock().unwrap().run.take().unwrap();
    assert_eq!(seen.execution_role_arn.as_deref(), Some("arn:aws:iam::123456789012:role/exec"));
    assert_eq!(seen.run_hook_payload.as_deref(), Some("{}\n"));
    assert_eq!(seen.maximum_duration_in_seconds, Some(7200));
    let policy = seen.idle_policy.unwrap();
    let values =
        (policy.max_idle_duration_seconds, policy.suspended_duration_seconds, policy.auto_resume_enabled);
    assert_eq!(values, (Some(900), Some(3600), Some(false)));
    let connector = |name: &str| {
        vec![format!("arn:aws:lambda:eu-test-1:aws:network-connector:aws-network-connector:{name}")]
    };
    assert_eq!(seen.ingress_network_connectors, connector("SHELL_INGRESS"));
    assert_eq!(seen.egress_network_connectors, connector("NO_EGRESS"));
    assert!(seen.logging.is_some());
    assert_eq!(seen.client_token.as_deref(), Some("t"));
}

#[tokio::test]
async fn a_launch_that_fails_says_why() {
    let host = Host::start();
    let (status, text) = host.error("run broken").await;
    assert_eq!(status, 1);
    assert_eq!(
        text,
        format!(
            "error: {BROKEN} is TERMINATED, not RUNNING: Run lifecycle hook returned HTTP status 500.; \
             `hearth logs {BROKEN}` shows what its app wrote"
        )
    );
    let (status, text) = host.error("run absent").await;
    assert_eq!(status, 1);
    assert!(text.ends_with("(ResourceNotFoundException); `hearth image ls` lists the images"), "{text}");
}

#[tokio::test]
async fn ps_lists_all_pages_and_those_that_have_ended_only_when_asked() {
    let host = Host::start();
    let alive = format!("{ALIVE}  demo   1.0      RUNNING  5m\n");
    assert_eq!(host.out("ps").await, format!("{:<44}  IMAGE  VERSION  STATE    AGE\n{alive}", "ID"));
    assert_eq!(host.out("ps -q").await, format!("{ALIVE}\n"));
    assert_eq!(host.out("ps -a -q").await, format!("{ALIVE}\n{ENDED}\n"));
    assert_eq!(host.out("ps --state terminated -q").await, format!("{ENDED}\n"));
    let listed = host.json("ps --all").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    assert_eq!(listed["items"][1]["microvmId"], ENDED);
}

#[tokio::test]
async fn get_shows_everything_and_the_beginning_of_an_id_is_enough() {
    let host = Host::start();
    let text = host.out("get b2").await;
    assert!(
        text.starts_with(&format!(
            "id            {ENDED}\nstate         TERMINATED\nstate reason  Success.\n"
        ))
    );
    let text = host.out("get a1").await;
    for line in [
        "image        demo 1.0",
        "ends         2026-09-21T15:13:20Z at the latest",
        "idle policy  suspended after 900 s without requests, terminated 1800 s later; requests resume it",
        "egress       INTERNET_EGRESS",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    assert_eq!(
        host.json("get a1").await["idlePolicy"],
        json!({
            "maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 1800, "autoResumeEnabled": true
        })
    );
    let (status, text) = host.error("get zz").await;
    assert_eq!(status, 1);
    assert_eq!(text, "error: there is no microVM whose id begins with zz; `hearth ps --all` lists them");
}

#[tokio::test]
async fn what_can_be_changed_is_changed_and_the_rest_is_told() {
    let host = Host::start();
    assert_eq!(host.out("suspend a1 --wait").await, format!("{ALIVE}\n"));
    assert_eq!(host.json("suspend a1 --wait").await["state"], "SUSPENDED");
    assert_eq!(host.out("resume a1").await, format!("{ALIVE}\n"));
    let done = host.run("rm b2 a1").await;
    assert_eq!((done.status, done.out), (1, format!("{ALIVE}\n")));
    assert!(done.err.starts_with(&format!("error: cannot terminate {ENDED}: ")), "{}", done.err);
    let seen = host.daemon.seen.lock().unwrap();
    assert_eq!(seen.changed.last().unwrap(), &format!("terminate {ALIVE}"));
}

#[tokio::test]
async fn tokens_are_headers_to_send() {
    let host = Host::start();
    assert_eq!(host.out("token a1 --port 80 -p 8000-8100").await, "X-aws-proxy-auth: t0\n");
    assert_eq!(host.daemon.seen.lock().unwrap().ports.len(), 2);
    assert_eq!(host.out("token a1 --all-ports -q").await, "t0\n");
    assert_eq!(host.json("shell-token a1").await, json!({"authToken": {"X-aws-proxy-auth": "s0"}}));
    let done = host.run("token a1").await;
    assert_eq!(done.status, 2, "{}", done.err);
}
