//! The app's log, line by line.

use hearth_proto::guest::v1 as proto;
use proto::open::Kind;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{Agent, AgentError};
use hearth_agent_protocol::frame::{receive, write};
use tokio::sync::watch;

/// The lines of the app's log. The guest keeps them until they are acknowledged.
#[derive(Debug)]
pub struct Logs {
    lines: Lines,
    acknowledge: Acknowledge,
}

/// The receiving half: the lines.
#[derive(Debug)]
pub struct Lines {
    reader: OwnedReadHalf,
}

/// The sending half: acknowledgements of lines that are stored.
#[derive(Debug)]
pub struct Acknowledge {
    writer: OwnedWriteHalf,
}

impl Lines {
    /// The next line. Not cancel-safe: bytes that were read are lost.
    ///
    /// # Errors
    /// Errors of the connection, which is closed when the guest ends or is restored.
    pub async fn next(&mut self) -> Result<proto::LogRecord, AgentError> {
        receive(&mut self.reader)
            .await
            .map_err(|source| AgentError::Connection { what: "reading the app's logs", source })
    }
}

impl Acknowledge {
    /// Acknowledges that all lines up to `sequence` are stored. The guest drops them.
    ///
    /// # Errors
    /// Errors of the connection.
    pub async fn stored(&mut self, sequence: u64) -> Result<(), AgentError> {
        write(&mut self.writer, &proto::LogAcknowledged { sequence })
            .await
            .map_err(|source| AgentError::Connection { what: "acknowledging the app's logs", source })
    }
}

impl Agent {
    /// The app's lines after number `after`; 0 for all lines that the guest has kept.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn logs(&self, after: u64) -> Result<Logs, AgentError> {
        let (reader, writer) = self.open(Kind::Logs(proto::OpenLogs { after })).await?.into_split();
        Ok(Logs { lines: Lines { reader }, acknowledge: Acknowledge { writer } })
    }
}

impl Logs {
    /// Splits the connection into its two halves, for a host that stores many lines at once.
    #[must_use]
    pub fn split(self) -> (Lines, Acknowledge) {
        (self.lines, self.acknowledge)
    }

    /// Passes every line to `take`, and acknowledges it afterwards, until the connection is closed: `take` must have stored the line
    /// when it returns.
    ///
    /// # Errors
    /// Errors of the connection, which is closed when the guest ends or is restored.
    pub async fn follow(mut self, mut take: impl FnMut(proto::LogRecord)) -> AgentError {
        // Lines are read as fast as they come; each acknowledgement is for the newest line at that time.
        let (stored, mut newest) = watch::channel(0);
        let read = async {
            loop {
                let record = match self.lines.next().await {
                    Ok(record) => record,
                    Err(error) => return error,
                };
                let sequence = record.sequence;
                take(record);
                stored.send_replace(sequence);
            }
        };
        let acknowledge = async {
            while newest.changed().await.is_ok() {
                let sequence = *newest.borrow_and_update();
                if let Err(error) = self.acknowledge.stored(sequence).await {
                    return error;
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
