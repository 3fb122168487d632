//! The host's own certificate authority.

use crate::endpoint::Endpoint;
use crate::support::Host;

#[tokio::test]
async fn the_authority_is_printed_for_clients_that_take_a_file() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    assert_eq!(host.out("ca").await.trim(), endpoint.authority_pem.trim());
    assert_eq!(
        host.json("ca").await["certificateAuthorityPem"].as_str().map(str::trim),
        Some(endpoint.authority_pem.trim())
    );
    let text = host.out("host").await;
    let line = format!("endpoints       *.lambda-microvm.eu-test-1.example at 127.0.0.1:{}", endpoint.port);
    assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
}

#[tokio::test]
async fn a_host_without_authority_or_endpoints_says_so() {
    let host = Host::start();
    let (status, text) = host.error("ca").await;
    assert_eq!(status, 1);
    assert!(text.contains("the daemon has no endpoints"), "{text}");
    let (status, text) = host.error("curl a1").await;
    assert_eq!(status, 1);
    assert!(text.contains("the daemon has no endpoints"), "{text}");
    Endpoint::start(&host).await;
    host.daemon.endpoint.lock().unwrap().as_mut().unwrap().certificate_authority_pem.clear();
    let (status, text) = host.error("ca").await;
    assert_eq!(status, 1);
    assert!(text.contains("no authority of its own"), "{text}");
}
