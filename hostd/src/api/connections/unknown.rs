//! Connections of clients that have not shown on them who they are: over which no caller was known, or no valid token has come. The oldest
//! of them makes room when all places of a listener are taken, so that those who connect and say nothing keep nobody out.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::peers::Place;
use crate::panics::poisoned;

/// How long nothing is said again of what happens often.
const SILENCE: Duration = Duration::from_secs(10);

/// The connections of unknown clients, by age.
#[derive(Debug, Default)]
struct Queue {
    /// Number of the next connection.
    next: u64,
    /// What tells a connection to make room.
    leave: BTreeMap<u64, Arc<Notify>>,
}

/// The connections of all unknown clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unknown {
    queue: Arc<Mutex<Queue>>,
    /// The connections of each account that need not make room.
    accounts: Arc<Mutex<HashMap<String, usize>>>,
}

impl Unknown {
    /// Waits for a place among all connections. If there is none, the oldest connection of an unknown client makes room, and `told` is
    /// called. None if there will be no more places.
    pub(crate) async fn place(
        &self,
        places: &Arc<Semaphore>,
        told: impl FnOnce(),
    ) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        if self.make_room() {
            told();
        }
        Arc::clone(places).acquire_owned().await.ok()
    }

    /// Lets a connection in, which may have to make room from then on. As long as its client is unknown, it keeps `place`.
    pub(crate) fn enter(&self, place: Option<Place>) -> Stranger {
        let leave = Arc::new(Notify::new());
        let mut queue = self.queue.lock().unwrap_or_else(poisoned);
        let number = queue.next;
        queue.next = number.wrapping_add(1);
        queue.leave.insert(number, Arc::clone(&leave));
        Stranger { number, queue: Arc::clone(&self.queue), leave, _place: place }
    }

    /// Tells the oldest connection to make room. Returns whether there is one.
    fn make_room(&self) -> bool {
        let oldest = self.queue.lock().unwrap_or_else(poisoned).leave.pop_first();
        oldest.inspect(|(_, leave)| leave.notify_one()).is_some()
    }
}

/// A connection of an unknown client.
#[derive(Debug)]
pub(crate) struct Stranger {
    number: u64,
    queue: Arc<Mutex<Queue>>,
    leave: Arc<Notify>,
    _place: Option<Place>,
}

impl Stranger {
    /// Returns when the connection has to make room; never after the client has become known.
    pub(crate) fn told_to_leave(&self) -> impl Future<Output = ()> + use<> {
        let leave = Arc::clone(&self.leave);
        async move { leave.notified().await }
    }
}

/// Says that the client of a connection is known, for those who find that out.
#[derive(Debug, Clone)]
pub(crate) struct Known(Arc<Mutex<State>>);

/// What is known of the client of a connection.
#[derive(Debug)]
enum State {
    /// Nothing: it is in the queue of those that make room.
    Stranger(Stranger, Unknown, usize),
    /// Who it is, from the beginning.
    Local,
    /// The account: it is counted there.
    Member(String, Unknown),
}

impl Known {
    /// Nothing is known of the client of this connection yet. Of each account, `most` connections need not make room.
    pub(super) fn not_yet(unknown: &Unknown, most: usize) -> Self {
        Self(Arc::new(Mutex::new(State::Stranger(unknown.enter(None), unknown.clone(), most))))
    }

    /// It is known from the beginning who the client is.
    pub(crate) fn local() -> Self {
        Self(Arc::new(Mutex::new(State::Local)))
    }

    /// From now on, the connection need not make room, unless its account has too many that need not.
    pub(crate) fn now(&self, account: &str) {
        let mut state = self.0.lock().unwrap_or_else(poisoned);
        let State::Stranger(_, unknown, most) = &*state else { return };
        let (unknown, most) = (unknown.clone(), *most);
        {
            let mut accounts = unknown.accounts.lock().unwrap_or_else(poisoned);
            let count = accounts.get(account).copied().unwrap_or_default();
            if count >= most {
                return;
            }
            accounts.insert(account.to_owned(), count.saturating_add(1));
        }
        *state = State::Member(account.to_owned(), unknown);
    }

    /// Returns when the connection has to make room; never if its client is known from the beginning.
    pub(super) fn told_to_leave(&self) -> impl Future<Output = ()> + use<> {
        let told = match &*self.0.lock().unwrap_or_else(poisoned) {
            State::Stranger(stranger, ..) => Some(stranger.told_to_leave()),
            State::Local | State::Member(..) => None,
        };
        async move {
            match told {
                Some(told) => told.await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let Self::Member(account, unknown) = self else { return };
        let mut accounts = unknown.accounts.lock().unwrap_or_else(poisoned);
        if let Some(count) = accounts.get_mut(account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                accounts.remove(account);
            }
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(poisoned).leave.remove(&self.number);
    }
}

/// Counts what happens often, to be said now and then.
#[derive(Debug, Default)]
pub(crate) struct Told {
    last: Option<Instant>,
    count: u64,
}

impl Told {
    /// It has happened once more. Returns how often since it was last said, if it is time to say it again.
    pub(crate) fn another(&mut self) -> Option<u64> {
        self.count = self.count.saturating_add(1);
        let now = Instant::now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < SILENCE) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_makes_room_unless_it_has_become_known() {
        let unknown = Unknown::default();
        assert!(!unknown.make_room());
        let all: Vec<_> = (1..=3).map(|_| Known::not_yet(&unknown, 1)).collect();
        let mut told: Vec<_> = all.iter().map(Known::told_to_leave).map(Box::pin).collect();
        all[0].clone().now("1"); // this one has said who it is
        all[1].now("1"); // of an account that has as many as it may
        let mut is_told = |number: usize| (&mut told[number]).now_or_never().is_some();
        assert!(unknown.make_room());
        assert_eq!([0, 1, 2].map(&mut is_told), [false, true, false]);
        assert!(unknown.make_room());
        assert!(is_told(2) && !unknown.make_room());
        drop(all);
        assert!(unknown.accounts.lock().unwrap().is_empty(), "accounts without connections take no room");
    }
}
