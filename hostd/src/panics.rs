//! What a panic terminates: one request, or the daemon.
//!
//! A panic is a bug in this program, and nothing is known about the state that it leaves behind. There are two
//! reactions:
//!
//! | Where it happens | What it terminates |
//! |---|---|
//! | in what handles a request: a call of the API and its stream, a request to an endpoint with its answer, WebSocket or shell, a client's connection to an endpoint, a question of DNS (also a guest's), a scrape of the metrics | that request |
//! | on a thread that a request waits for with [`blocking`] | that request |
//! | anywhere else: tasks of microVMs, builds, the pool, the commit thread … | the daemon, with SIGABRT; the next one adopts what runs |
//!
//! The code that handles a request is run by [`request`], [`stream`] or [`catch`], which mark the thread for as long
//! as that code runs. [`install`] sets a panic hook that logs the panic, and aborts the process where the mark is
//! missing. So no task can disappear unnoticed because its runtime catches panics. A task that a request spawns has
//! no mark, since others depend on the task: a panic in it aborts the daemon.
//!
//! Data that a request was changing when it panicked must be consistent for other requests. State is in the store,
//! whose batches are applied as a whole. Data shared in memory is behind locks of std, which a panic poisons: code
//! that meets a poisoned lock aborts the daemon ([`poisoned`]). tokio's locks have no poisoning; they put changes of
//! the store in an order, or guard values that are replaced as a whole (the credentials of roles). So do the locks
//! inside `hearth-host`.
//!
//! Tasks that hyper and tonic spawn have no mark: a request's body on its way to an app, the streams of HTTP/2,
//! connections of the API. Threads inside `hearth-host` have none either.

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind, set_hook};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;

thread_local! {
    /// Number of nested request handlers on this thread: one handler may run another.
    static REQUESTS: Cell<u32> = const { Cell::new(0) };
}

/// Number of panics that have terminated a request.
static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Places whose backtrace has been logged. A client that has found a panic can trigger it often, and a backtrace
/// takes long.
static TRACED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The error of a request that has panicked. The log contains place and message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the handler has panicked")]
pub struct Panicked;

/// Marks the thread as handling a request while it exists.
struct Mark(PhantomData<*const ()>);

impl Mark {
    fn set() -> Self {
        REQUESTS.set(REQUESTS.get().saturating_add(1));
        Self(PhantomData)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        REQUESTS.set(REQUESTS.get().saturating_sub(1));
    }
}

fn in_request() -> bool {
    REQUESTS.get() > 0
}

/// Installs the hook: every panic is logged, and one outside of a request aborts the process. Call it once, at the
/// start of the program.
pub fn install() {
    set_hook(Box::new(|panic| {
        let request = in_request();
        log(panic, request);
        if !request {
            std::process::abort();
        }
    }));
}

fn log(panic: &PanicHookInfo<'_>, request: bool) {
    let message = panic.payload_as_str().unwrap_or("(no text)");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("(no name)");
    // If the lock is poisoned or taken – this panic may have happened while it was held –, the backtrace can be left
    // out.
    let first = TRACED.try_lock().is_ok_and(|mut traced| traced.insert(place.clone()));
    let backtrace = if first || !request { Backtrace::force_capture().to_string() } else { String::new() };
    if request {
        tracing::error!(
            message,
            place,
            thread,
            backtrace,
            "a request has panicked: this is a fault of hearthd, please report it; only the request ends"
        );
    } else {
        tracing::error!(
            message,
            place,
            thread,
            backtrace,
            "hearthd has panicked: this is a fault of hearthd, please report it; the next hearthd goes on with what runs"
        );
    }
}

/// Number of panics that have terminated a request since the start.
#[must_use]
pub fn caught() -> u64 {
    CAUGHT.load(Ordering::Relaxed)
}

/// Runs a synchronous part of a request.
///
/// # Errors
/// [`Panicked`].
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let mark = Mark::set();
    // Data that others could see half changed is behind locks, which are poisoned by the panic.
    let done = catch_unwind(AssertUnwindSafe(work));
    drop(mark);
    done.map_err(|payload| {
        CAUGHT.fetch_add(1, Ordering::Relaxed);
        // A payload may panic when it is dropped.
        std::mem::forget(payload);
        Panicked
    })
}

/// Runs a part of a request: a panic terminates that part only, also a panic while it is dropped.
pub fn request<F: Future>(work: F) -> Caught<F> {
    Caught::new(work)
}

/// Produces the items of a request's response stream: after a panic, [`Panicked`] is the last item.
pub fn stream<S: Stream>(items: S) -> Caught<S> {
    Caught::new(items)
}

/// A part of a request: the work of [`request`] and [`stream`], or the body of a response. A panic in it terminates
/// this part only.
#[derive(Debug)]
pub struct Caught<W>(Option<Pin<Box<W>>>);

impl<W> Caught<W> {
    /// Wraps a part of a request; its owner polls it with [`go_on`](Self::go_on).
    pub(crate) fn new(work: W) -> Self {
        Self(Some(Box::pin(work)))
    }

    /// The wrapped part. None once it has finished.
    pub(crate) fn get(&self) -> Option<&W> {
        self.0.as_deref()
    }

