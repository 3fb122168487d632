//! Errors in one line: what failed, why, and what to do; exit statuses.

use std::io;
use std::process::ExitCode;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Exit status: the command failed.
const FAILED: u8 = 1;
/// Exit status: the command line is invalid; the same as clap's.
const USAGE: u8 = 2;
/// Exit status: no daemon answers.
const NO_CONNECTION: u8 = 3;
/// Exit status after Ctrl-C, as in shells: 128 and SIGINT.
const INTERRUPTED: u8 = 130;

/// Why a command failed. The text is one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The operation was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// The command line is invalid.
    #[error("{0}")]
    Usage(String),
    /// The daemon cannot be reached.
    #[error("{0}")]
    NoConnection(String),
    /// The user pressed Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
    /// A command that was run has exited with this status, and has printed the reason itself.
    #[error("it has ended with status {0}")]
    Ended(u8),
    /// The daemon has refused the request, or has failed.
    #[error("{}", refusal(.what, .status))]
    Refused {
        /// The operation, as in "cannot …".
        what: String,
        /// The daemon's status.
        status: Box<Status>,
    },
    /// The output cannot be written. If its reader has closed it, that is no failure.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// Makes the failure of `what` from a status; broken connections are distinguished from refusals.
    pub(crate) fn answer(what: impl Into<String>, endpoint: &str, status: Status) -> Self {
        let what = what.into();
        match transport(&status) {
            Some(why) => Self::NoConnection(format!(
                "cannot {what}: the connection to {endpoint} broke: {why}; look whether hearthd runs there, and try again"
            )),
            None => Self::Refused { what, status: Box::new(status) },
        }
    }

    /// Whether the daemon reports that the caller lacks a permission.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == Code::PermissionDenied)
    }

    /// Prints the failure to stderr; returns the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        let status = match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Ended(status) => return ExitCode::from(*status),
            Self::Failed(_) | Self::Refused { .. } | Self::Output(_) => FAILED,
            Self::Usage(_) => USAGE,
            Self::NoConnection(_) => NO_CONNECTION,
            Self::Interrupted(_) => INTERRUPTED,
        };
        eprintln!("error: {}", one_line(&self.to_string()));
        ExitCode::from(status)
    }
}

/// Why the connection broke; none if the status has another reason.
fn transport(status: &Status) -> Option<String> {
    let source = std::error::Error::source(status)?;
    source.is::<tonic::transport::Error>().then(|| chain(source))
}

/// An error with its causes, each text once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Skipped are wrappers that only repeat their cause, and tonic's own text, which explains nothing.
        if text != "transport error" && !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    if texts.is_empty() { "transport error".to_owned() } else { texts.join(": ") }
}

fn refusal(what: &str, status: &Status) -> String {
    let details = status.get_error_details();
    let mut text = format!("cannot {what}: {}", message(status));
    if let Some(bad) = details.bad_request() {
        for violation in &bad.field_violations {
            if !text.contains(&violation.description) {
                text.push_str(&format!("; {}: {}", violation.field, violation.description));
            }
        }
    }
    if let Some(info) = details.error_info()
        && !info.reason.is_empty()
    {
        text.push_str(&format!(" ({})", info.reason));
    }
    let resource = details.resource_info().map_or("", |info| info.resource_type.as_str());
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    if let Some(remedy) = remedy(status.code(), resource, retry.map(|delay| delay.as_secs_f64())) {
        text.push_str("; ");
        text.push_str(&remedy);
    }
    text
}

fn message(status: &Status) -> String {
    let text = status.message().trim().trim_end_matches('.');
    if text.is_empty() { status.code().description().to_owned() } else { text.to_owned() }
}

fn remedy(code: Code, resource: &str, retry_seconds: Option<f64>) -> Option<String> {
    let again = retry_seconds.map(|seconds| format!("try again in {} s", seconds.ceil().max(1.0)));
    let text = match code {
        Code::Unauthenticated => {
            "set HEARTH_ACCESS_KEY_ID and HEARTH_SECRET_ACCESS_KEY, or access_key_id and secret_access_key of a profile"
        }
        Code::PermissionDenied => "ask the host's operator for access, or use other keys",
        Code::NotFound if resource.to_lowercase().contains("log") => {
            "`hearth log-groups` and `hearth log-streams GROUP` list what there is"
        }
        Code::NotFound if resource.to_lowercase().contains("image") => "`hearth image ls` lists the images",
        Code::NotFound if !resource.is_empty() => "`hearth ps --all` lists the microVMs",
        Code::ResourceExhausted if again.is_none() => "`hearth host` says what is in use",
        Code::DeadlineExceeded => "try again, or give it longer with --timeout",
        Code::Unimplemented => "the daemon is older than this client: `hearth host` says its version",
        Code::Internal if again.is_none() => "the daemon's own log says more",
        _ => return again,
    };
    Some(text.to_owned())
}

/// Text without newlines and control characters, which could move the cursor: parts of it come from other machines.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\r' | '\t' => ' ',
            other if other.is_control() => '\u{fffd}',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn printed(code: Code, message: &str, details: ErrorDetails) -> String {
        let status = Status::with_error_details(code, message, details);
        Failure::answer("run an image", "unix:/run/x", status).to_string()
    }

    #[test]
    fn a_refusal_names_the_exception_and_the_remedy() {
        let mut details =
            ErrorDetails::with_error_info("ResourceNotFoundException", "hearth.microvms.v1", []);
        details.set_resource_info("microvm", "microvm-1", "", "");
        assert_eq!(
            printed(Code::NotFound, "MicroVM not found: microvm-1", details),
            "cannot run an image: MicroVM not found: microvm-1 (ResourceNotFoundException); \
             `hearth ps --all` lists the microVMs"
        );
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1500)));
        assert_eq!(
            printed(Code::ResourceExhausted, "Rate exceeded", details),
            "cannot run an image: Rate exceeded; try again in 2 s"
        );
    }

    #[test]
    fn a_field_is_named_unless_the_message_names_it() {
        let violation = FieldViolation::new("imageVersion", "must not be empty");
        let details = ErrorDetails::with_bad_request(vec![violation]);
        assert_eq!(
            printed(Code::InvalidArgument, "1 validation error detected", details.clone()),
            "cannot run an image: 1 validation error detected; imageVersion: must not be empty"
        );
        assert_eq!(
            printed(Code::InvalidArgument, "imageVersion must not be empty", details),
            "cannot run an image: imageVersion must not be empty"
        );
    }

    #[test]
    fn text_of_others_stays_on_its_line() {
        assert_eq!(one_line("a\nb\x1b[2Jc"), "a b\u{fffd}[2Jc");
    }
}
