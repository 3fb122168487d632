//! Changes of state, for whoever wants to be told: the event stream, metrics.

use hearth_proto::host::v1::Event;
use tokio::sync::broadcast;

/// Events that a slow reader may be behind before it misses some.
const BACKLOG: usize = 4096;

/// What happens on this host, account by account.
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
    /// Tells of a change in `account`. Whoever does not listen misses it.
    pub fn tell(&self, account: &str, event: Event) {
        let _ = self.sender.send((account.to_owned(), event)); // nobody listens
    }

    /// Events of all accounts from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(String, Event)> {
        self.sender.subscribe()
    }
}