    /// Polls the wrapped part. None once it has finished.
    pub(crate) fn go_on<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut W>) -> Poll<T>,
    ) -> Option<Poll<Result<T, Panicked>>> {
        let work = self.0.as_mut()?;
        match catch(|| poll(work.as_mut())) {
            Ok(polled) => Some(polled.map(Ok)),
            Err(panicked) => {
                self.drop_work();
                Some(Poll::Ready(Err(panicked)))
            }
        }
    }

    fn drop_work(&mut self) {
        if let Some(work) = self.0.take() {
            let _ = catch(|| drop(work)); // it has finished either way
        }
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.go_on(|work| work.poll(context)) {
            Some(Poll::Ready(done)) => {
                self.drop_work();
                Poll::Ready(done)
            }
            // A finished part is not polled again.
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }
}

impl<S: Stream> Stream for Caught<S> {
    type Item = Result<S::Item, Panicked>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.go_on(|items| items.poll_next(context)) {
            Some(Poll::Ready(Ok(Some(item)))) => Poll::Ready(Some(Ok(item))),
            Some(Poll::Ready(Err(panicked))) => Poll::Ready(Some(Err(panicked))),
            Some(Poll::Ready(Ok(None))) | None => Poll::Ready(None),
            Some(Poll::Pending) => Poll::Pending,
        }
    }
}

impl<W> Drop for Caught<W> {
    fn drop(&mut self) {
        self.drop_work();
    }
}

/// Runs blocking work on a thread of its own. If a request waits for it, a panic there terminates that request;
/// otherwise the daemon.
///
/// # Panics
/// When `work` does.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let mark = in_request();
    let work = move || {
        let _mark = mark.then(Mark::set);
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(payload) => resume_unwind(payload),
            // The work was never started: the runtime shuts down, and the waiting task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Aborts the process: a request has panicked while it changed the data that the lock guards, and that data may be
/// inconsistent. For [`PoisonError`]s of all locks, in place of the guard.
pub fn poisoned<G>(_: PoisonError<G>) -> G {
    tracing::error!("a panic has left a lock behind; the next hearthd goes on with what runs");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;

    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_panic_ends_a_request_and_not_the_next() {
        assert_eq!(request(async { panic!("on purpose") }).await, Err::<(), _>(Panicked));
        assert_eq!(request(async { 1 }).await, Ok(1));
        let items = stream(futures_util::stream::iter([1, 0, 3]).map(|number| 6 / number));
        assert_eq!(items.collect::<Vec<_>>().await, [Ok(6), Err(Panicked)]);
        assert!(!in_request());
    }

    #[tokio::test]
    async fn a_panic_on_a_thread_that_a_request_waits_for_is_the_requests() {
        let (mark, found) = request(async { (in_request(), blocking(in_request).await) }).await.unwrap();
        assert!(mark && found);
        assert!(!blocking(in_request).await, "nobody's request");
        assert_eq!(request(blocking(|| panic!("on purpose"))).await, Err::<(), _>(Panicked));
    }

    #[tokio::test]
    async fn what_panics_when_it_is_dropped_ends_with_its_request() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("on purpose")
            }
        }
        let held = Bomb;
        let work = request(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(work);
        assert!(!in_request());
    }

    #[tokio::test]
    async fn a_task_that_a_request_spawns_is_not_the_request() {
        let spawned = request(async { tokio::spawn(async { in_request() }).await });
        assert!(!spawned.await.unwrap().unwrap());
    }

    /// What a process with the hook does; its own test process runs it.
    const ENDINGS: [(&str, bool, &str); 5] = [
        ("request", true, "a request has panicked"),
        ("task", false, "hearthd has panicked"),
        ("thread", false, "hearthd has panicked"),
        ("blocking", false, "hearthd has panicked"),
        ("lock", false, "a panic has left a lock behind"),
    ];
    const ENDING: &str = "HEARTH_TEST_PANIC";

    #[test]
    fn a_panic_outside_of_a_request_ends_the_process_whoever_catches_it() {
        for (ending, lives, said) in ENDINGS {
            let mut test = Command::new(std::env::current_exe().unwrap());
            test.args(["--exact", "panics::tests::a_process_that_panics", "--ignored", "--nocapture"]);
            let output = test.env(ENDING, ending).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), lives, "{ending}: {text}");
            assert!(text.contains(said) && text.contains("panics.rs"), "{ending}: {text}");
            if !lives {
                use std::os::unix::process::ExitStatusExt as _;
                assert_eq!(
                    output.status.signal(),
                    Some(rustix::process::Signal::ABORT.as_raw()),
                    "{ending}: {text}"
                );
            }
        }
    }

    #[tokio::test]
    #[ignore = "another test runs it in a process of its own"]
    async fn a_process_that_panics() {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
        install();
        match std::env::var(ENDING).as_deref() {
            Ok("task") => drop(tokio::spawn(async { panic!("on purpose") }).await),
            Ok("thread") => drop(std::thread::spawn(|| panic!("on purpose")).join()),
            Ok("blocking") => blocking(|| panic!("on purpose")).await,
            Ok("lock") => {
                let shared = Arc::new(Mutex::new(0));
                let changes = request(async {
                    let _lock = shared.lock();
                    panic!("on purpose")
                });
                assert_eq!(changes.await, Err::<(), _>(Panicked));
                drop(shared.lock().unwrap_or_else(poisoned));
            }
            _ => assert_eq!(request(async { panic!("on purpose") }).await, Err::<(), _>(Panicked)),
        }
    }
}
