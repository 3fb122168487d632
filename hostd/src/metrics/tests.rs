//! Tests of metrics as Prometheus reads them.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::*;

/// Metrics after every event has happened once.
fn all() -> Metrics {
    let metrics = Metrics::new();
    let took = Duration::from_millis(15);
    for outcome in [Outcome::Succeeded, Outcome::Failed, Outcome::Cancelled] {
        metrics.launched(outcome, took);
        metrics.suspended(outcome, took);
        metrics.resumed(outcome, took);
        metrics.built(outcome, took);
    }
    metrics.step("launch", "restore/memory", took);
    metrics.build_step("build the container image", took);
    metrics.called("RunMicrovm", "OK", took);
    metrics.called("a\"strange\\one\n", "OK", took);
    metrics.microvms("RUNNING", 7);
    for (state, count) in [("RUNNING", 6), ("SUSPENDING", 1), ("PENDING", 1)] {
        metrics.microvms(state, count);
    }
    metrics.pool("monitors", 3, 4);
    metrics.capacity(65_536, 2048);
    metrics.builds_under_way(2);
    metrics.log_bytes(12_345);
    let disk = AccountDisk { taken: 5 << 20, room: 7 << 20 };
    metrics.disks([("000000000002".to_owned(), disk)].into(), 1);
    metrics.disks([("000000000001".to_owned(), disk)].into(), 1);
    metrics.audit_lines_lost(1);
    metrics.request_panics(2);
    metrics.memory_kill();
    metrics.scrub_error();
    metrics.scrub_read(4096);
    metrics.scrubbed(1_700_000_000);
    metrics.endpoint_request("2xx");
    metrics.endpoint_refused("client");
    metrics.endpoint_waited(Outcome::Succeeded, took);
    metrics.endpoint_connections(3);
    metrics.hook(Hook::Run, &HookOutcome::Status(200));
    metrics.hook(Hook::Suspend, &HookOutcome::TimedOut);
    metrics.committed(12, Duration::from_micros(700));
    metrics.ran("000000000001", 0.5, 2048, Duration::from_secs(10));
    metrics
}

async fn get(address: SocketAddr, method: &str, path: &str) -> (StatusCode, String, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_client_gets_metrics_and_health_and_nothing_else() {
    let config = MetricsConfig { listen: Listen::At("127.0.0.1:0".parse().unwrap()) };
    let server = MetricsServer::bind(config, all()).await.unwrap().unwrap();
    let address = server.address().unwrap();
    let task = tokio::spawn(server.serve());
    let (status, kind, text) = get(address, "GET", "/metrics").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, server::OPEN_METRICS));
    assert!(parse(&text) == parse(&all().text().unwrap()), "{} bytes", text.len());
    assert_eq!(get(address, "HEAD", "/metrics").await.2, "");
    assert_eq!(get(address, "GET", "/healthz").await.2, "ok\n");
    assert_eq!(get(address, "POST", "/metrics").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get(address, "GET", "/").await.0, StatusCode::NOT_FOUND);

    let taken = MetricsConfig { listen: Listen::At(address) };
    let error = MetricsServer::bind(taken, Metrics::new()).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("metrics.listen"), "{error}");
    task.abort();
    assert!(
        MetricsServer::bind(MetricsConfig { listen: Listen::Off }, Metrics::new()).await.unwrap().is_none()
    );
}

#[test]
fn values_are_what_was_told() {
    let samples = parse(&all().text().unwrap());
    let account = "{account=\"000000000001\"}";
    for (sample, value) in [
        ("hearth_microvms{state=\"RUNNING\"}".to_owned(), 6.0),
        ("hearth_microvms{state=\"SUSPENDING\"}".to_owned(), 1.0),
        ("hearth_microvms{state=\"PENDING\"}".to_owned(), 1.0),
        ("hearth_pool_ready{pool=\"monitors\"}".to_owned(), 3.0),
        ("hearth_host_memory_reserved_bytes".to_owned(), f64::from(1u32 << 31)),
        ("hearth_launch_seconds_count{outcome=\"failed\"}".to_owned(), 1.0),
        ("hearth_hook_calls_total{hook=\"suspend\",outcome=\"timed_out\"}".to_owned(), 1.0),
        ("hearth_store_commit_group_size_sum".to_owned(), 12.0),
        ("hearth_store_commit_seconds_count".to_owned(), 1.0),
        ("hearth_audit_lines_lost_total".to_owned(), 1.0),
        (format!("hearth_account_disk_bytes{account}"), f64::from(5 << 20)),
        (format!("hearth_account_disk_room_bytes{account}"), f64::from(7 << 20)),
        ("hearth_account_disk_bytes{account=\"000000000002\"}".to_owned(), 0.0),
        ("hearth_disk_waiting_microvms".to_owned(), 1.0),
        ("hearth_request_panics_total".to_owned(), 2.0),
        ("hearth_microvm_memory_kills_total".to_owned(), 1.0),
        ("hearth_scrub_errors_total".to_owned(), 1.0),
        ("hearth_scrub_read_bytes_total".to_owned(), 4096.0),
        ("hearth_scrub_last_seconds".to_owned(), 1_700_000_000.0),
        (format!("hearth_usage_vcpu_seconds_total{account}"), 5.0),
        (format!("hearth_usage_memory_gigabyte_seconds_total{account}"), 20.0),
        ("hearth_endpoint_requests_total{answer=\"2xx\"}".to_owned(), 1.0),
        ("hearth_endpoint_refusals_total{limit=\"client\"}".to_owned(), 1.0),
        ("hearth_endpoint_wait_seconds_count{outcome=\"succeeded\"}".to_owned(), 1.0),
        ("hearth_endpoint_connections".to_owned(), 3.0),
    ] {
        assert_eq!(samples.get(&sample), Some(&value), "{sample}");
    }
}

#[test]
fn labels_cannot_become_too_many() {
    let metrics = Metrics::new();
    for index in 0..2000 {
        metrics.called(&format!("operation {index}"), "OK", Duration::ZERO);
    }
    let samples = parse(&metrics.text().unwrap());
    let calls = samples.keys().filter(|sample| sample.starts_with("hearth_api_call_seconds_count"));
    assert!(calls.count() <= 513);
}

/// Parses the samples of a text, which has to follow the rules of OpenMetrics 1.0: families together, each with its
/// type and help before its samples, names that fit the type, no sample twice, buckets that grow and end with the
/// total, and `# EOF` as the last line.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.pop(), Some("# EOF"));
    assert!(text.ends_with('\n'));
    let (mut samples, mut families) = (BTreeMap::new(), HashSet::new());
    let (mut family, mut kind) = (String::new(), String::new());
    let mut bucket = (String::new(), 0.0);
    for line in lines {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, value) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            if name != family {
                assert!(families.insert(name.to_owned()), "{name} is in two places");
                name.clone_into(&mut family);
            }
            match what {
                "TYPE" => value.clone_into(&mut kind),
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                "HELP" => assert!(value.ends_with('.')),
                other => panic!("{other} in {line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        assert!(name.starts_with("hearth_") && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()));
        let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is outside {family}"));
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            other => panic!("{other} in {line}"),
        };
        assert!(suffixes.contains(&suffix) && labels.ends_with('}'), "{line}");
        if suffix == "_bucket" {
            let (bound, others) = labels.strip_prefix("le=\"").unwrap().split_once('"').unwrap();
            if bucket.0 != others {
                bucket = (others.to_owned(), 0.0);
            }
            assert!(value >= bucket.1, "{line}");
            bucket.1 = if bound == "+Inf" { 0.0 } else { value };
        }
        assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} is there twice");
    }
    samples
}
