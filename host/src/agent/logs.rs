//! What the app writes, line by line.

use hearth_proto::guest::v1 as proto;
use proto::open::Kind;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::frame::{receive, send};
use super::{Agent, AgentError};

/// The lines that the app writes. The guest keeps them until they are acknowledged.
#[derive(Debug)]
pub struct Logs {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

impl Agent {
    /// The app's lines after number `after`; 0 for all that the guest has kept.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn logs(&self, after: u64) -> Result<Logs, AgentError> {
        let (reader, writer) = self.open(Kind::Logs(proto::OpenLogs { after })).await?.into_split();
        Ok(Logs { reader, writer })
    }
}

impl Logs {
    /// The next line.
    ///
    /// # Errors
    /// The connection's errors; it ends with the guest, and when the guest is restored.
    pub async fn next(&mut self) -> Result<proto::LogRecord, AgentError> {
        receive(&mut self.reader)
            .await
            .map_err(|source| AgentError::Connection { what: "reading the app's logs", source })
    }

    /// Says that the lines up to number `sequence` are stored; the guest forgets them.
    ///
    /// # Errors
    /// The connection's errors.
    pub async fn acknowledge(&mut self, sequence: u64) -> Result<(), AgentError> {
        send(&mut self.writer, &proto::LogAcknowledged { sequence })
            .await
            .map_err(|source| AgentError::Connection { what: "acknowledging the app's logs", source })
    }
}
