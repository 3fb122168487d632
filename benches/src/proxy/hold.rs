//! Open, idle connections. One process holds them, and another one serves them: their cost for the proxy is the growth of its
//! process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::certificate::Certificate;
use crate::hearth::{Hearth, NAME};
use crate::load::Protocol;

/// Connections that are opened at a time: fewer than a listener's queue holds.
const AT_ONCE: usize = 64;
/// Line that the holding process prints when all connections are open.
const READY: &str = "ready";

/// Opens connections, makes one request on each, and keeps them until its input ends
#[derive(Debug, Args)]
pub(crate) struct Hold {
    address: SocketAddr,
    certificate: PathBuf,
    count: usize,
    /// HTTP/2 instead of HTTP/1.1
    #[arg(long)]
    http2: bool,
}

impl Hold {
    pub(crate) async fn run(self) -> Result<()> {
        let mut token = String::new();
        let mut input = BufReader::new(std::io::stdin());
        input.read_line(&mut token).context("reading the token")?;
        let (tls, token) = (Arc::new(self.tls()?), token.trim().to_owned());
        let (mut opening, mut open) = (JoinSet::new(), Vec::new());
        for _ in 0..self.count {
            if opening.len() == AT_ONCE {
                open.extend(opening.join_next().await.transpose()?.transpose()?);
            }
            opening.spawn(connect(self.address, Arc::clone(&tls), token.clone(), self.http2));
        }
        while let Some(opened) = opening.join_next().await {
            open.push(opened??);
        }
        println!("{READY}");
        // The connections live on in tasks of this runtime.
        tokio::task::spawn_blocking(move || input.read_to_end(&mut Vec::new())).await??;
        Ok(())
    }

    fn tls(&self) -> Result<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.certificate)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![if self.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Ok(config)
    }
}

enum Sender {
    Http1(#[expect(dead_code, reason = "keeps its connection open")] http1::SendRequest<Empty<Bytes>>),
    Http2(#[expect(dead_code, reason = "keeps its connection open")] http2::SendRequest<Empty<Bytes>>),
}

async fn connect(
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    token: String,
    http2: bool,
) -> Result<Sender> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    let stream = TlsConnector::from(tls).connect(ServerName::try_from(NAME)?, stream).await?;
    let stream = TokioIo::new(stream);
    let target = if http2 { format!("https://{NAME}/") } else { "/".to_owned() };
    let request = Request::get(target).header("x-aws-proxy-auth", token);
    let request = if http2 { request } else { request.header("host", NAME) }.body(Empty::new())?;
    let (response, sender) = if http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        (sender.send_request(request).await?, Sender::Http2(sender))
    } else {
        let (mut sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        (sender.send_request(request).await?, Sender::Http1(sender))
    };
    ensure!(response.status() == 200, "the proxy answers {}", response.status());
    response.into_body().collect().await?;
    Ok(sender)
}

/// Idle connections that another process holds; they are closed when this is dropped.
struct Held(Child);

impl Held {
    fn open(hearth: &Hearth, certificate: &Path, count: usize, http2: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hold").arg(hearth.address.to_string()).arg(certificate).arg(count.to_string());
        if http2 {
            command.arg("--http2");
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut held = Self(child.context("starting what holds connections")?);
        let (input, output) = (held.0.stdin.as_mut(), held.0.stdout.as_mut());
        let (input, output) = input.zip(output).context("talking to what holds connections")?;
        writeln!(input, "{}", hearth.token)?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == READY, "what holds connections has ended");
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take()); // the process then exits
        let _ = self.0.wait();
    }
}

/// Says what each of so many idle connections costs a proxy that has had none before, in KiB
#[derive(Debug, Args)]
pub(crate) struct Idle {
    app: SocketAddr,
    folder: PathBuf,
    count: u32,
    /// HTTP/2 instead of HTTP/1.1
    #[arg(long)]
    http2: bool,
}

impl Idle {
    /// Runs the measurement. Blocks until it is done.
    pub(crate) fn run(&self, proxy: &Runtime) -> Result<()> {
        let certificate = Certificate::load(&self.folder)?;
        let hearth = proxy.block_on(Hearth::start(proxy.handle(), self.app, &certificate))?;
        let hold = |count| Held::open(&hearth, &certificate.certificate, count, self.http2);
        // Memory that is allocated once is not counted.
        drop(hold(AT_ONCE)?);
        let before = anonymous_kib()?;
        let held = hold(usize::try_from(self.count)?)?;
        let after = anonymous_kib()?;
        drop(held);
        println!("{}", (after - before) / f64::from(self.count));
        Ok(())
    }
}

/// KiB per connection of `count` idle ones in a separate process with a proxy. Blocks until it is measured.
pub(crate) fn cost(app: SocketAddr, folder: &Path, count: u32, protocol: Protocol) -> Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("idle").arg(app.to_string()).arg(folder).arg(count.to_string());
    if protocol == Protocol::Http2 {
        command.arg("--http2");
    }
    let output = command.stderr(Stdio::inherit()).output().context("starting a proxy")?;
    ensure!(output.status.success(), "the proxy has ended: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Anonymous memory of this process, in KiB.
fn anonymous_kib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no RssAnon")?;
    Ok(number.parse()?)
}
