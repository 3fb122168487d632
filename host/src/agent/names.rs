//! Answers the queries of the guest's DNS stub.

use std::sync::Arc;

use hearth_proto::guest::v1 as proto;
use proto::open::Kind;
use tokio::sync::{Mutex, Semaphore};

use super::{Agent, AgentError};
use hearth_agent_protocol::frame::{receive, write};

/// Queries of one guest that are answered at a time; further ones wait in the guest.
const UNDER_WAY: usize = 64;

impl Agent {
    /// Answers the guest's DNS queries with `answer` until the connection is closed.
    ///
    /// # Errors
    /// Errors of the connection, also that it was closed.
    pub async fn serve_names<F, A>(&self, answer: F) -> Result<(), AgentError>
    where
        F: Fn(Vec<u8>) -> A + Send + Sync + 'static,
        A: Future<Output = Vec<u8>> + Send,
    {
        let (mut reader, writer) = self.open(Kind::Dns(proto::OpenDns {})).await?.into_split();
        let (answer, writer) = (Arc::new(answer), Arc::new(Mutex::new(writer)));
        let permits = Arc::new(Semaphore::new(UNDER_WAY));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return Err(AgentError::Confused);
            };
            let query: proto::DnsQuery = receive(&mut reader).await.map_err(|source| {
                AgentError::Connection { what: "reading the guest's DNS queries", source }
            })?;
            let (answer, writer) = (Arc::clone(&answer), Arc::clone(&writer));
            tokio::spawn(async move {
                let message = answer(query.message).await;
                // When the connection is closed, the loop above returns the error.
                let _ = write(&mut *writer.lock().await, &proto::DnsAnswer { id: query.id, message }).await;
                drop(permit);
            });
        }
    }
}
