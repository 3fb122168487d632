//! `hearth curl`: curl with token, port and authority.

use std::ffi::OsString;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use tokio::process::{Child, Command};
use tokio::signal::unix::SignalKind;
use tokio::time::timeout;

use super::Context;
use crate::endpoint::{AUTH, EndpointAddress, PORT, Target, http_token};
use crate::error::Failure;
use crate::interrupt::{TerminationSignals, terminated_by};

/// Validity of the token in minutes: it only has to be valid at the start.
const MINUTES: i32 = 5;
/// How long curl may take to exit by itself after an interruption.
const INTERRUPTED: Duration = Duration::from_secs(1);

/// Send a request to a microVM with curl
///
/// `hearth curl ID:8080/path -d x=1` is curl with the address, a token for that port and the host's authority.
/// All that follows goes to curl as it is; options of hearth come before ID. The exit status is curl's. The token is
/// good for five minutes; with -L it is sent to where the app redirects to, too, if that is https.
#[derive(Debug, Args)]
#[command(override_usage = "hearth curl [OPTIONS] ID[:PORT][/PATH] [CURL OPTIONS]...")]
pub(crate) struct Curl {
    /// Id of the microVM, or its beginning; 8080 unless another port is given; then options of curl
    #[arg(
        required = true,
        value_name = "ID[:PORT][/PATH]",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

impl Curl {
    /// Parses the target, so that an invalid one is reported before any request.
    pub(super) fn target(&self) -> Result<Target, Failure> {
        let word = self.words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        word.parse().map_err(|why| Failure::usage(format!("{word:?} is nothing to be reached: {why}")))
    }

    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let target = self.target()?;
        let client = &context.client;
        let microvm = context.microvm(&client.microvm_id(&target.id).await?).await?;
        let address = EndpointAddress::of(client, &microvm).await?;
        let token = http_token(client, &microvm.microvm_id, target.port, MINUTES).await?;
        // The signals are caught before the file is made: otherwise they would leave it behind.
        let mut signals = TerminationSignals::listen()?;
        let folder = tempfile::Builder::new()
            .prefix("hearth-curl-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir();
        let folder =
            folder.map_err(|error| Failure::failed(format!("cannot make a temporary folder: {error}")))?;
        let config = config(&address, &target, &token, folder.path());
        let config = config.map_err(|error| {
            Failure::failed(format!("cannot write to {}: {error}", folder.path().display()))
        })?;
        let mut command = Command::new("curl");
        command.arg("--config").arg(config).args(self.words.iter().skip(1)).kill_on_drop(true);
        let mut curl = command.spawn().map_err(|error| missing(&error))?;
        let status = wait(&mut curl, &mut signals).await?;
        drop(folder);
        exit_result(status)
    }
}

/// Writes curl's options to a file, because other users can see its arguments in the list of processes.
fn config(address: &EndpointAddress, target: &Target, token: &str, folder: &Path) -> io::Result<PathBuf> {
    let (host, port) = &address.dial;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let mut lines = vec![
        option("url", &address.url(&target.path)),
        option("connect-to", &format!("{}:{}:{host}:{port}", address.name, address.port)),
        // The address is the endpoint's own, so no proxy may be used for it.
        option("noproxy", &address.name),
        option("proto-redir", "=https"),
        option("header", &format!("{AUTH}: {token}")),
        option("header", &format!("{PORT}: {}", target.port)),
    ];
    if let Some(pem) = &address.authority {
        let path = folder.join("ca.pem");
        write(&path, pem)?;
        lines.push(option("cacert", &path.to_string_lossy()));
    }
    let path = folder.join("config");
    write(&path, &lines.concat())?;
    Ok(path)
}

/// A line of a configuration file of curl.
fn option(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{name} = \"{value}\"\n")
}

/// Writes a file that only its owner can read.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn missing(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::failed(
            "there is no curl on this machine; install it (apt install curl), or use another client with \
             `hearth token` and `hearth ca`",
        );
    }
    Failure::failed(format!("cannot start curl: {error}"))
}

/// Waits for curl, which gets Ctrl-C from the terminal itself. Other signals make this function terminate it.
async fn wait(curl: &mut Child, signals: &mut TerminationSignals) -> Result<ExitStatus, Failure> {
    let lost = |error: io::Error| Failure::failed(format!("cannot wait for curl: {error}"));
    let signal = tokio::select! {
        status = curl.wait() => return status.map_err(lost),
        signal = signals.wait() => signal,
    };
    if signal == SignalKind::interrupt()
        && let Ok(status) = timeout(INTERRUPTED, curl.wait()).await
    {
        return status.map_err(lost);
    }
    curl.kill().await.map_err(lost)?;
    Err(terminated_by(signal.as_raw_value()))
}

fn exit_result(status: ExitStatus) -> Result<(), Failure> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::Ended(u8::try_from(code).unwrap_or(u8::MAX))),
        (None, signal) => Err(terminated_by(signal.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_secret_is_in_a_file_of_the_caller_alone() {
        let folder = tempfile::tempdir().unwrap();
        let address = EndpointAddress {
            name: "u.example".into(),
            port: 8443,
            dial: ("::1".into(), 443),
            authority: Some("PEM".into()),
        };
        let target: Target = "a1:80/x\"y".parse().unwrap();
        let path = config(&address, &target, "t0", folder.path()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for line in [
            r#"url = "https://u.example:8443/x\"y""#,
            r#"connect-to = "u.example:8443:[::1]:443""#,
            r#"header = "x-aws-proxy-auth: t0""#,
            r#"header = "x-aws-proxy-port: 80""#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert_eq!(fs::read_to_string(folder.path().join("ca.pem")).unwrap(), "PEM");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
