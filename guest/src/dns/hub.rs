//! Passes queries to the host, and its answers back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_proto::guest::v1::{DnsAnswer, DnsQuery};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use hearth_agent_protocol::frame::{self, FrameError};

/// Queries under way at once; further ones fail immediately. Programs look up hundreds of names at once; the host answers as many as the
/// account's rate allows.
pub(super) const UNDER_WAY: usize = 1024;
/// How long the host has to answer. It gives up by itself before (`dns.timeout_ms`, 8 seconds), and says so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Passes queries to the newest connection of the host.
#[derive(Debug, Default)]
pub struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    under_way: HashMap<u64, oneshot::Sender<Vec<u8>>>,
    host: Option<mpsc::Sender<DnsQuery>>,
}

impl Hub {
    /// The host's answer to a query. None if no host is connected, the host has no answer in time, or too many queries are under way.
    pub(super) async fn resolve(&self, query: Vec<u8>) -> Option<Vec<u8>> {
        let (id, answer) = self.send(query)?;
        let answer = timeout(ANSWER_TIMEOUT, answer).await;
        self.state().under_way.remove(&id);
        answer.ok()?.ok().filter(|answer| !answer.is_empty())
    }

    fn send(&self, message: Vec<u8>) -> Option<(u64, oneshot::Receiver<Vec<u8>>)> {
        let mut state = self.state();
        if state.under_way.len() >= UNDER_WAY {
            return None;
        }
        let id = state.next;
        let host = state.host.as_ref()?;
        host.try_send(DnsQuery { id, message }).ok()?;
        let (sender, receiver) = oneshot::channel();
        state.next += 1;
        state.under_way.insert(id, sender);
        Some((id, receiver))
    }

    /// Serves a connection of the host, until it fails or a newer connection replaces it.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn serve(self: &Arc<Self>, connection: UnixStream) -> Result<(), FrameError> {
        let (mut source, mut sink) = connection.into_split();
        let (host, mut queries) = mpsc::channel(UNDER_WAY);
        self.state().host = Some(host.clone());
        let send = async {
            while let Some(query) = queries.recv().await {
                frame::write(&mut sink, &query).await?;
            }
            Ok(())
        };
        let receive = async {
            while let Some(DnsAnswer { id, message }) = frame::read(&mut source).await? {
                if let Some(waiting) = self.state().under_way.remove(&id) {
                    let _ = waiting.send(message); // the client may have stopped waiting
                }
            }
            Ok(())
        };
        let result = tokio::select! {
            result = send => result,
            result = receive => result,
        };
        let mut state = self.state();
        if state.host.as_ref().is_some_and(|current| current.same_channel(&host)) {
            state.host = None;
            // Queries that were sent over this connection will not be answered.
            state.under_way.clear();
        }
        drop(state);
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
