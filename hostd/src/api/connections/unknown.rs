//! Connections of clients that have not shown on them who they are: over which no caller was known, or no valid token has come. The oldest
//! of them makes room when all places of a listener are taken, so that those who connect and say nothing keep nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::peers::Place;
use crate::panics::poisoned;

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
pub(crate) struct Known(Arc<Mutex<Option<Stranger>>>);

impl Known {
    /// Nothing is known of the client of this connection yet; of one that is none, it is known from the beginning who it is.
    pub(crate) fn not_yet(stranger: Option<Stranger>) -> Self {
        Self(Arc::new(Mutex::new(stranger)))
    }

    /// From now on, the connection need not make room.
    pub(crate) fn now(&self) {
        drop(self.0.lock().unwrap_or_else(poisoned).take());
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(poisoned).leave.remove(&self.number);
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
        let strangers: Vec<_> = (1..=3).map(|_| unknown.enter(None)).collect();
        let mut told: Vec<_> = strangers.iter().map(Stranger::told_to_leave).map(Box::pin).collect();
        let mut strangers = strangers.into_iter();
        let known = Known::not_yet(strangers.next());
        known.clone().now(); // this one has said who it is
        let mut is_told = |number: usize| (&mut told[number]).now_or_never().is_some();
        assert!(unknown.make_room());
        assert_eq!([0, 1, 2].map(&mut is_told), [false, true, false]);
        assert!(unknown.make_room());
        assert!(is_told(2) && !unknown.make_room());
    }
}
