//! The channels by which others reach a microVM's task.

use std::sync::Arc;

use hearth_proto::store::v1::MicrovmRecord;
use tokio::sync::{mpsc, oneshot};

use super::error::RequestError;
use super::gate::Gate;
use crate::lifecycle::microvm::Request;

/// Capacity of a task's mailbox; senders of further requests wait.
pub(super) const MAILBOX: usize = 64;

/// A client's request, as a task receives it.
#[derive(Debug)]
pub(super) struct ClientRequest {
    pub(super) request: Request,
    /// Channel for the response.
    pub(super) response: oneshot::Sender<Result<(), RequestError>>,
}

/// The task's side of the channels by which others reach it.
pub(super) struct TaskChannels {
    pub(super) mailbox: mpsc::Receiver<ClientRequest>,
    pub(super) gate: Arc<Gate>,
}

/// Handle of a microVM's task, for other tasks.
#[derive(Debug, Clone)]
pub(super) struct TaskHandle {
    pub(super) mailbox: mpsc::Sender<ClientRequest>,
    pub(super) gate: Arc<Gate>,
}

/// Makes the mailbox and the gate of a microVM.
pub(super) fn open(record: &MicrovmRecord) -> (TaskHandle, TaskChannels) {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let gate = Arc::new(Gate::new(record));
    (TaskHandle { mailbox: sender, gate: Arc::clone(&gate) }, TaskChannels { mailbox, gate })
}
