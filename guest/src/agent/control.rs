//! Control connections: requests and responses.

use std::sync::Arc;

use hearth_proto::guest::v1::request::Operation;
use hearth_proto::guest::v1::response::Result as Response;
use hearth_proto::guest::v1::{self as proto, Done, Request};
use tokio::net::UnixStream;

use super::seal::SealKey;
use super::{Agent, lifecycle};
use crate::hooks;
use crate::refusal::Refusal;
use hearth_agent_protocol::frame::{self, FrameError};

/// Answers requests, one after the other, until the host closes the connection.
pub(super) async fn serve(agent: &Arc<Agent>, mut connection: UnixStream) -> Result<(), FrameError> {
    let mut key = None;
    while let Some(request) = frame::read::<Request>(&mut connection).await? {
        let power_off = matches!(request.operation, Some(Operation::PowerOff(_)));
        let result = agent.answer(request, &mut key).await;
        let over = power_off && result.is_ok();
        let result = result.unwrap_or_else(|refusal| Response::Failure(refusal.into()));
        frame::write(&mut connection, &proto::Response { result: Some(result) }).await?;
        if over {
            lifecycle::power_off(connection).await;
            return Ok(());
        }
    }
    Ok(())
}

impl Agent {
    async fn answer(
        self: &Arc<Self>,
        request: Request,
        key: &mut Option<SealKey>,
    ) -> Result<Response, Refusal> {
        let done = |()| Response::Done(Done {});
        match request.operation {
            Some(Operation::GetStatus(_)) => Ok(Response::Status(self.status())),
            Some(Operation::Configure(request)) => self.configure(request).await.map(done),
            Some(Operation::StartApp(request)) => self.start_app(request).await.map(done),
            Some(Operation::WaitApp(_)) => self.wait_app().await.map(Response::Exited),
            Some(Operation::CallHook(request)) => {
                self.container()?.must_not_be_frozen("the app cannot be called")?;
                hooks::call(request, &self.app_hosts()).await.map(Response::Hook)
            }
            Some(Operation::Identify(request)) => self.identify(request).await.map(done),
            Some(Operation::SetCredentials(request)) => self.set_credentials(request, key).map(done),
            Some(Operation::MakeSealKey(_)) => {
                let made = key.insert(SealKey::make()?);
                Ok(Response::SealKey(proto::SealKey { public_key: made.public() }))
            }
            Some(Operation::Freeze(request)) => {
                self.freeze(request).await?;
                *key = None;
                Ok(Response::Status(self.status()))
            }
            Some(Operation::Thaw(_)) => {
                // The lock waits for a Freeze that is under way.
                let _making = self.making.lock().await;
                self.thaw().map(done)
            }
            Some(Operation::Quiesce(request)) => lifecycle::quiesce(&request).await.map(Response::Quiesced),
            Some(Operation::PowerOff(_)) => self.stop_everything().await.map(done),
            None => Err(Refusal::invalid("the request is none that this agent knows")),
        }
    }
}
