//! State changes of resources, for subscribers: the event stream and the metrics.

use hearth_proto::host::v1::Event;
use tokio::sync::broadcast;

/// Number of events that a slow subscriber may be behind before it misses some.
const BACKLOG: usize = 4096;

/// The events of this host, each with its account.
#[derive(Debug, Clone)]
pub struct Events {
    sender: broadcast::Sender<(String, Event)>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::channel(BACKLOG).0 }
    }
}

impl Events {
    /// Sends an event of `account` to all subscribers. Later subscribers do not receive it.
    pub fn publish(&self, account: &str, event: Event) {
        let _ = self.sender.send((account.to_owned(), event)); // an error means that there are no subscribers
    }

    /// Subscribes to the events of all accounts, from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(String, Event)> {
        self.sender.subscribe()
    }
}
