//! curl with token, port and authority.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use hearth_proto::microvms::v1::port_specification::Specification;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::endpoint::Endpoint;
use crate::support::{Done, Host};

#[tokio::test]
async fn curl_reaches_the_app_with_everything_that_it_needs() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let words = "curl a1:81/hello?x=1 -sS -q --json {} -H X-Extra:1";
    assert_eq!(host.out(words).await, "POST /hello?x=1 {}");
    let request = endpoint.last();
    assert_eq!(request.header("host"), Some(endpoint.host().as_str()));
    assert_eq!(request.header("x-aws-proxy-port"), Some("81"));
    assert_eq!(request.header("x-extra"), Some("1"));
    let seen = host.daemon.seen.lock().unwrap();
    assert_eq!(seen.minutes, [5]);
    assert_eq!(seen.ports.len(), 1);
    assert_eq!(seen.ports[0].specification, Some(Specification::Port(81)));
}

#[tokio::test]
async fn the_status_is_curls() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    endpoint.refuse_next();
    let done = host.run("curl a1 -sf").await;
    assert_eq!((done.status, done.out.as_str(), done.err.as_str()), (22, "", ""));
    // An endpoint with another authority is not trusted.
    let pem = Endpoint::start(&Host::start()).await.authority_pem;
    host.daemon.endpoint.lock().unwrap().as_mut().unwrap().certificate_authority_pem = pem;
    let count = endpoint.count();
    let status = host.run("curl a1 -s").await.status;
    assert!(matches!(status, 35 | 60), "{status}");
    assert_eq!(endpoint.count(), count, "it gets no token");
}

#[tokio::test]
async fn the_token_is_in_no_list_of_processes_and_in_no_file_afterwards() {
    let host = Host::start();
    Endpoint::start(&host).await;
    let text =
        "#!/bin/sh\necho \"$@\"\nstat -c %a \"$2\" \"${2%/*}\"\ngrep -c x-aws-proxy-auth \"$2\"\nexit 9\n";
    let path = with_curl(host.folder.path(), text);
    let done = Done::of(host.command("curl a1/x -v").env("PATH", path)).await;
    assert_eq!((done.status, done.err.as_str()), (9, ""));
    let lines: Vec<_> = done.out.lines().collect();
    let config = lines[0].strip_prefix("--config ").unwrap().strip_suffix(" -v").unwrap();
    assert_eq!(lines[1..], ["600", "700", "1"]);
    assert!(!Path::new(config).parent().unwrap().exists(), "{config}");
    let done = Done::of(host.command("curl a1").env("PATH", "/nowhere")).await;
    assert_eq!(done.status, 1);
    assert!(done.err.contains("there is no curl on this machine; install it"), "{}", done.err);
}

#[tokio::test]
async fn a_signal_ends_curl_and_leaves_no_token_behind() {
    let host = Host::start();
    Endpoint::start(&host).await;
    let path = with_curl(host.folder.path(), "#!/bin/sh\necho \"$2\"\nexec tail -f /dev/null\n");
    let mut command = host.command("curl a1");
    let mut child = command.env("PATH", path).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let config = lines.next_line().await.unwrap().unwrap();
    assert!(Path::new(&config).exists());
    let id = child.id().unwrap().to_string();
    let killed = Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().await.unwrap().code(), Some(143));
    assert!(!Path::new(&config).parent().unwrap().exists(), "{config}");
    assert_eq!(lines.next_line().await.unwrap(), None, "curl has ended, too");
}

/// A PATH on which curl is this script.
fn with_curl(folder: &Path, script: &str) -> String {
    let programs = folder.join("bin");
    std::fs::create_dir(&programs).unwrap();
    let program = programs.join("curl");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", programs.display())
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_before_anybody_is_asked() {
    let host = Host::start();
    let (status, text) = host.error("curl a1:0/x").await;
    assert_eq!(status, 2);
    assert!(text.contains("write ID, ID:PORT or ID:PORT/PATH"), "{text}");
    Endpoint::start(&host).await;
    let (status, text) = host.error("curl b2").await;
    assert_eq!(status, 1);
    assert!(text.contains("is TERMINATED and answers no more"), "{text}");
    assert!(host.daemon.seen.lock().unwrap().minutes.is_empty());
}
