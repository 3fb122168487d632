//! Connections of clients that have not sent a valid token on them yet. They are counted by address, and make room when all
//! places are taken.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::api::connections::Peer;
use crate::api::connections::peers::{Peers, Place};
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
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Unknown {
    clients: Peers,
    queue: Arc<Mutex<Queue>>,
}

impl Unknown {
    /// `per_client`: greatest number of connections of one client.
    pub(in crate::proxy) fn new(per_client: usize) -> Self {
        Self { clients: Peers::new(per_client), queue: Arc::default() }
    }

    /// Counts a connection of a client until the place is dropped; none if the client has too many.
    pub(in crate::proxy) fn client(&self, address: SocketAddr) -> Option<Place> {
        self.clients.enter(Peer::Network(address))
    }

    /// Lets a connection in, which may have to make room from then on.
    pub(in crate::proxy) fn enter(&self, place: Place) -> Stranger {
        let leave = Arc::new(Notify::new());
        let mut queue = self.queue.lock().unwrap_or_else(poisoned);
        let number = queue.next;
        queue.next = number.wrapping_add(1);
        queue.leave.insert(number, Arc::clone(&leave));
        Stranger { number, queue: Arc::clone(&self.queue), leave, _place: place }
    }

    /// Tells the oldest connection to make room. Returns whether there is one.
    pub(in crate::proxy) fn make_room(&self) -> bool {
        let oldest = self.queue.lock().unwrap_or_else(poisoned).leave.pop_first();
        oldest.inspect(|(_, leave)| leave.notify_one()).is_some()
    }
}

/// A connection of an unknown client.
#[derive(Debug)]
pub(in crate::proxy) struct Stranger {
    number: u64,
    queue: Arc<Mutex<Queue>>,
    leave: Arc<Notify>,
    _place: Place,
}

impl Stranger {
    /// Returns when the connection has to make room; never after the client has become known.
    pub(in crate::proxy) fn told_to_leave(&self) -> impl Future<Output = ()> + use<> {
        let leave = Arc::clone(&self.leave);
        async move { leave.notified().await }
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

    fn enter(unknown: &Unknown, last: u8) -> Option<Stranger> {
        let place = unknown.client(([192, 0, 2, last], 1).into())?;
        Some(unknown.enter(place))
    }

    #[test]
    fn the_oldest_makes_room_unless_it_has_become_known() {
        let unknown = Unknown::new(2);
        assert!(!unknown.make_room());
        let strangers: Vec<_> = (1..=3).map(|last| enter(&unknown, last).unwrap()).collect();
        let mut told: Vec<_> = strangers.iter().map(Stranger::told_to_leave).map(Box::pin).collect();
        let mut strangers = strangers.into_iter();
        drop(strangers.next()); // this one has sent a valid token
        let mut is_told = |number: usize| (&mut told[number]).now_or_never().is_some();
        assert!(unknown.make_room());
        assert_eq!([0, 1, 2].map(&mut is_told), [false, true, false]);
        assert!(unknown.make_room());
        assert!(is_told(2) && !unknown.make_room());
    }

    #[test]
    fn each_client_has_its_own_places() {
        let unknown = Unknown::new(2);
        let first = enter(&unknown, 1).unwrap();
        let _second = enter(&unknown, 1).unwrap();
        assert!(enter(&unknown, 1).is_none() && enter(&unknown, 2).is_some());
        drop(first);
        assert!(enter(&unknown, 1).is_some());
    }
}
