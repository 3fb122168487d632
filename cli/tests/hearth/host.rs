//! The host, its logs and events; connections, errors and exit statuses.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;

use crate::daemon::ALIVE;
use crate::support::{Done, Host, hearth, services};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

#[tokio::test]
async fn the_host_tells_what_it_has() {
    let host = Host::start();
    let text = host.out("host").await;
    for line in [
        "account         123456789012 in eu-test-1",
        "memory          128.0 GiB",
        "microVM memory  512 of 65536 MiB reserved",
        "account disks   123456789012 3.0 GiB, room for 400.0 GiB",
        "microVMs        1 RUNNING",
        "pools           networks 3/4",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    assert_eq!(host.json("host status").await["microvms"]["RUNNING"], 1);
    assert_eq!(host.out("host backup").await, "2026-01-01  4.0 KiB\n");
}

#[tokio::test]
async fn a_caller_without_a_grant_for_the_host_sees_its_account() {
    let host = Host::start();
    host.daemon.discreet.store(true, Ordering::Relaxed);
    let text = host.out("host").await;
    assert_eq!(
        text,
        "profile         default\n\
         account         123456789012 in eu-test-1\n\
         account memory  512 of 4096 MiB\n\
         account disk    3.0 GiB of 20.0 GiB\n\
         account limits  2 builds at a time\n\
         host            not shown: an operator can add \"GetHostStatus\" to the actions of a policy of this key\n"
    );
}

#[tokio::test]
async fn logs_are_read_page_by_page_and_guests_do_not_write_to_the_terminal() {
    let host = Host::start();
    assert_eq!(
        host.out("logs a1 --grep o").await,
        "2026-09-21T14:13:20.250Z  stdout   hello\u{fffd}[2J\n2026-09-21T14:13:21.250Z  stderr   world\n"
    );
    let read = host.daemon.seen.lock().unwrap().read.pop().unwrap();
    assert_eq!(read.log_group.as_deref(), Some("/aws/lambda-microvms/demo"));
    let stream = format!("2026/09/21[1.0]{}", ALIVE);
    assert_eq!(read.log_stream.as_deref(), Some(stream.as_str()));
    assert_eq!(read.contains.as_deref(), Some("o"));
    let lines = host.out("logs --image demo --json").await;
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[1],
        json!({
            "logStream": "s", "timestamp": "2026-09-21T14:13:21.250Z", "source": "stderr", "message": "world",
            "id": "7"
        })
    );
    assert_eq!(
        host.out("log-groups").await,
        "GROUP                      SIZE\n/aws/lambda-microvms/demo  2.0 KiB\n"
    );
    assert_eq!(host.out("log-streams g -q").await, "s\n");
}

#[tokio::test]
async fn ctrl_c_ends_what_is_followed_cleanly() {
    let host = Host::start();
    let cases = [("logs --group g -f --plain", "one"), ("events -q", ""), ("events --json", "{")];
    for (words, begin) in cases {
        let mut child = host.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.starts_with(begin), "{line}");
        let id = child.id().unwrap().to_string();
        let killed = tokio::process::Command::new("kill").args(["-INT", &id]).status().await.unwrap();
        assert!(killed.success());
        let done = child.wait_with_output().await.unwrap();
        assert_eq!(
            (done.status.code(), String::from_utf8(done.stderr).unwrap().as_str()),
            (Some(0), ""),
            "{words}"
        );
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let host = Host::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = host.command("image ls").stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let status = child.wait().await.unwrap();
    assert_eq!(status.code(), Some(0));
    let done = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8(done.stderr).unwrap(), "");
}

#[tokio::test]
async fn without_a_daemon_the_endpoint_and_the_remedy_are_named() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = format!("unix:{}/absent.sock", home.path().display());
    let done = Done::of(hearth(home.path()).args(["--endpoint", &endpoint, "ps"])).await;
    assert_eq!(done.status, 3);
    assert_eq!(
        done.err,
        format!(
            "error: cannot connect to {endpoint}: No such file or directory (os error 2); start hearthd \
             (systemctl start hearthd), or name another with --endpoint (HEARTH_ENDPOINT)\n"
        )
    );
    for (words, status) in
        [(["--endpoint", "http://192.0.2.1:1", "ps"], 2), (["--profile", "absent", "ps"], 2)]
    {
        let done = Done::of(hearth(home.path()).args(words)).await;
        assert_eq!((done.status, done.err.lines().count()), (status, 1), "{}", done.err);
    }
}

#[tokio::test]
async fn keys_are_sent_over_tls_with_the_authority_that_a_profile_names() {
    let host = Host::start();
    let home = host.folder.path();
    let endpoint = tls_daemon(&host, home).await;
    let config = home.join(".config/hearth");
    std::fs::create_dir_all(&config).unwrap();
    let profile = format!(
        "[profiles.far]\nendpoint = \"{endpoint}\"\nca = \"{0}/ca.pem\"\ncertificate = \"{0}/client.pem\"\n\
         key = \"{0}/client.key\"\naccess_key_id = \"id\"\nsecret_access_key = \"secret\"\n",
        home.display()
    );
    let path = config.join("config.toml");
    std::fs::write(&path, profile).unwrap();
    let ask = |words: &'static str| async move { Done::of(hearth(home).args(words.split(' '))).await };
    let done = ask("--profile far host -q").await;
    assert_eq!(done.status, 2);
    assert!(done.err.contains("chmod 600"), "{}", done.err);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let done = ask("--profile far host -q").await;
    assert_eq!((done.status, done.out.as_str(), done.err.as_str()), (0, "123456789012\n", ""));
    // base64 of id:secret
    let sent = host.daemon.seen.lock().unwrap().authorization.take();
    assert_eq!(sent.as_deref(), Some("Basic aWQ6c2VjcmV0"));
    let done = Done::of(hearth(home).args(["--endpoint", &endpoint, "host"])).await;
    assert_eq!(done.status, 3);
    assert!(done.err.contains("--ca FILE"), "{}", done.err);
}

/// A daemon that requires client certificates; its authority and the client's certificate are in `folder`.
async fn tls_daemon(host: &Host, folder: &Path) -> String {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let signed = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let (certificate, key) = signed("client");
    std::fs::write(folder.join("client.pem"), certificate).unwrap();
    std::fs::write(folder.join("client.key"), key).unwrap();
    let (certificate, key) = signed("localhost");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut server = Server::builder().tls_config(tls).unwrap();
    tokio::spawn(services(&mut server, &host.daemon).serve_with_incoming(TcpListenerStream::new(listener)));
    format!("https://localhost:{port}")
}

#[tokio::test]
async fn shells_get_completions_without_a_daemon() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let done = Done::of(hearth(home.path()).args(["completions", shell])).await;
        assert_eq!(done.status, 0);
        assert!(
            done.out.contains("shell-token") && done.out.contains("no-browser") && done.out.contains("json"),
            "{shell}"
        );
    }
}
