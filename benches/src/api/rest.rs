//! Clients of AWS's REST-JSON, each with a connection of its own that is kept (HTTP/1.1), as AWS's SDKs have it.
//!
//! Every request is signed anew in the round, so that signing counts, as it does for SDKs. Like them the client derives the signing key
//! once a day; what is left are two hashes and one HMAC. Responses are parsed.

use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hearth_hostd::access::sigv4::stamp::Stamp;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::PAGE;
use crate::requests::Client;
use crate::service::{KEY, REGION};

/// The collection of microVMs.
const PATH: &str = "/2025-09-09/microvms";
/// The service in signatures.
const SERVICE: &str = "lambda";

/// A microVM.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is what a client reads")]
struct Microvm {
    microvm_id: String,
    state: String,
    endpoint: String,
    image_arn: String,
    image_version: String,
    maximum_duration_in_seconds: i32,
    started_at: f64,
    terminated_at: Option<f64>,
    state_reason: Option<String>,
    #[serde(default)]
    ingress_network_connectors: Vec<String>,
    #[serde(default)]
    egress_network_connectors: Vec<String>,
}

/// A page of microVMs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Item>,
    next_token: Option<String>,
}

/// A microVM on a page.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is what a client reads")]
struct Item {
    microvm_id: String,
    state: String,
    image_arn: String,
    image_version: String,
    started_at: f64,
}

/// A client.
pub(crate) struct RestClient {
    connection: SendRequest<Empty<Bytes>>,
    host: String,
    signer: Signer,
    /// `nextToken` of the page before.
    next: Option<String>,
}

impl RestClient {
    /// Connects to the listener for AWS's protocols.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("connecting to the listener")?;
        stream.set_nodelay(true).context("connecting to the listener")?;
        let (connection, driver) =
            handshake(TokioIo::new(stream)).await.context("connecting to the listener")?;
        tokio::spawn(driver);
        Ok(Self { connection, host: address.to_string(), signer: Signer::default(), next: None })
    }

    async fn call<T: DeserializeOwned>(&mut self, path: &str, query: &str) -> Result<T> {
        let stamp = Stamp::at(SystemTime::now());
        let authorization = self.signer.sign(&stamp, &self.host, path, query);
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let request = Request::get(uri)
            .header(HOST, &self.host)
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, "api-bench")
            .header("x-amz-date", stamp.text)
            .header(AUTHORIZATION, authorization)
            .body(Empty::new())?;
        self.connection.ready().await?;
        let response = self.connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).context("reading a response")
    }
}

impl Client for RestClient {
    async fn get(&mut self, id: String) -> Result<()> {
        self.call::<Microvm>(&format!("{PATH}/{id}"), "").await?;
        Ok(())
    }

    async fn page(&mut self) -> Result<()> {
        // Parameters in the order in which they are signed. Tokens have only characters that need no encoding.
        let query = match &self.next {
            Some(token) => format!("maxResults={PAGE}&nextToken={token}"),
            None => format!("maxResults={PAGE}"),
        };
        let page: Page = self.call(PATH, &query).await?;
        ensure!(page.items.len() == PAGE, "a page has {} items", page.items.len());
        self.next = page.next_token;
        Ok(())
    }
}

/// Signs requests without a body, with Signature Version 4.
#[derive(Default)]
struct Signer {
    /// The key of a day, with the day.
    key: Option<(String, hmac::Key)>,
}

impl Signer {
    /// The header `authorization` of a request.
    fn sign(&mut self, stamp: &Stamp, host: &str, path: &str, query: &str) -> String {
        const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let (date, time) = (stamp.date(), &stamp.text);
        let request =
            format!("GET\n{path}\n{query}\nhost:{host}\nx-amz-date:{time}\n\nhost;x-amz-date\n{NOTHING}");
        let scope = format!("{date}/{REGION}/{SERVICE}/aws4_request");
        let hash = hex(digest(&SHA256, request.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
        let signature = hex(hmac::sign(self.key(date), text.as_bytes()).as_ref());
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}",
            KEY.0
        )
    }

    /// The key of a day.
    fn key(&mut self, date: &str) -> &hmac::Key {
        if self.key.as_ref().is_none_or(|(of, _)| of != date) {
            self.key = None;
        }
        let derived = self.key.get_or_insert_with(|| {
            let key = |key: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, key);
            let secret = format!("AWS4{}", KEY.1);
            let signing = [date, REGION, SERVICE, "aws4_request"]
                .iter()
                .fold(key(secret.as_bytes()), |by, text| key(hmac::sign(&by, text.as_bytes()).as_ref()));
            (date.to_owned(), signing)
        });
        &derived.1
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
