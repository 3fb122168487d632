//! The two operations of AWS's Security Token Service that this host has: `AssumeRole` makes a session of a role
//! ([`crate::access::sessions`]), `GetCallerIdentity` says who calls.
//!
//! They are no [`Operation`](crate::operation::Operation)s: those are the methods over gRPC, are about images and microVMs,
//! and are what policies allow by name, whereas assuming a role is allowed by `PassRole` and asking who one is by nothing.
//! So they do not go through [`Service::call`], but through [`Service::sts`], which has the same steps in the same order:
//!
//! ```text
//!  rate ─► constraints ─► permission ─► work ─► audit
//! ```
//!
//! * **Rate**: both share one limit for each account, [`Limits::sts`](super::quota::Limits::sts).
//! * **Audit**: the observer receives each call ([`CallObserver::sts`](super::observe::CallObserver::sts)). Lines of the audit
//!   log have `sts.amazonaws.com` as their source, and credentials are redacted. `AssumeRole` counts as a call that changes
//!   something, so that it is audited also where reads are not.
//!
//! Source: <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html> and the model of botocore.

mod assume_role;
mod error;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Service;
use super::observe::StsCall;
use super::pipeline::Incoming;
use crate::access::sessions::{NotAssumable, TemporaryCredentials};
use crate::access::{AssumedRole, Caller};

pub(crate) use assume_role::AssumeRole;
pub(crate) use error::StsError;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    AssumeRole(AssumeRole),
    GetCallerIdentity,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Credentials, and what the session is.
    Assumed { credentials: TemporaryCredentials, session: Identity },
    /// Who calls.
    Identity { account: String, identity: Identity },
}

/// An identity, as STS describes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The unique id: `UserId`, `AssumedRoleId`.
    pub(crate) id: String,
    /// The ARN.
    pub(crate) arn: String,
}

impl Request {
    pub(crate) const ASSUME_ROLE: &str = "AssumeRole";
    pub(crate) const GET_CALLER_IDENTITY: &str = "GetCallerIdentity";

    /// Name of the operation.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Self::AssumeRole(_) => Self::ASSUME_ROLE,
            Self::GetCallerIdentity => Self::GET_CALLER_IDENTITY,
        }
    }

    /// The request for the audit log.
    fn json(&self) -> Value {
        match self {
            Self::AssumeRole(request) => request.json(),
            Self::GetCallerIdentity => Value::Null,
        }
    }
}

impl Answer {
    /// The answer for the audit log, which redacts the secrets.
    fn json(&self) -> Value {
        match self {
            Self::Assumed { credentials, session } => json!({
                "credentials": {
                    "accessKeyId": credentials.access_key_id,
                    "secretAccessKey": credentials.secret.expose(),
                    "sessionToken": credentials.token.expose(),
                    "expiration": expiration(credentials),
                },
                "assumedRoleUser": { "assumedRoleId": session.id, "arn": session.arn },
            }),
            Self::Identity { .. } => Value::Null,
        }
    }
}

/// The end of credentials: `2026-08-15T18:17:44Z`.
pub(crate) fn expiration(credentials: &TemporaryCredentials) -> String {
    OffsetDateTime::from(credentials.expiration).format(&Rfc3339).unwrap_or_default()
}

impl Identity {
    /// The identity of a caller.
    fn of(caller: &Caller) -> Self {
        match &caller.role {
            Some(role) => Self::session(&caller.account, &role.role_arn, &role.session_name),
            None => Self {
                id: caller.principal.clone(),
                arn: format!("arn:aws:iam::{}:user/{}", caller.account, caller.principal),
            },
        }
    }

    fn session(account: &str, role_arn: &str, name: &str) -> Self {
        Self { id: AssumedRole::id(role_arn, name), arn: AssumedRole::arn(account, role_arn, name) }
    }
}

impl Service {
    /// Performs an operation of STS, and notifies the observer when it is answered.
    ///
    /// # Errors
    /// [`StsError`]
    pub(crate) async fn sts(&self, incoming: &Incoming, request: &Request) -> Result<Answer, StsError> {
        let result = match &incoming.caller {
            Ok(caller) => self.perform_sts(caller, request),
            Err(_) => Err(StsError::Unauthenticated),
        };
        if let Err(StsError::Internal(why)) = &result {
            tracing::error!(
                request = incoming.request_id,
                action = request.action(),
                why,
                "a call has failed"
            );
        }
        let error = result.as_ref().err().map(|error| (error.code().0, error.to_string()));
        let recorded = self.parts().observer.sts(StsCall {
            action: request.action(),
            caller: incoming.caller.as_ref().ok(),
            request_id: &incoming.request_id,
            address: &incoming.address,
            user_agent: &incoming.user_agent,
            request: request.json(),
            response: result.as_ref().map_or(Value::Null, Answer::json),
            error: error.as_ref().map(|(code, message)| (*code, message.as_str())),
            took: incoming.since.elapsed(),
        });
        recorded.done().await;
        result
    }

    fn perform_sts(&self, caller: &Caller, request: &Request) -> Result<Answer, StsError> {
        self.quotas().sts(&caller.account).map_err(StsError::Throttled)?;
        match request {
            Request::GetCallerIdentity => {
                Ok(Answer::Identity { account: caller.account.clone(), identity: Identity::of(caller) })
            }
            Request::AssumeRole(request) => self.assume_role(caller, request),
        }
    }

    fn assume_role(&self, caller: &Caller, request: &AssumeRole) -> Result<Answer, StsError> {
        let request = request.checked()?;
        let sessions = self.sessions();
        let assumable = match &caller.role {
            Some(_) => Err(NotAssumable::Chained),
            // Local users and certificates, whose names have colons.
            None if caller.principal.contains(':') => Err(NotAssumable::NoAccessKey),
            None => sessions.assumable(&caller.account, &caller.policies, request.role_arn).map(drop),
        };
        assumable.map_err(|why| StsError::NotAuthorized {
            principal: caller.principal.clone(),
            role_arn: request.role_arn.to_owned(),
            why,
        })?;
        let lifetime = Duration::from_secs(request.seconds);
        let now = self.now();
        let made = sessions.make(
            &caller.account,
            &caller.principal,
            request.role_arn,
            request.session_name,
            lifetime,
            now,
        );
        let credentials = made.map_err(|error| StsError::Internal(error.to_string()))?;
        let session = Identity::session(&caller.account, request.role_arn, request.session_name);
        Ok(Answer::Assumed { credentials, session })
    }
}
