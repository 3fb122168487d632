//! Runs h2load, and parses its output.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;

use crate::hearth::NAME;

/// Warm-up before requests are counted, so that connections are open and code is warm.
const WARM_UP: &str = "--warm-up-time=500ms";

/// HTTP version of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Destination of the requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// The app itself, without TLS.
    App(SocketAddr),
    /// A proxy, or a relay in front of it.
    Proxy(SocketAddr),
}

/// Duration or number of requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    Seconds(u32),
    Requests(u32),
}

/// The requests to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) protocol: Protocol,
    /// Number of connections, and of concurrent requests on each.
    pub(crate) connections: (u32, u32),
    pub(crate) amount: Amount,
    pub(crate) path: &'a str,
    /// The file that each request uploads.
    pub(crate) upload: Option<&'a Path>,
}

/// Result of requests, all of which have succeeded.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Negotiated TLS parameters, if TLS was used.
    pub(crate) tls: Option<String>,
    /// Every request.
    pub(crate) requests: Vec<Request>,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// Start, in µs since 1970.
    pub(crate) began: u64,
    /// Duration until the end of the response, in µs.
    pub(crate) took: u64,
}

/// The program that makes requests.
#[derive(Debug)]
pub(crate) struct H2load {
    program: PathBuf,
    log: PathBuf,
    token: String,
}

impl H2load {
    /// The program with its log in `folder`; requests carry `token`.
    pub(crate) fn new(program: &Path, folder: &Path, token: &str) -> Self {
        Self { program: program.to_owned(), log: folder.join("requests.log"), token: token.to_owned() }
    }

    /// Makes requests, all of which must succeed.
    pub(crate) async fn run(&self, target: Target, load: Load<'_>) -> Result<Outcome> {
        match std::fs::remove_file(&self.log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("removing the log of requests");
            }
            _ => {} // otherwise h2load would append to the old log
        }
        let mut command = self.command(target, load);
        command.arg("--header").arg(format!("x-aws-proxy-auth: {}", self.token));
        command.arg("--log-file").arg(&self.log);
        let output = run(command).await?;
        let rate = check(&output, load.amount).with_context(|| format!("h2load says:\n{output}"))?;
        let log = std::fs::read_to_string(&self.log).context("reading the log of requests")?;
        Ok(Outcome { rate, tls: tls(&output), requests: requests(&log)? })
    }

    /// Number of 4xx responses to requests without a token.
    pub(crate) async fn refusals(&self, target: Target, load: Load<'_>) -> Result<u64> {
        let output = run(self.command(target, load)).await?;
        Ok(Statuses::of(&output)?.client_errors)
    }

    fn command(&self, target: Target, load: Load<'_>) -> Command {
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        if load.protocol == Protocol::Http1 {
            command.arg("--h1");
        } else {
            command.arg("--alpn-list=h2");
        }
        let (connections, streams) = load.connections;
        command.arg(format!("--clients={connections}")).arg(format!("--max-concurrent-streams={streams}"));
        match load.amount {
            Amount::Seconds(seconds) => command.arg(format!("--duration={seconds}")).arg(WARM_UP),
            Amount::Requests(count) => command.arg(format!("--requests={count}")),
        };
        if let Some(file) = load.upload {
            command.arg("--data").arg(file);
        }
        let path = load.path;
        match target {
            Target::App(address) => command.arg(format!("http://{address}{path}")),
            Target::Proxy(address) => command
                .arg(format!("--connect-to={address}"))
                .arg(format!("https://{NAME}:{}{path}", address.port())),
        };
        command
    }
}

