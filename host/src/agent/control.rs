//! Requests to the agent, one after another over one connection.

use std::time::Duration;

use hearth_model::hooks::HookOutcome;
use hearth_proto::guest::v1 as proto;
use proto::request::Operation;
use proto::response::Result as Response;
use tokio::net::UnixStream;

use super::{AgentError, bounded, within};
use hearth_agent_protocol::frame::{FrameError, receive, write};
use hearth_agent_protocol::seal::seal;

/// Deadline of requests that the agent serves without waiting for the app.
const PROMPT: Duration = Duration::from_secs(30);
/// Time beyond a hook's own time limit after which the agent counts as unresponsive.
const GRACE: Duration = Duration::from_secs(10);
/// Deadline for the agent to write the guest's unwritten data to disk.
const QUIESCE: Duration = Duration::from_secs(600);

/// How a process terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status, or 128 + the signal that killed it.
    pub code: u32,
    /// The signal that killed it.
    pub signal: Option<u32>,
}

impl From<proto::Exited> for Exit {
    fn from(exited: proto::Exited) -> Self {
        Self { code: exited.code, signal: Some(exited.signal).filter(|signal| *signal != 0) }
    }
}

/// A call of a hook.
#[derive(Clone, Debug)]
pub struct HookCall {
    /// The hook to call.
    pub hook: proto::Hook,
    /// The app's port.
    pub port: u16,
    /// Time limit for all attempts together.
    pub timeout: Duration,
    /// JSON body of the request, if it has one.
    pub body: Option<String>,
}

impl HookCall {
    /// The longest that the call may take, even if the agent does not respond: the hook's own time and 10 s.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.timeout.saturating_add(GRACE)
    }
}

/// A connection for requests. A request that was cancelled, or not answered in time, makes it unusable: open another one.
#[derive(Debug)]
pub struct Control {
    /// None while a request is under way, and for ever after it was cancelled: a late answer would be taken for that of the next request.
    stream: Option<UnixStream>,
}

