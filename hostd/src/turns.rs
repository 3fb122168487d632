//! Turns at what accounts share: builds, threads that read files, threads that wait for monitors.
//!
//! ```text
//!            account A  ▢▢▢▢▢▢ ─┐
//!  callers ─►account B  ▢       ├─► the place that is free ─► turn, until it is dropped
//!            account C  ▢▢     ─┘
//! ```
//!
//! There is a number of places. Within an account, who comes first is served first. Between accounts, the next free place
//! goes to the one with the fewest turns under way and, among those, to the one that has had none for the longest time. So
//! an account that has many waiting delays another one by no more than the turns that are under way. An account may be
//! limited to a part of the places: then it delays nobody by itself, however long its turns take.
//!
//! What may happen once at a time for each of many things – changes of an image, calls with one client token – takes turns
//! as well ([`Limits::ONE_EACH`]): the thing's name stands for the account.
//!
//! A turn belongs to the work and not to whoever waits for the work: [`Turns::run`] keeps it until the thread is done, also
//! if its caller has gone. So the places bound the threads, too.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::panics::{self, poisoned};

/// Threads that a runtime of the daemon may have for work that blocks: more than everything that can hold one at a time, so
/// that nobody waits for a thread. Files have [`Limits::FILES`], and a microVM – whose monitor may be silent, and is then
/// killed at a deadline – a handful, with some thousands on a host. Threads are made when they are needed.
pub const BLOCKING_THREADS: usize = 16 << 10;

/// How much may be under way and wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Turns at the same time, at least 1.
    pub places: usize,
    /// Turns at the same time of one account, at least 1.
    pub per_account: usize,
    /// Callers of one account that wait; others are refused.
    pub waiting: usize,
    /// How long a caller waits before it is refused.
    pub patience: Duration,
}

impl Limits {
    /// For threads that read and write files as clients ask: as many as disks have use for. An account has three quarters
    /// of them at most, so that a disk or a pattern that is slow for one leaves some to all others.
    pub const FILES: Self =
        Self { places: 16, per_account: 12, waiting: 256, patience: Duration::from_secs(25) };
    /// For calls that follow something, each of which can have some MiB that its client has not taken yet: as many of an
    /// account, none of which waits.
    pub const FOLLOWERS: Self =
        Self { places: usize::MAX, per_account: 128, waiting: 0, patience: Duration::ZERO };
    /// For changes that come one after another: an unlimited number of places, and one turn at a time for each name.
    pub const ONE_EACH: Self =
        Self { places: usize::MAX, per_account: 1, waiting: usize::MAX, patience: Duration::MAX };
}

/// The account has too many under way or waiting, or has waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Too many requests of this account are under way or wait for their turn. Retry the request later.")]
pub struct Busy;

/// The places, and who waits for them. Clones are cheap and share both.
#[derive(Clone)]
pub struct Turns {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
}

/// The turns of one account.
#[derive(Debug, Clone)]
pub struct AccountTurns {
    turns: Turns,
    account: Arc<str>,
}

/// A turn at one of the places; dropping it gives the place to the next.
#[must_use = "the turn ends when it is dropped"]
pub struct Turn {
    shared: Arc<Shared>,
    account: Arc<str>,
}

/// A caller that waits for its turn. Dropping it gives up its place in the queue.
#[must_use = "dropping it gives up the turn"]
pub struct Waiting {
    shared: Arc<Shared>,
    account: Arc<str>,
    /// Its number in the queue and the notice that its turn has come; none once it has the turn or has passed it on.
    notice: Option<(u64, oneshot::Receiver<()>)>,
    /// Its turn, if it had not to wait.
    turn: Option<Turn>,
}

struct State {
    free: usize,
    /// The accounts that have turns or wait for them.
    accounts: HashMap<Arc<str>, Account>,
    /// Counts what has happened, to compare which came first.
    time: u64,
}

#[derive(Default)]
struct Account {
    turns: usize,
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
    /// When its last turn began or ended or, before its first one, when it came.
    last: u64,
}

// === impl Turns ===

impl Turns {
    /// Places that nobody has yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let state = State { free: limits.places.max(1), accounts: HashMap::new(), time: 0 };
        Self { shared: Arc::new(Shared { limits, state: Mutex::new(state) }) }
    }

    /// Joins the queue of `account`, however long it is. The order is that of the calls, not of the waits.
    pub fn queue(&self, account: &str) -> Waiting {
        self.shared.join(&mut self.shared.lock(), account)
    }

    /// Waits for a turn of `account`.
    ///
    /// # Errors
    /// [`Busy`]
    pub async fn take(&self, account: &str) -> Result<Turn, Busy> {
        let limits = self.shared.limits;
        let (full, mut waiting) = {
            let mut state = self.shared.lock();
            (state.waiting(account) >= limits.waiting, self.shared.join(&mut state, account))
        };
        match waiting.turn.take() {
            Some(turn) => Ok(turn),
            None if full => Err(Busy),
            None => timeout(limits.patience, waiting).await.map_err(|_| Busy),
        }
    }

    /// Runs work that blocks, on a thread that has a turn of `account` until the work is done.
    ///
    /// # Errors
    /// [`Busy`]; in that case nothing was done.
    pub async fn run<T: Send + 'static>(
        &self,
        account: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let turn = self.take(account).await?;
        let work = move || {
            let _turn = turn;
            work()
        };
        Ok(panics::blocking(work).await)
    }

    /// The turns of this account.
    #[must_use]
    pub fn of(&self, account: &str) -> AccountTurns {
        AccountTurns { turns: self.clone(), account: account.into() }
    }
}

