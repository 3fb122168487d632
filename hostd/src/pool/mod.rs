//! A pool of things that are made in advance, by kind, and refilled in the background.
//!
//! ```text
//!  take(kind) ──► one that is ready, or none: the caller then makes its own, and never waits
//!      │
//!      └── from now on the kind is kept in stock ──► refill() ──► made on threads of their own, a few at a time
//! ```
//!
//! Kinds are remembered in the order in which they were last requested; only the newest few are kept in stock.
//! [`Stock::refill`] makes what is missing; it is called after a launch, not during it.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;

use crate::panics::poisoned;

/// Pause after something could not be made.
const PAUSE: Duration = Duration::from_secs(5);
/// Most things that are made at a time, whatever is configured.
const AT_ONCE_MAX: usize = 64;

/// What is made before it is needed, so that microVMs launch sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    /// Monitor processes that are ready for each shape (memory and CPUs) that is in use; 0 for none.
    pub monitors: usize,
    /// For how many shapes: those that were launched last.
    pub shapes: usize,
    /// Networks that are ready: for microVMs with internet access, and for those without once there was one; 0 for
    /// none.
    pub networks: usize,
    /// Things that are made at a time in the background. More make the pool recover sooner, and launches slower
    /// meanwhile.
    pub refill: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { monitors: 4, shapes: 3, networks: 8, refill: 1 }
    }
}

/// Stock of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Name of the kind, for people.
    pub name: String,
    /// Number of things that are ready.
    pub ready: usize,
    /// Number of things to keep ready.
    pub wanted: usize,
}

/// Why a thing could not be made.
pub type MakeError = Box<dyn Error + Send + Sync>;

/// Makes one thing of a kind, or returns why it cannot. May block.
type Make<K, T> = dyn Fn(K) -> Result<T, MakeError> + Send + Sync;

/// Things that are ready, by kind. Clones are cheap and share the same stock.
pub struct Stock<K, T> {
    inner: Arc<Inner<K, T>>,
}

struct Inner<K, T> {
    what: &'static str,
    wanted: usize,
    kinds: usize,
    make: Box<Make<K, T>>,
    at_once: u32,
    permits: Semaphore,
    /// Notified when the stock is closed.
    closed: Notify,
    state: Mutex<State<K, T>>,
}

struct State<K, T> {
    /// Kinds that are kept in stock; the one requested last comes last.
    order: VecDeque<K>,
    ready: HashMap<K, VecDeque<T>>,
    /// Number of things that are being made.
    making: HashMap<K, usize>,
    /// Whether the stock is closed: nothing is made any more.
    closed: bool,
}

impl<K, T> Clone for Stock<K, T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Debug, T> Debug for Stock<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stock").field("what", &self.inner.what).finish_non_exhaustive()
    }
}

impl<K, T> Stock<K, T>
where
    K: Copy + Eq + Hash + Display + Send + Sync + 'static,
    T: Send + 'static,
{
    /// A stock of `wanted` things of each of the `kinds` kinds that were requested last, made by `make`, `at_once` at
    /// a time. `what` names the things for people.
    pub fn new(
        what: &'static str,
        (wanted, kinds, at_once): (usize, usize, usize),
        make: impl Fn(K) -> Result<T, MakeError> + Send + Sync + 'static,
    ) -> Self {
        let state =
            State { order: VecDeque::new(), ready: HashMap::new(), making: HashMap::new(), closed: false };
        let at_once = u32::try_from(at_once.clamp(1, AT_ONCE_MAX)).unwrap_or(1);
        let permits = Semaphore::new(usize::try_from(at_once).unwrap_or(1));
        let (make, closed, state) = (Box::new(make), Notify::new(), Mutex::new(state));
        Self { inner: Arc::new(Inner { what, wanted, kinds, make, at_once, permits, closed, state }) }
    }

    /// Takes one that is ready. The kind is kept in stock from now on.
    #[must_use]
    pub fn take(&self, kind: K) -> Option<T> {
        let mut state = self.inner.lock();
        self.inner.want(&mut state, kind);
        state.ready.get_mut(&kind)?.pop_front()
    }

    /// Keeps a kind in stock, as if it had been requested.
    pub fn want(&self, kind: K) {
        self.inner.want(&mut self.inner.lock(), kind);
    }

    /// Makes what is missing, in the background. Must be called on a tokio runtime.
    pub fn refill(&self) {
        for kind in self.inner.missing() {
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move { inner.add(kind).await });
        }
    }

    /// The stock of each kind.
    #[must_use]
    pub fn counts(&self) -> Vec<Count> {
        let state = self.inner.lock();
        let count = |kind: &K| Count {
            name: format!("{} {kind}", self.inner.what),
            ready: state.ready.get(kind).map_or(0, VecDeque::len),
            wanted: if state.closed { 0 } else { self.inner.wanted },
        };
        state.order.iter().map(count).collect()
    }

    /// Closes the stock: waits for things that are being made, drops those, and returns what was ready.
    pub async fn close(&self) -> Vec<T> {
        let ready = {
            let mut state = self.inner.lock();
            state.closed = true;
            std::mem::take(&mut state.ready)
        };
        self.inner.closed.notify_waiters();
        // Every task that makes something holds a permit.
        let _all = self.inner.permits.acquire_many(self.inner.at_once).await;
        ready.into_values().flatten().collect()
    }
}

