//! What the app writes, line by line.

use hearth_proto::guest::v1 as proto;
use proto::open::Kind;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::frame::{receive, send};
use super::{Agent, AgentError};
use tokio::sync::watch;

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
    /// Gives every line to `take`, and acknowledges it afterwards, until the connection ends: `take` must have stored it
    /// when it returns.
    ///
    /// # Errors
    /// The connection's errors; it ends with the guest, and when the guest is restored.
    pub async fn follow(mut self, mut take: impl FnMut(proto::LogRecord)) -> AgentError {
        // Lines come as fast as they can; what is acknowledged is the newest one at the time.
        let (stored, mut newest) = watch::channel(0);
        let read = async {
            loop {
                let record: proto::LogRecord = match receive(&mut self.reader).await {
                    Ok(record) => record,
                    Err(source) => return AgentError::Connection { what: "reading the app's logs", source },
                };
                let sequence = record.sequence;
                take(record);
                stored.send_replace(sequence);
            }
        };
        let acknowledge = async {
            while newest.changed().await.is_ok() {
                let sequence = *newest.borrow_and_update();
                if let Err(source) = send(&mut self.writer, &proto::LogAcknowledged { sequence }).await {
                    return AgentError::Connection { what: "acknowledging the app's logs", source };
                }
            }
            AgentError::Confused
        };
        tokio::select! {
            error = read => error,
            error = acknowledge => error,
        }
    }
}
