//! AWS's own clients at this host: boto3 and the AWS CLI, driven by the tests in `tests/aws`.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::super::super::AwsConfig;
use super::super::AwsListener;
use super::lines;
use super::stand::{Bounds, KEYS, Stand};
use super::trouble;
use crate::clock::Clock;
use crate::operation::Operation;
use crate::service::{Limits, Profile, Rate};

/// Variable with the Python interpreter that has these clients; `cargo xtask test` sets it.
const PYTHON: &str = "HEARTH_AWS_PYTHON";
/// Variable with version 2 of the AWS CLI, which `cargo xtask test` sets as well.
const CLI2: &str = "HEARTH_AWS_CLI2";
/// Names of the keys in the tests.
const NAMES: [&str; 5] = ["everything", "other", "third", "reader", "nothing"];

/// Serves a stand; returns its URL.
async fn serve(stand: &Stand, end: watch::Receiver<bool>) -> String {
    let config = AwsConfig { address: Some(([127, 0, 0, 1], 0).into()), ..AwsConfig::default() };
    let listener = AwsListener::bind(&config, true, Clock::system()).await.unwrap().unwrap();
    let address = listener.address().unwrap();
    tokio::spawn(listener.serve(stand.service.clone(), Arc::clone(&stand.access), end));
    format!("http://{address}")
}

/// Small limits: two images, 2 GiB of memory for an account and 4 for the host, one suspend a second.
fn bounds() -> Bounds {
    let rates = [(Operation::SuspendMicrovm, Rate::new(1, 1).unwrap())].into();
    let limits = Limits { memory_mib: Some(2048), images: Some(2), rates, ..Limits::default() };
    Bounds { limits, capacity_mib: Some(4096) }
}

/// One call of each operation a second.
fn throttled() -> Bounds {
    let rates = Operation::ALL.iter().filter_map(|operation| Some((*operation, Rate::new(1, 1)?)));
    Bounds { limits: Limits { rates: rates.collect(), ..Limits::default() }, ..Bounds::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_and_the_command_line_of_aws_run_everything() {
    let Some(python) = env::var_os(PYTHON) else {
        return hearth_testing::skip(
            "HEARTH_AWS_PYTHON names no Python with boto3; `cargo xtask test` installs one",
        );
    };
    if env::var_os(CLI2).is_none() {
        // Its tests are skipped, all others run.
        hearth_testing::skip("HEARTH_AWS_CLI2 names no AWS CLI of version 2; `cargo xtask test` unpacks one");
    }
    let (_end, ended) = watch::channel(false);
    let stands = [
        ("default", Stand::new(Profile::Default).await),
        ("strict", Stand::new(Profile::AwsStrict).await),
        ("limited", Stand::within(Profile::Default, bounds()).await),
        ("throttled", Stand::within(Profile::Default, throttled()).await),
        ("troubled", trouble::stand().await),
    ];
    let mut told = Map::new();
    for (name, stand) in &stands {
        told.insert((*name).to_owned(), serve(stand, ended.clone()).await.into());
    }
    let [(_, default), ..] = &stands;
    let live = lines::write(&default.outside.logs, Clock::system());
    let keys = NAMES.iter().zip(KEYS).map(|(name, (id, secret, account))| {
        ((*name).to_owned(), json!({ "id": id, "secret": secret, "account": account }))
    });
    told.insert("keys".to_owned(), Value::Object(keys.collect()));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/aws");
    let cache = tempfile::tempdir().unwrap();
    let mut pytest = Command::new(&python);
    pytest.args(["-m", "pytest", "-q", "-rs", "--color=no", "-p", "no:cacheprovider"]).current_dir(folder);
    pytest.env("HEARTH_AWS", Value::Object(told).to_string());
    pytest.env("PYTHONDONTWRITEBYTECODE", "1").env("AWS_EC2_METADATA_DISABLED", "true");
    // Nothing that the user has set up for AWS.
    pytest.env("HOME", cache.path()).env_remove("AWS_PROFILE");
    let output = tokio::task::spawn_blocking(move || pytest.output()).await.unwrap().unwrap();
    live.abort();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{errors}");
    println!("{out}");
}