impl<K, T> Inner<K, T>
where
    K: Copy + Eq + Hash + Display + Send + Sync + 'static,
    T: Send + 'static,
{
    fn lock(&self) -> MutexGuard<'_, State<K, T>> {
        self.state.lock().unwrap_or_else(poisoned)
    }

    fn want(&self, state: &mut State<K, T>, kind: K) {
        if self.wanted == 0 || self.kinds == 0 || state.closed {
            return;
        }
        state.order.retain(|other| *other != kind);
        state.order.push_back(kind);
        while state.order.len() > self.kinds {
            if let Some(dropped) = state.order.pop_front().and_then(|old| state.ready.remove(&old)) {
                // Dropping may take a moment.
                std::thread::spawn(move || drop(dropped));
            }
        }
    }

    /// The kinds to make, each as often as things are missing; from now on they count as being made.
    fn missing(&self) -> Vec<K> {
        let mut state = self.lock();
        if state.closed {
            return Vec::new();
        }
        let mut all = Vec::new();
        // The kind that was requested last is made first.
        for kind in state.order.iter().rev().copied().collect::<Vec<_>>() {
            let ready = state.ready.get(&kind).map_or(0, VecDeque::len);
            let making = state.making.entry(kind).or_default();
            let missing = self.wanted.saturating_sub(ready + *making);
            *making += missing;
            all.extend(std::iter::repeat_n(kind, missing));
        }
        all
    }

    async fn add(self: Arc<Self>, kind: K) {
        let Ok(_permit) = self.permits.acquire().await else { return };
        if !self.is_wanted(kind) {
            return self.made(&mut self.lock(), kind);
        }
        let maker = Arc::clone(&self);
        let made = spawn_blocking(move || (maker.make)(kind).map(|thing| maker.put(kind, thing))).await;
        let Err(error) = made.unwrap_or_else(|panic| Err(panic.into())) else { return };
        tracing::warn!(what = self.what, %kind, %error, "nothing could be made for the pool");
        // The next attempt would most likely fail, too.
        let closed = self.closed.notified();
        if self.is_wanted(kind) {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = closed => {}
            }
        }
        self.made(&mut self.lock(), kind);
    }

    fn is_wanted(&self, kind: K) -> bool {
        let state = self.lock();
        !state.closed && state.order.contains(&kind)
    }

    fn made(&self, state: &mut State<K, T>, kind: K) {
        if let Some(making) = state.making.get_mut(&kind) {
            *making = making.saturating_sub(1);
        }
    }

    /// Puts a finished thing into the stock. If its kind is no longer kept, the thing is dropped, which may take a
    /// moment.
    fn put(&self, kind: K, thing: T) {
        let unwanted = {
            let mut state = self.lock();
            self.made(&mut state, kind);
            if !state.closed && state.order.contains(&kind) {
                state.ready.entry(kind).or_default().push_back(thing);
                return;
            }
            thing
        };
        drop(unwanted);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// Waits until the background tasks have made everything that is wanted.
    async fn filled<T: Send + 'static>(stock: &Stock<u32, T>) {
        while stock.counts().iter().any(|count| count.ready < count.wanted) {
            tokio::task::yield_now().await;
        }
    }

    fn counting(wanted: usize, kinds: usize) -> Stock<u32, usize> {
        let next = AtomicUsize::new(0);
        Stock::new("thing", (wanted, kinds, 2), move |_| Ok(next.fetch_add(1, Ordering::Relaxed)))
    }

    #[tokio::test]
    async fn a_kind_is_kept_in_stock_once_it_was_asked_for() {
        let stock = counting(3, 2);
        stock.refill();
        assert_eq!((stock.take(7), stock.counts().len()), (None, 1));
        stock.refill();
        filled(&stock).await;
        assert_eq!(stock.counts(), [Count { name: "thing 7".into(), ready: 3, wanted: 3 }]);
        assert!(stock.take(7).is_some());
        stock.refill();
        stock.refill();
        filled(&stock).await;
        assert_eq!(stock.counts().first().map(|count| count.ready), Some(3), "never more than wanted");
    }

    #[tokio::test]
    async fn the_kind_that_was_not_asked_for_longest_goes() {
        let stock = counting(1, 2);
        for kind in [1, 2, 1, 3] {
            stock.want(kind);
            stock.refill();
            filled(&stock).await;
        }
        let names: Vec<String> = stock.counts().into_iter().map(|count| count.name).collect();
        assert_eq!(names, ["thing 1", "thing 3"]);
        assert!(stock.take(2).is_none());
    }

    #[tokio::test]
    async fn an_empty_stock_keeps_nobody_waiting_and_a_closed_one_makes_nothing() {
        let (permit, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let stock: Stock<u32, ()> =
            Stock::new("slow", (1, 1, 1), move |_| Ok(wait.lock().unwrap().recv()?));
        stock.want(1);
        stock.refill();
        tokio::task::yield_now().await;
        assert!(stock.take(1).is_none(), "being made");
        let closing = stock.close();
        tokio::pin!(closing);
        let waits = tokio::time::timeout(Duration::ZERO, &mut closing).await;
        assert!(waits.is_err(), "until it is made");
        permit.send(()).unwrap();
        assert!(closing.await.is_empty());
        stock.refill();
        assert!(stock.take(1).is_none() && stock.counts().iter().all(|count| count.wanted == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_a_refill_makes_it_anew() {
        let failures = AtomicUsize::new(1);
        let stock: Stock<u32, u32> = Stock::new("thing", (1, 1, 1), move |kind| {
            match failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
                Ok(_) => Err("not today".into()),
                Err(_) => Ok(kind),
            }
        });
        stock.want(5);
        stock.refill();
        while stock.inner.lock().making.values().any(|making| *making > 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stock.refill();
        filled(&stock).await;
        assert_eq!(stock.take(5), Some(5));
    }
}
