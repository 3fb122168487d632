//! Orders at Pebble, the ACME server that Let's Encrypt provides for tests of clients.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::*;

/// Timeout until Pebble listens.
const START: Duration = Duration::from_secs(30);

/// A port at which no program listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts Pebble, which is killed when the child is dropped. The configuration has its directory and its certificate.
async fn start(folder: &Path, dns: &Dns) -> (Child, AcmeConfig) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.join("pebble.pem"), folder.join("pebble-key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = free_port();
    let config = json!({ "pebble": {
        "listenAddress": format!("127.0.0.1:{port}"),
        "managementListenAddress": format!("127.0.0.1:{}", free_port()),
        "certificate": certificate, "privateKey": key,
    } });
    let file = folder.join("pebble.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new("pebble");
    command.arg("-strict").arg("-config").arg(file).arg("-dnsserver").arg(dns.address().unwrap().to_string());
    // Without sleep, Pebble validates challenges at once. It still refuses some requests as if their nonces were
    // stale, which clients have to tolerate.
    command.env("PEBBLE_VA_NOSLEEP", "1").stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().expect("pebble, of Debian's package pebble: `cargo xtask test` installs it");
    let listening = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(START, listening).await.expect("pebble does not listen");
    let config = AcmeConfig {
        directory: format!("https://localhost:{port}/dir"),
        contact: Some("mailto:me@example.com".to_owned()),
        ca_file: Some(certificate),
    };
    (child, config)
}

async fn dns(challenges: &Challenges) -> Dns {
    let config = EndpointConfig { dns: Some(([127, 0, 0, 1], 0).into()), ..EndpointConfig::default() };
    Dns::bind(&config, DOMAIN, challenges.clone()).await.unwrap().unwrap()
}

#[tokio::test]
async fn pebble_issues_a_certificate_and_renews_it() {
    let folder = tempfile::tempdir().unwrap();
    let challenges = Challenges::default();
    let dns = dns(&challenges).await;
    let (_pebble, config) = start(folder.path(), &dns).await;
    tokio::spawn(dns.serve());
    let acme = Acme::open(&config, DOMAIN, folder.path(), challenges.clone()).unwrap();
    let first = acme.obtain().await.unwrap();
    assert!(acme.stored().unwrap().is_same(&first));
    assert_eq!(challenges.values(), [""; 0]);
    // The account is known and used again.
    let second = acme.obtain().await.unwrap();
    assert!(!second.is_same(&first));
}

#[tokio::test]
async fn pebble_refuses_whoever_does_not_answer_for_the_domain() {
    let folder = tempfile::tempdir().unwrap();
    // The DNS server of another host.
    let dns = dns(&Challenges::default()).await;
    let (_pebble, config) = start(folder.path(), &dns).await;
    tokio::spawn(dns.serve());
    let acme = Acme::open(&config, DOMAIN, folder.path(), Challenges::default()).unwrap();
    let error = acme.obtain().await.unwrap_err();
    assert!(matches!(&error, AcmeError::Refused(why) if why.contains("TXT")), "{error}");
}