impl Control {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream: Some(stream) }
    }

    async fn request(
        &mut self,
        what: &'static str,
        operation: Operation,
        limit: Option<Duration>,
    ) -> Result<Response, AgentError> {
        let request = proto::Request { operation: Some(operation) };
        let connection = |source| AgentError::Connection { what, source };
        let exchange = async {
            let mut stream = self.stream.take().ok_or(connection(FrameError::Closed))?;
            write(&mut stream, &request).await.map_err(connection)?;
            let response = receive::<proto::Response>(&mut stream).await.map_err(connection)?;
            self.stream = Some(stream);
            Ok(response)
        };
        let response = match limit {
            Some(limit) => within(what, limit, exchange).await?,
            None => exchange.await?,
        };
        match response.result {
            Some(Response::Failure(failure)) => Err(failure.into()),
            Some(response) => Ok(response),
            None => Err(AgentError::Confused),
        }
    }

    async fn command(&mut self, what: &'static str, operation: Operation) -> Result<(), AgentError> {
        match self.request(what, operation, Some(PROMPT)).await? {
            Response::Done(_) => Ok(()),
            _ => Err(AgentError::Confused),
        }
    }

    /// The guest's status.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn status(&mut self) -> Result<proto::Status, AgentError> {
        match self
            .request("asking for the guest's status", Operation::GetStatus(proto::GetStatus {}), Some(PROMPT))
            .await?
        {
            Response::Status(status) => Ok(status),
            _ => Err(AgentError::Confused),
        }
    }

    /// Mounts the root disk and makes the container. Works once.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn configure(&mut self, configure: proto::Configure) -> Result<(), AgentError> {
        self.command("configuring the guest", Operation::Configure(configure)).await
    }

    /// Starts the app. Works once.
    ///
    /// # Errors
    /// [`AgentError::Refused`] when its program, user or folder does not exist.
    pub async fn start_app(&mut self, process: proto::Process) -> Result<(), AgentError> {
        let start = proto::StartApp { process: Some(process) };
        self.command("starting the app", Operation::StartApp(start)).await
    }

    /// Waits until the app has terminated, without a deadline.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn wait_app(&mut self) -> Result<Exit, AgentError> {
        match self.request("waiting for the app's end", Operation::WaitApp(proto::WaitApp {}), None).await? {
            Response::Exited(exited) => Ok(exited.into()),
            _ => Err(AgentError::Confused),
        }
    }

    /// Calls a hook of the app.
    ///
    /// # Errors
    /// [`AgentError`] when the agent could not make the call; a failure of the app is a result.
    pub async fn call_hook(&mut self, call: &HookCall) -> Result<HookOutcome, AgentError> {
        let timeout_ms = u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX);
        let content_type = if call.body.is_some() { "application/json" } else { "" };
        let operation = Operation::CallHook(proto::CallHook {
            hook: call.hook.into(),
            port: call.port.into(),
            timeout_ms,
            body: call.body.clone().unwrap_or_default().into_bytes(),
            content_type: content_type.to_owned(),
        });
        let outcome = match self.request("calling a hook of the app", operation, Some(call.limit())).await? {
            Response::Hook(outcome) => outcome.result,
            _ => return Err(AgentError::Confused),
        };
        use proto::hook_outcome::Result as Outcome;
        Ok(match outcome.ok_or(AgentError::Confused)? {
            Outcome::Status(status) => HookOutcome::Status(status),
            Outcome::Refused(_) => HookOutcome::Refused,
            Outcome::TimedOut(_) => HookOutcome::TimedOut,
            Outcome::Transport(message) => HookOutcome::Failed(bounded(message)),
        })
    }

    /// Gives the guest its identity; after a restore, before any hook.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn identify(&mut self, identify: proto::Identify) -> Result<(), AgentError> {
        self.command("giving the guest its identity", Operation::Identify(identify)).await
    }

    /// Changes the credentials that the guest's metadata service serves.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn set_credentials(
        &mut self,
        credentials: Option<proto::Credentials>,
    ) -> Result<(), AgentError> {
        let set = proto::SetCredentials { credentials, sealed: Vec::new() };
        self.command("giving the guest credentials", Operation::SetCredentials(set)).await
    }

    /// Like [`set_credentials`](Self::set_credentials), for a guest that becomes a snapshot from which others are restored: the only copy
    /// of the credentials in its memory is the one that the agent keeps until [`freeze`](Self::freeze). The guest must have been identified
    /// before, otherwise its key is no secret.
    ///
    /// # Errors
    /// [`AgentError`]; [`AgentError::Confused`] also when the agent has no such key.
    pub async fn set_sealed_credentials(
        &mut self,
        credentials: &proto::Credentials,
    ) -> Result<(), AgentError> {
        const WHAT: &str = "giving the guest credentials";
        let make = Operation::MakeSealKey(proto::MakeSealKey {});
        let Response::SealKey(key) = self.request(WHAT, make, Some(PROMPT)).await? else {
            return Err(AgentError::Confused);
        };
        let sealed = seal(&key.public_key, credentials).map_err(|_| AgentError::Confused)?;
        let set = proto::SetCredentials { credentials: None, sealed };
        self.command(WHAT, Operation::SetCredentials(set)).await
    }

    /// Freezes the app and all processes beside it until the guest gets its identity or is [thawed](Self::thaw). The app's output so far
    /// is in the log when this returns. With `forget`, the guest forgets what belongs to it alone, and keeps what belongs to its image.
    ///
    /// # Errors
    /// [`AgentError`]. Whether the app is frozen is unknown then: thaw it.
    pub async fn freeze(&mut self, forget: bool) -> Result<proto::Status, AgentError> {
        let freeze = Operation::Freeze(proto::Freeze { forget });
        match self.request("freezing the app", freeze, Some(PROMPT)).await? {
            Response::Status(status) => Ok(status),
            _ => Err(AgentError::Confused),
        }
    }

    /// Thaws the app with the guest's identity unchanged. Does nothing if it is not frozen.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn thaw(&mut self) -> Result<(), AgentError> {
        self.command("thawing the app", Operation::Thaw(proto::Thaw {})).await
    }

    /// Makes the guest ready for a snapshot.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn quiesce(&mut self, drop_page_cache: bool) -> Result<proto::Quiesced, AgentError> {
        let quiesce = Operation::Quiesce(proto::Quiesce { drop_page_cache });
        match self.request("quiescing the guest", quiesce, Some(QUIESCE)).await? {
            Response::Quiesced(quiesced) => Ok(quiesced),
            _ => Err(AgentError::Confused),
        }
    }

    /// Terminates all processes, writes everything to disk, and powers the guest off.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn power_off(&mut self) -> Result<(), AgentError> {
        self.command("powering the guest off", Operation::PowerOff(proto::PowerOff {})).await
    }
}
