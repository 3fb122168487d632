//! Accepts connections, and dispatches them by their first message.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::guest::v1::{Failure, Open, Opened, open};
use tokio::net::UnixStream;

use super::{Agent, control, exec, shipping, stream};
use crate::refusal::Refusal;
use crate::system::duplicate;
use crate::system::sockets::shut_down_on_error;
use crate::system::vsock::Listener;
use hearth_agent_protocol::frame::{self, FrameError};
use hearth_agent_protocol::version::{self, Agreed};

/// Pause between attempts to accept when the kernel has no resources for a connection.
const PAUSE: Duration = Duration::from_millis(100);

impl Agent {
    /// Serves the host for ever. An error on a connection closes only that connection.
    pub async fn serve(self: Arc<Self>, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(connection) => {
                    let agent = Arc::clone(&self);
                    tokio::spawn(async move { agent.serve_connection(connection).await });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Serves one connection until it is closed.
    pub async fn serve_connection(self: Arc<Self>, connection: UnixStream) {
        let Ok(watched) = duplicate(&connection) else { return };
        tokio::select! {
            // An error is dropped: the host sees on its side what it did or did not receive, and nobody else needs it.
            _ = self.dispatch(connection) => {}
            () = shut_down_on_error(watched) => {}
        }
    }

    async fn dispatch(self: Arc<Self>, mut connection: UnixStream) -> Result<(), FrameError> {
        let Some(open) = frame::read::<Open>(&mut connection).await? else { return Ok(()) };
        let agreed = match version::agree(&open, version::OWN, &version::FEATURES) {
            Ok(agreed) => agreed,
            Err(none) => return refuse(&mut connection, Refusal::invalid(none.to_string())).await,
        };
        match open.kind {
            Some(open::Kind::Control(_)) => {
                accept(&mut connection, agreed).await?;
                control::serve(&self, connection).await
            }
            Some(open::Kind::Stream(open)) => match stream::connect(&self, &open).await {
                Ok(app) => {
                    accept(&mut connection, agreed).await?;
                    stream::relay(connection, app).await;
                    Ok(())
                }
                Err(refusal) => refuse(&mut connection, refusal).await,
            },
            Some(open::Kind::Exec(open)) => match exec::Plan::make(&self, open) {
                Ok(plan) => {
                    accept(&mut connection, agreed).await?;
                    exec::serve(&self, plan, connection).await
                }
                Err(refusal) => refuse(&mut connection, refusal).await,
            },
            Some(open::Kind::Logs(open)) => {
                accept(&mut connection, agreed).await?;
                shipping::serve(&self.logs, &open, connection).await
            }
            Some(open::Kind::Dns(_)) => {
                accept(&mut connection, agreed).await?;
                self.dns.serve(connection).await
            }
            None => {
                refuse(&mut connection, Refusal::invalid("Open is for nothing that this agent knows")).await
            }
        }
    }
}

async fn accept(connection: &mut UnixStream, agreed: Agreed) -> Result<(), FrameError> {
    frame::write(connection, &version::opened(agreed)).await
}

async fn refuse(connection: &mut UnixStream, refusal: Refusal) -> Result<(), FrameError> {
    let failure: Failure = refusal.into();
    frame::write(connection, &Opened { failure: Some(failure), ..Opened::default() }).await
}
