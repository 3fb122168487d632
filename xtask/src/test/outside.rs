//! AWS's clients against a daemon on the metal, from this machine: boto3 (`tests/aws/from_outside.py`), then AWS's SDK for Rust
//! (`tests/aws-sdk`).
//!
//! * `outside.sh` – starts the daemon there, and keeps it until the clients have finished

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::access::{Access, Ports};
use crate::cache::Cache;
use crate::command;
use crate::images::Images;
use crate::metal::{Action, Job, Metal};
use crate::parts::{self, Executable, Parts};
use crate::python;
use crate::toolchain;

const SCRIPT: &str = include_str!("outside.sh");
const SCRIPT_NAME: &str = "outside.sh";
/// Package and program of the client in Rust.
const SDK: (&str, &str) = ("hearth-test-aws-sdk", "aws-sdk-client");
/// The build role, which a daemon without roles lets every caller of its account pass.
const ROLE: &str = "arn:aws:iam::000000000000:role/build";
/// Where the first client leaves the artifact for the second one.
const ARTIFACT: &str = "s3://hearth-local/outside.zip";
/// Time limit, in case a client hangs: its requests fail when the metal is gone.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs both clients. `parts` is what a script that starts the daemon needs ([`crate::daemon::prepare`]).
pub(super) fn check(cache: &Cache, parts: &mut Parts, images: &Images) -> Result<()> {
    let python = python::prepare(cache)?;
    let mut cargo = toolchain::native(cache)?;
    cargo.args(["build", "--package", SDK.0, "--bin", SDK.1]);
    let sdk = parts::executable_of(&mut cargo, SDK.0, Executable::Binary(SDK.1))?;

    let access = Access::prepare(cache, "outside", Ports::free()?)?;
    access.give(parts)?;
    parts.add_script(SCRIPT_NAME, SCRIPT)?;
    let metal = Metal::open(cache)?;
    let mut job = Job::new(Action::Run(Images::words(&metal, SCRIPT_NAME, &[])));
    job.timeout = Some(LIMIT);
    images.give(&mut job);
    parts.give(&metal, &mut job);
    access.forward(&mut job);
    let (stream, stdin) = UnixStream::pair().context("cannot make a socket pair")?;
    job.stdin = Some(Arc::new(stdin));
    thread::scope(|scope| {
        let metal = scope.spawn(|| metal.run(job));
        let clients = run_clients(&stream, &access, (&python, &sdk), &images.context("counter"));
        // An error means that the script has ended already, which is in its own result.
        let _ = writeln!(&stream, "{}", if clients.is_ok() { "passed" } else { "failed" });
        drop(stream);
        let finished = metal.join().map_err(|_| anyhow!("a thread of xtask panicked"))?;
        clients?;
        match finished?.status {
            0 => Ok(()),
            status => bail!("the daemon for clients from outside ended with status {status}"),
        }
    })
}

fn run_clients(
    stream: &UnixStream,
    access: &Access,
    (python, sdk): (&Path, &Path),
    context: &Path,
) -> Result<()> {
    let mut authority = String::new();
    let mut lines = BufReader::new(stream).lines();
    loop {
        match lines.next().transpose()?.as_deref() {
            Some("ready") => break,
            Some(line) => authority = authority + line + "\n",
            None => bail!("the daemon on the metal has ended before it was ready"),
        }
    }
    let authority = access.write("endpoints.pem", &authority)?;
    let home = access.folder().join("home");
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let mut pytest = access.aws_command(python);
    pytest.args([
        "-m",
        "pytest",
        "-q",
        "--color=no",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "from_outside.py",
    ]);
    pytest.current_dir(toolchain::repository()?.join("tests/aws")).env("PYTHONDONTWRITEBYTECODE", "1");
    for mut client in [pytest, access.aws_command(sdk)] {
        client.env("HOME", &home);
        client.env("HEARTH_ENDPOINTS", format!("127.0.0.1:{}", access.ports().endpoints));
        client.env("HEARTH_ENDPOINT_CA", &authority).env("HEARTH_AWS_FOLDER", context);
        client.env("HEARTH_AWS_ROLE", ROLE).env("HEARTH_AWS_ARTIFACT_URI", ARTIFACT);
        command::run(&mut client)?;
    }
    Ok(())
}
