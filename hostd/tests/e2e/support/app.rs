//! Requests to the app in a microVM through the guest's agent, without the daemon.

use std::path::PathBuf;

use hearth_host::agent::Agent;
use hearth_vmm_client::CONTROL_SOCKET;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::TEST_TIMEOUT;
use super::site::Site;

/// The port of the example app.
const PORT: u16 = 8080;

/// The control socket of a microVM's monitor.
pub(crate) fn control_socket(id: &str) -> PathBuf {
    Site::get().unwrap().run().join("microvms").join(id).join(CONTROL_SOCKET)
}

/// The guest's agent.
pub(crate) fn agent(id: &str) -> Agent {
    Agent::of_monitor(&control_socket(id)).unwrap()
}

/// Sends a request like `GET /` to the app and returns the body of the response; empty if there was no response.
pub(crate) async fn ask(id: &str, request: &str) -> String {
    let asking = async {
        let mut stream = agent(id).stream(PORT, TEST_TIMEOUT).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    };
    tokio::time::timeout(TEST_TIMEOUT, asking).await.expect("the app answers")
}

/// Sends a request to the counter, and returns the number of requests in its life.
pub(crate) async fn count(id: &str) -> u64 {
    let answer = ask(id, "GET /").await;
    let number = answer.strip_prefix("request ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("the counter answered {answer:?}"))
}