async fn run(mut command: Command) -> Result<String> {
    let output = command.output().await.context("running h2load")?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("h2load: {}: {}{stdout}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout)
}

/// Requests per second, if every response was 2xx.
fn check(output: &str, amount: Amount) -> Result<f64> {
    let Statuses { done, succeeded, lost, good, client_errors, others } = Statuses::of(output)?;
    ensure!(done > 0, "no request was answered");
    ensure!(succeeded == done && lost == 0, "requests have failed");
    ensure!(good >= done && client_errors == 0 && others == 0, "requests were not answered with 2xx");
    if let Amount::Requests(count) = amount {
        ensure!(done == u64::from(count), "requests were not made");
    }
    let line = line(output, "finished in ")?;
    let rate = line.split(", ").find_map(|part| part.strip_suffix(" req/s")).context("no rate is told")?;
    rate.parse().context("the rate is no number")
}

/// Counts of responses.
#[derive(Debug, PartialEq, Eq)]
struct Statuses {
    done: u64,
    succeeded: u64,
    /// Requests that failed, had an error or timed out.
    lost: u64,
    /// Responses with 2xx.
    good: u64,
    /// Responses with 4xx.
    client_errors: u64,
    /// Responses with 3xx and 5xx.
    others: u64,
}

impl Statuses {
    fn of(output: &str) -> Result<Self> {
        let (requests, codes) = (line(output, "requests: ")?, line(output, "status codes: ")?);
        Ok(Self {
            done: count(requests, "done")?,
            succeeded: count(requests, "succeeded")?,
            lost: count(requests, "failed")? + count(requests, "errored")? + count(requests, "timeout")?,
            good: count(codes, "2xx")?,
            client_errors: count(codes, "4xx")?,
            others: count(codes, "3xx")? + count(codes, "5xx")?,
        })
    }
}

/// The rest of the output's line that begins with `start`.
fn line<'a>(output: &'a str, start: &str) -> Result<&'a str> {
    output
        .lines()
        .find_map(|line| line.strip_prefix(start))
        .with_context(|| format!("h2load says no {start:?}"))
}

/// The number before a word, in a line of numbers and words separated by commas.
fn count(line: &str, word: &str) -> Result<u64> {
    let number = line.split(", ").find_map(|part| part.strip_suffix(word));
    let number = number.with_context(|| format!("h2load counts no {word}"))?;
    number.trim().parse().with_context(|| format!("h2load's count of {word} is no number"))
}

/// Protocol, cipher and key exchange of TLS.
fn tls(output: &str) -> Option<String> {
    let parts = ["TLS Protocol: ", "Cipher: ", "Server Temp Key: "];
    let parts: Vec<&str> = parts.iter().filter_map(|part| line(output, part).ok()).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The requests in a log, whose lines have start, status and duration.
fn requests(log: &str) -> Result<Vec<Request>> {
    let request = |line: &str| {
        let mut fields = line.split('\t');
        let (began, _, took) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Request { began: began.parse().ok()?, took: took.parse().ok()? })
    };
    log.lines().map(|line| request(line).with_context(|| format!("h2load's log has {line:?}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "starting benchmark...
TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
Server Temp Key: X25519 253 bits
Application protocol: h2

finished in 2.06s, 78004.50 req/s, 11.37MB/s
requests: 78004 total, 78014 started, 78004 done, 78004 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 78004 2xx, 0 3xx, 0 4xx, 0 5xx
";

    #[test]
    fn rates_are_taken_where_all_requests_succeeded() {
        assert!((check(SAID, Amount::Seconds(2)).unwrap() - 78004.5).abs() < f64::EPSILON);
        assert!(check(SAID, Amount::Requests(78004)).is_ok());
        assert!(check(SAID, Amount::Requests(78005)).is_err());
        for (is, other) in [
            ("78004 succeeded", "78003 succeeded"),
            ("0 errored", "1 errored"),
            ("78004 2xx", "78003 2xx"),
            ("0 5xx", "1 5xx"),
            ("78004 done, 78004 succeeded", "0 done, 0 succeeded"),
            ("req/s", ""),
        ] {
            assert!(check(&SAID.replace(is, other), Amount::Seconds(2)).is_err(), "{other}");
        }
    }

    #[test]
    fn what_tls_has_agreed_on_is_told() {
        assert_eq!(tls(SAID).as_deref(), Some("TLSv1.3, TLS_AES_128_GCM_SHA256, X25519 253 bits"));
        assert_eq!(tls("Application protocol: http/1.1\n"), None);
    }

    #[test]
    fn the_log_has_a_line_for_each_request() {
        let log = "1795291949616959\t200\t135\n1795291949617324\t200\t37\n";
        let first = Request { began: 1_795_291_949_616_959, took: 135 };
        assert_eq!(requests(log).unwrap().first(), Some(&first));
        assert_eq!(requests(log).unwrap().len(), 2);
        assert!(requests("1795291949616959\t200\n").is_err());
    }
}
