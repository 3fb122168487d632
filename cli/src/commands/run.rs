//! `hearth run`: a microVM.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hearth_proto::microvms::v1::logging::Logging as Destination;
use hearth_proto::microvms::v1::{
    CloudWatchLogging, IdlePolicy, Logging, LoggingDisabled, Microvm, MicrovmState, RunMicrovmRequest,
};

use super::{Context, get};
use crate::error::Failure;
use crate::names::with_version;
use crate::parse;

/// Default timeout of a launch: the longest /run hook, and time to restore.
const LAUNCH: Duration = Duration::from_secs(120);
/// The largest payload in bytes that any profile of the daemon accepts: 16,384 characters.
const MAX_PAYLOAD: u64 = 4 * 16_384;

/// Run a microVM of an image
///
/// It is waited for until it runs, so that a failing /run hook is seen; --detach returns at once.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Name or ARN of the image; NAME:VERSION for a version other than the newest active one
    image: String,
    /// The image's version; the newest active one unless given
    #[arg(long, value_name = "VERSION")]
    image_version: Option<String>,
    /// Do not wait until it runs
    #[arg(long, short, conflicts_with = "wait")]
    detach: bool,
    /// How long to wait until it runs; 2m unless given
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = parse::duration)]
    wait: Option<Option<Duration>>,
    /// Role whose credentials the app finds: a name or an ARN
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// What the app's /run hook gets
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file")]
    payload: Option<String>,
    /// A file with what the app's /run hook gets; - is stdin
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// Terminate it after so long, running or not: 1s to 8h, which is the default
    #[arg(long, value_name = "DURATION", value_parser = parse::seconds)]
    max_duration: Option<i32>,
    /// Suspend it when nobody has used its endpoint for so long: 1m to 8h
    #[arg(long, value_name = "DURATION", value_parser = parse::seconds)]
    suspend_after: Option<i32>,
    /// Terminate it when it has been suspended for so long; 8h unless given, 0 terminates instead of suspending
    #[arg(long, value_name = "DURATION", value_parser = parse::seconds, requires = "suspend_after")]
    terminate_after: Option<i32>,
    /// Requests to its endpoint do not resume it
    #[arg(long, requires = "suspend_after")]
    no_auto_resume: bool,
    /// What reaches it: HTTP_INGRESS unless given, SHELL_INGRESS, ALL_INGRESS, NO_INGRESS, or an ARN; may be repeated
    #[arg(long, value_name = "CONNECTOR")]
    ingress: Vec<String>,
    /// What it reaches: internet, none, or an ARN; the image's unless given
    #[arg(long, value_name = "CONNECTOR")]
    egress: Vec<String>,
    #[command(flatten)]
    logging: LoggingOptions,
    /// The same request with the same token gives the same microVM
    #[arg(long, value_name = "TOKEN")]
    client_token: Option<String>,
}

/// Where output goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LoggingOptions {
    /// Log group for the output
    #[arg(long, value_name = "GROUP")]
    log_group: Option<String>,
    /// Log stream for the output
    #[arg(long, value_name = "STREAM")]
    log_stream: Option<String>,
    /// Drop the output
    #[arg(long, conflicts_with_all = ["log_group", "log_stream"])]
    no_logs: bool,
}

impl LoggingOptions {
    pub(crate) fn logging(&self) -> Option<Logging> {
        let destination = if self.no_logs {
            Destination::Disabled(LoggingDisabled {})
        } else if self.log_group.is_some() || self.log_stream.is_some() {
            Destination::CloudWatch(CloudWatchLogging {
                log_group: self.log_group.clone(),
                log_stream: self.log_stream.clone(),
            })
        } else {
            return None;
        };
        Some(Logging { logging: Some(destination) })
    }
}

impl Run {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let (name, version) = with_version(&self.image);
        if version.is_some() && self.image_version.is_some() {
            return Err(Failure::usage("the version is given twice: write NAME:VERSION or --image-version"));
        }
        let payload = match &self.payload_file {
            Some(path) => Some(read_payload(path)?),
            None => self.payload.clone(),
        };
        let client = &context.client;
        let request = RunMicrovmRequest {
            image_identifier: Some(client.image(name).await?),
            image_version: self.image_version.clone().or(version.map(str::to_owned)),
            execution_role_arn: match &self.role {
                Some(role) => Some(client.role(role).await?),
                None => None,
            },
            idle_policy: self.idle_policy(),
            maximum_duration_in_seconds: self.max_duration,
            run_hook_payload: payload,
            ingress_network_connectors: client.connectors(&self.ingress).await?,
            egress_network_connectors: client.connectors(&self.egress).await?,
            logging: self.logging.logging(),
            client_token: self.client_token.clone(),
            kms_key_identifier: None,
        };
        let mut microvm =
            client.call(format!("run {}", self.image), client.microvms().run_microvm(request)).await?;
        if !self.detach && microvm.state() != MicrovmState::Running {
            let limit = self.wait.flatten().unwrap_or(LAUNCH);
            microvm = context.wait(&microvm.microvm_id, MicrovmState::Running, limit).await?;
        }
        print(context, &microvm).await
    }

    fn idle_policy(&self) -> Option<IdlePolicy> {
        let max_idle = self.suspend_after?;
        Some(IdlePolicy {
            max_idle_duration_seconds: Some(max_idle),
            suspended_duration_seconds: Some(self.terminate_after.unwrap_or(28_800)),
            auto_resume_enabled: Some(!self.no_auto_resume),
        })
    }
}

async fn print(context: &Context, microvm: &Microvm) -> Result<(), Failure> {
    let out = context.out;
    if out.json {
        out.json(microvm)
    } else if out.quiet {
        out.line(&microvm.microvm_id)
    } else {
        out.text(&get::brief(context, microvm).await)
    }
}

fn read_payload(path: &Path) -> Result<String, Failure> {
    let wrong = |why: String| Failure::usage(format!("cannot use the payload {}: {why}", path.display()));
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_PAYLOAD + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_PAYLOAD + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > MAX_PAYLOAD {
        return Err(wrong("it is too large: at most 16384 characters go".to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))
}
