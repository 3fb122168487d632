//! A page in a real browser, behind the relay.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::endpoint::Endpoint;
use crate::support::Host;

#[tokio::test]
async fn a_page_in_chromium_talks_to_its_app() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let mut relay = host.command("open --no-browser --quiet a1/page").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(relay.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().unwrap();
    let profile = tempfile::tempdir().unwrap();
    let mut chromium = Command::new("chromium");
    // The sandbox does not work for root, and the page is trusted.
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    chromium.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
    chromium.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let browser = chromium.spawn();
    let mut browser = browser.expect("chromium, of Debian's package: `cargo xtask test` installs it");
    // The page was let in, has used its WebSocket, and reports the answer.
    let page = endpoint.received("GET /page").await;
    let report = endpoint.received("POST /told?from%20the%20page").await;
    for request in [page, report] {
        assert_eq!(request.header("host"), Some(endpoint.host().as_str()));
        assert_eq!(request.header("cookie"), None, "the relay's own cookie stays here");
    }
    browser.kill().await.unwrap();
    relay.kill().await.unwrap();
}
