//! Shells at endpoints. They are no calls of the API; each is an event when it opens, and one when it ends.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Audit, AuditEvent, Identity, Recorded};

/// A shell that is being opened.
#[derive(Debug)]
pub struct Shell<'a> {
    /// Account of the microVM.
    pub account: &'a str,
    /// Id of the microVM.
    pub microvm: &'a str,
    /// Who has made the token: an access key's id, `uid:0` for a local user. None for tokens of earlier releases.
    pub maker: Option<&'a str>,
    /// Address of the client.
    pub source: IpAddr,
    /// Id of the session: a UUID.
    pub session: &'a str,
}

/// Writes events of shells.
#[derive(Debug, Clone)]
pub struct ShellAudit {
    audit: Audit,
    region: String,
}

impl ShellAudit {
    /// Writes to this log, with this Region.
    #[must_use]
    pub fn new(audit: Audit, region: String) -> Self {
        Self { audit, region }
    }

    /// A shell is being opened. It opens after [`Recorded::done`].
    pub fn opened(&self, shell: &Shell<'_>) -> Recorded {
        self.record("OpenMicrovmShell", shell, Value::Null)
    }

    /// A shell has ended: with the status of its program, if it has exited by itself.
    pub fn closed(&self, shell: &Shell<'_>, took: Duration, exit: Option<u32>) -> Recorded {
        let additional = json!({"durationInSeconds": took.as_secs(), "exitCode": exit});
        self.record("CloseMicrovmShell", shell, additional)
    }

    fn record(&self, operation: &str, shell: &Shell<'_>, additional: Value) -> Recorded {
        self.audit.record(AuditEvent {
            service: "lambda.amazonaws.com",
            operation,
            region: &self.region,
            identity: Identity {
                account: Some(shell.account),
                principal: shell.maker,
                access_key_id: shell.maker.filter(|maker| !maker.contains(':')),
                role: None,
            },
            source: &shell.source.to_string(),
            user_agent: None,
            request_id: shell.session,
            request: json!({"microvmIdentifier": shell.microvm}),
            response: None,
            additional,
            error: None,
        })
    }
}
