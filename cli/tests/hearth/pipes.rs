//! A command in a microVM whose streams are pipes.

use std::process::{Output, Stdio};
use std::sync::atomic::Ordering;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::endpoint::Endpoint;
use crate::support::Host;

/// Starts `hearth shell WORDS -- sh -c SCRIPT`, with pipes on this side.
fn start(host: &Host, words: &str, script: &str) -> Child {
    let mut command = host.command(&format!("shell {words} -- sh -c"));
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

/// Runs it with this input.
async fn run(host: &Host, words: &str, script: &str, input: &[u8]) -> Output {
    let mut child = start(host, words, script);
    let mut stdin = child.stdin.take().unwrap();
    let feeding = async {
        drop(stdin.write_all(input).await); // the command may exit without reading it
        drop(stdin);
    };
    tokio::join!(feeding, child.wait_with_output()).1.unwrap()
}

/// Bytes of all values, which no two places have in the same order.
fn bytes(count: u32) -> Vec<u8> {
    (0..count).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

#[tokio::test]
async fn bytes_pass_as_they_are_and_the_end_of_the_input_is_the_commands() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let input = bytes(2 << 20);
    let done = run(&host, "a1", "cat; echo apart >&2; exit 7", &input).await;
    assert_eq!((done.status.code(), done.stderr.as_slice()), (Some(7), &b"apart\n"[..]));
    assert!(done.stdout == input, "{} bytes of {}", done.stdout.len(), input.len());
    assert_eq!(endpoint.last().line, "GET /?ext=1&streams=pipes");
    // No input at all, and a line that no terminal would take.
    let done = run(&host, "a1", "wc -c", b"").await;
    assert_eq!(String::from_utf8(done.stdout).unwrap().trim(), "0");
    let done = run(&host, "-t -T a1", "wc -c", &[b'x'; 100_000]).await;
    assert_eq!(String::from_utf8(done.stdout).unwrap().trim(), "100000");
}

#[tokio::test]
async fn without_a_command_it_is_a_shell_that_reads_its_commands() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let mut command = host.command("shell a1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo one; exit 3\n").await.unwrap();
    let done = child.wait_with_output().await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.status.code()), (&b"one\n"[..], Some(3)));
}

#[tokio::test]
async fn a_command_that_ends_while_input_still_comes_has_its_status() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let mut child = start(&host, "a1", "head -c 3; exit 5");
    let mut stdin = child.stdin.take().unwrap();
    // As much as is taken: the input ends with the client, not before.
    let feeding = tokio::spawn(async move { while stdin.write_all(&[b'x'; 4096]).await.is_ok() {} });
    let done = child.wait_with_output().await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.status.code()), (&b"xxx"[..], Some(5)));
    feeding.await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_gets_everything() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let mut child = start(&host, "a1", "head -c 8000000 /dev/zero; echo done >&2");
    drop(child.stdin.take());
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut first = [1];
    stdout.read_exact(&mut first).await.unwrap();
    // What is not read waits at the command: the server insists on the client's window.
    let mut said = String::new();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).await.unwrap();
    assert_eq!((rest.len(), child.wait().await.unwrap().code()), (7_999_999, Some(0)));
    stderr.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "done\n");
}

#[tokio::test]
async fn ctrl_c_ends_the_client_and_with_it_the_command() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let mut child = start(&host, "a1", "echo $$; exec sleep 1000");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let remote = lines.next_line().await.unwrap().unwrap();
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    // It may be a zombie for a while.
    while std::fs::read_to_string(format!("/proc/{remote}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_daemon_without_pipes_is_told_apart_and_gets_no_command() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    endpoint.pipes.store(false, Ordering::SeqCst);
    let done = run(&host, "a1", "cat", b"input").await;
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(1), &b""[..]));
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(
        stderr.starts_with("error: the host's daemon is older than this client") && stderr.contains("-t"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_success() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let mut command = host.command("shell a1 -- away");
    let done = command.stdin(Stdio::null()).output().await.unwrap();
    assert_eq!(done.status.code(), Some(3));
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(stderr.contains("the guest is gone"), "{stderr}");
}

#[tokio::test]
async fn input_that_cannot_be_read_is_no_end_of_input() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let mut command = host.command("shell a1 -- cat");
    let folder = std::fs::File::open(host.folder.path()).unwrap();
    let done = command.stdin(folder).output().await.unwrap();
    assert_eq!(done.status.code(), Some(1));
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(stderr.starts_with("error: cannot read the input: "), "{stderr}");
}
