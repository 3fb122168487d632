//! State changes of resources, for clients that follow them.
//!
//! ```text
//!  publish(account, event) ─► the account's feed ─┬─► follower
//!                             (its latest events) └─► follower
//! ```
//!
//! Each account has a feed of its own while somebody follows it, so that only the account's own events can make a
//! follower miss some. A feed keeps the latest events within bounds, once for all followers, each of which reads at its
//! own pace: one that is too slow is told how many it has missed, and delays nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use hearth_proto::host::v1::Event;
use prost::Message as _;
use tokio::sync::watch;

use crate::panics::poisoned;

/// Most events that a feed keeps.
const EVENTS: usize = 4096;
/// Most bytes that the kept events of a feed take together, by [`size`].
const BYTES: usize = 4 << 20;
/// Bytes that an event takes beside its texts.
const EVENT: usize = 256;

/// The events of this host. Clones are cheap and share the feeds.
#[derive(Debug, Clone, Default)]
pub struct Events {
    feeds: Arc<Mutex<HashMap<String, Followed>>>,
}

/// The feed of an account with the number of its followers. The last one that goes removes it.
#[derive(Debug)]
struct Followed {
    feed: Arc<Feed>,
    followers: usize,
}

/// The latest events of an account.
#[derive(Debug)]
struct Feed {
    latest: Mutex<Latest>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Latest {
    /// Number of the first event that is kept.
    first: u64,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

/// A follower has missed this many events, since it reads too slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} events were missed")]
pub struct Missed(pub u64);

/// A client that follows the events of an account.
#[derive(Debug)]
pub struct Follower {
    events: Events,
    account: String,
    feed: Arc<Feed>,
    /// Number of the next event to read.
    next: u64,
    changed: watch::Receiver<()>,
}

// === impl Events ===

impl Events {
    /// Sends an event of `account` to its followers. Later followers do not receive it.
    pub fn publish(&self, account: &str, event: Event) {
        let feed = self.lock().get(account).map(|followed| Arc::clone(&followed.feed));
        if let Some(feed) = feed {
            feed.lock().add(event);
            feed.changed.send_replace(());
        }
    }

    /// Follows the events of `account`, from now on.
    #[must_use]
    pub fn follow(&self, account: &str) -> Follower {
        let feed = {
            let mut feeds = self.lock();
            let new = || Followed { feed: Arc::new(Feed::new()), followers: 0 };
            let followed = feeds.entry(account.to_owned()).or_insert_with(new);
            followed.followers += 1;
            Arc::clone(&followed.feed)
        };
        let changed = feed.changed.subscribe();
        let next = feed.lock().end();
        Follower { events: self.clone(), account: account.to_owned(), feed, next, changed }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Followed>> {
        self.feeds.lock().unwrap_or_else(poisoned)
    }
}

// === impl Feed ===

impl Feed {
    fn new() -> Self {
        Self { latest: Mutex::default(), changed: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(poisoned)
    }
}

// === impl Latest ===

impl Latest {
    fn add(&mut self, event: Event) {
        self.bytes += size(&event);
        self.events.push_back(Arc::new(event));
        while self.events.len() > EVENTS || self.bytes > BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.first += 1;
        }
    }

    /// Number of the next event.
    fn end(&self) -> u64 {
        self.first + u64::try_from(self.events.len()).unwrap_or_default()
    }

    /// The event with this number, if there is one already.
    ///
    /// # Errors
    /// [`Missed`] if it is not kept any more.
    fn get(&self, number: u64) -> Result<Option<Arc<Event>>, Missed> {
        let index = number.checked_sub(self.first).ok_or_else(|| Missed(self.first - number))?;
        Ok(usize::try_from(index).ok().and_then(|index| self.events.get(index)).cloned())
    }
}

/// Bytes that an event takes.
fn size(event: &Event) -> usize {
    event.encoded_len() + EVENT
}

// === impl Follower ===

impl Follower {
    /// Waits for the account's next event.
    ///
    /// # Errors
    /// [`Missed`]; it goes on with the oldest event that is kept.
    pub async fn next(&mut self) -> Result<Event, Missed> {
        loop {
            self.changed.mark_unchanged();
            if let Some(event) = self.ready()? {
                return Ok(event);
            }
            // The feed, which has the sender, lives as long as the follower.
            let _ = self.changed.changed().await;
        }
    }

    /// The account's next event, if there is one already.
    ///
    /// # Errors
    /// [`Missed`], as [`Self::next`].
    pub fn ready(&mut self) -> Result<Option<Event>, Missed> {
        let latest = self.feed.lock();
        let found = latest.get(self.next).inspect_err(|_| self.next = latest.first)?;
        drop(latest);
        self.next += u64::from(found.is_some());
        Ok(found.map(|event| Event::clone(&event)))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut feeds = self.events.lock();
        if let Some(followed) = feeds.get_mut(&self.account) {
            followed.followers -= 1;
            if followed.followers == 0 {
                feeds.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(resource: &str) -> Event {
        Event { resource: resource.to_owned(), ..Event::default() }
    }

    #[tokio::test]
    async fn events_of_other_accounts_make_no_follower_miss_its_own() {
        let events = Events::default();
        let mut follower = events.follow("1");
        let _other = events.follow("2");
        events.publish("1", event("first"));
        for number in 0..10 * EVENTS {
            events.publish("2", event(&number.to_string()));
        }
        events.publish("1", event("second"));
        assert_eq!(follower.next().await.unwrap().resource, "first");
        assert_eq!(follower.next().await.unwrap().resource, "second");
        assert_eq!(follower.ready(), Ok(None));
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_has_missed_and_lags_alone() {
        let events = Events::default();
        let (mut slow, mut quick) = (events.follow("1"), events.follow("1"));
        for number in 0..EVENTS + 7 {
            events.publish("1", event(&number.to_string()));
            assert_eq!(quick.next().await.unwrap().resource, number.to_string());
        }
        assert_eq!(slow.next().await, Err(Missed(7)));
        assert_eq!(slow.next().await.unwrap().resource, "7");
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let events = Events::default();
        let mut follower = events.follow("1");
        let waiting = tokio::spawn(async move { follower.next().await });
        tokio::task::yield_now().await;
        events.publish("1", event("new"));
        assert_eq!(waiting.await.unwrap().unwrap().resource, "new");
    }

    #[test]
    fn feeds_are_bounded_in_bytes_and_end_with_their_last_follower() {
        let events = Events::default();
        let (one, two) = (events.follow("1"), events.follow("1"));
        for _ in 0..100 {
            events.publish("1", event(&"x".repeat(BYTES / 10)));
        }
        let kept = || {
            let latest = one.feed.lock();
            (latest.events.len(), latest.bytes <= BYTES)
        };
        assert_eq!(kept(), (9, true));
        events.publish("1", event(&"x".repeat(2 * BYTES)));
        assert_eq!(kept(), (0, true));
        drop(one);
        assert_eq!(events.lock().len(), 1);
        drop(two);
        assert!(events.lock().is_empty());
        events.publish("1", event("nobody follows"));
        assert_eq!(events.follow("1").ready(), Ok(None));
    }
}