impl AccountTurns {
    /// [`Turns::run`] for this account.
    ///
    /// # Errors
    /// [`Busy`]
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        self.turns.run(&self.account, work).await
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(poisoned)
    }

    /// Takes a place for the account, or joins its queue.
    fn join(self: &Arc<Self>, state: &mut State, account: &str) -> Waiting {
        let account = state.name(account);
        let (mut turn, mut notice) = (None, None);
        if state.begin(&account, self.limits) {
            turn = Some(Turn { shared: Arc::clone(self), account: Arc::clone(&account) });
        } else {
            let (sender, receiver) = oneshot::channel();
            notice = Some((state.push(&account, sender), receiver));
        }
        Waiting { shared: Arc::clone(self), account, notice, turn }
    }

    /// Ends a turn of the account.
    fn end(&self, account: &Arc<str>) {
        let mut state = self.lock();
        let time = state.tick();
        if let Some(account) = state.accounts.get_mut(account) {
            (account.turns, account.last) = (account.turns - 1, time);
        }
        // Where a place was free before, all others that wait have as many turns as they may have.
        let only = (state.free > 0).then_some(account);
        state.free += 1;
        state.pass_on(self.limits, only);
        state.leave(account);
    }
}

// === impl State ===

impl State {
    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// The account with this name. One that comes anew comes after all that wait already: otherwise two that come and go
    /// could keep a third one waiting for ever.
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some((name, _)) = self.accounts.get_key_value(name) {
            return Arc::clone(name);
        }
        let (name, last) = (Arc::<str>::from(name), self.tick());
        self.accounts.insert(Arc::clone(&name), Account { last, ..Account::default() });
        name
    }

    /// Number of callers of the account that wait.
    fn waiting(&self, name: &str) -> usize {
        self.accounts.get(name).map_or(0, |account| account.waiting.len())
    }

    /// Adds a caller to the queue of its account; returns the caller's number.
    fn push(&mut self, name: &Arc<str>, notice: oneshot::Sender<()>) -> u64 {
        let id = self.tick();
        self.accounts.entry(Arc::clone(name)).or_default().waiting.push_back((id, notice));
        id
    }

    /// Forgets the account if it has nothing here any more.
    fn leave(&mut self, name: &Arc<str>) {
        if self.accounts.get(name).is_some_and(|account| account.turns == 0 && account.waiting.is_empty()) {
            self.accounts.remove(name);
        }
    }

    /// Begins a turn of the account if there is a place for it. Where one is free, nobody waits who may have it.
    fn begin(&mut self, name: &Arc<str>, limits: Limits) -> bool {
        let time = self.tick();
        let Some(account) = self.accounts.get_mut(name) else { return false };
        let may = self.free > 0 && account.turns < limits.per_account.max(1);
        if may {
            (account.turns, account.last) = (account.turns + 1, time);
            self.free -= 1;
        }
        may
    }

    /// The account whose turn is next, if one waits that may have more turns; `only`: if it is this one.
    fn next(&self, limits: Limits, only: Option<&Arc<str>>) -> Option<Arc<str>> {
        let waits =
            |account: &Account| !account.waiting.is_empty() && account.turns < limits.per_account.max(1);
        if let Some(only) = only {
            return self.accounts.get(only).is_some_and(waits).then(|| Arc::clone(only));
        }
        let waiting = self.accounts.iter().filter(|(_, account)| waits(account));
        let next = waiting.min_by_key(|(_, account)| (account.turns, account.last));
        next.map(|(name, _)| Arc::clone(name))
    }

    /// Gives free places to those that wait; `only`: to those of this account.
    fn pass_on(&mut self, limits: Limits, only: Option<&Arc<str>>) {
        while self.free > 0 {
            let Some(name) = self.next(limits, only) else { return };
            self.begin(&name, limits);
            let first = self.accounts.get_mut(&name).and_then(|account| account.waiting.pop_front());
            if let Some((_, notice)) = first {
                let _ = notice.send(()); // who waits leaves the queue before it drops its receiver
            }
        }
    }
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.end(&self.account);
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("account", &self.account).finish_non_exhaustive()
    }
}

// === impl Waiting ===

impl Future for Waiting {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn> {
        if let Some(turn) = self.turn.take() {
            return Poll::Ready(turn);
        }
        let Some((_, notice)) = &mut self.notice else { return Poll::Pending };
        match Pin::new(notice).poll(context) {
            Poll::Ready(_) => {
                self.notice = None;
                Poll::Ready(Turn { shared: Arc::clone(&self.shared), account: Arc::clone(&self.account) })
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some((id, _)) = self.notice else { return };
        let mut state = self.shared.lock();
        let Some(account) = state.accounts.get_mut(&self.account) else { return };
        let before = account.waiting.len();
        account.waiting.retain(|(other, _)| *other != id);
        if account.waiting.len() < before {
            state.leave(&self.account);
        } else {
            // Its turn had come, and it had not noticed yet.
            drop(state);
            self.shared.end(&self.account);
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("account", &self.account).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
