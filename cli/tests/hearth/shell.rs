//! A shell in a microVM, which has a terminal, without one on this side.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use crate::endpoint::Endpoint;
use crate::support::Host;

/// Runs a shell with this input; returns its output, the exit status and stderr of `hearth`.
async fn typed(host: &Host, words: &str, input: &str) -> (String, Option<i32>, String) {
    let mut command = host.command(words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let done = child.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(done.stdout), done.status.code(), text(done.stderr))
}

#[tokio::test]
async fn bytes_go_both_ways_and_the_status_is_the_shells() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let (shown, status, stderr) = typed(&host, "shell -t a1", "exit 7\n").await;
    assert_eq!((shown.as_str(), status, stderr.as_str()), ("EXIT 7\n", Some(7), ""));
    let request = endpoint.last();
    assert_eq!(request.line, "GET /?ext=1");
    assert_eq!(request.header("host"), Some(endpoint.host().as_str()));
    assert_eq!(request.header("x-aws-proxy-auth"), None);
    let (_, status, _) = typed(&host, "shell -t a1", "exit 137\n").await;
    assert_eq!(status, Some(137));
    let (shown, status, _) = typed(&host, "shell -t a1", "leave").await;
    assert_eq!((shown.as_str(), status), ("LEAVE", Some(0)), "servers without the status are good, too");
}

#[tokio::test]
async fn input_that_is_no_terminal_ends_with_ctrl_d() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let (shown, status, _) = typed(&host, "shell -t a1", "~.hello\n").await;
    assert_eq!((shown.as_str(), status), ("~.HELLO\n\u{4}", Some(0)));
}

#[tokio::test]
async fn a_command_is_run_instead_of_a_shell() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let (shown, status, _) = typed(&host, "shell -t a1 -- ls -l --json", "x\n").await;
    assert_eq!((shown.as_str(), status), ("[\"ls\", \"-l\", \"--json\"]\r\nX\n\u{4}", Some(3)));
}

#[tokio::test]
async fn what_ends_a_session_otherwise_is_told() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let (_, status, stderr) = typed(&host, "shell -t a1", "break").await;
    assert_eq!(status, Some(3));
    assert!(stderr.starts_with("error: the connection to the shell broke: "), "{stderr}");
    let (_, status, stderr) = typed(&host, "shell -t a1", "away").await;
    assert_eq!(status, Some(3));
    assert!(stderr.contains("1001: stopping"), "{stderr}");
    endpoint.refuse_next();
    let (_, status, stderr) = typed(&host, "shell -t a1", "").await;
    assert_eq!(status, Some(1));
    let expected = "error: the endpoint opens no shell (403 UNAUTHORIZED";
    assert!(stderr.starts_with(expected) && stderr.contains("--ingress SHELL_INGRESS"), "{stderr}");
    host.daemon.endpoint.lock().unwrap().as_mut().unwrap().address = "127.0.0.1:1".into();
    let (_, status, stderr) = typed(&host, "shell -t a1", "").await;
    assert_eq!(status, Some(3));
    assert!(stderr.starts_with("error: cannot connect to 127.0.0.1:1: "), "{stderr}");
}
