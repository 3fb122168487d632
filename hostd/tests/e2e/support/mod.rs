//! The daemon, requests, and checks of what it leaves behind.
//!
//! * [`site`] – the data folder that all tests share
//! * [`config`] – the daemon's configuration; [`daemon`] – a `hearthd` process
//! * [`api`] – requests, and waiting for their effects
//! * [`tenant`] – clients with access keys, over TCP
//! * [`endpoint`] – clients of endpoints
//! * [`app`] – requests to the app in a microVM
//! * [`traces`] – what microVMs leave on a host

pub(crate) mod api;
pub(crate) mod app;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod endpoint;
pub(crate) mod site;
pub(crate) mod tenant;
pub(crate) mod traces;

use std::time::Duration;

pub(crate) use daemon::Daemon;

/// How long anything may take on the emulated metal. Nothing is expected to take that long.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Interval at which conditions are polled.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// Polls until `look` returns a value.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(TEST_TIMEOUT, what, look).await
}

/// Like [`until`], with another deadline.
pub(crate) async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(limit, waiting).await {
        Ok(found) => found,
        Err(_) => panic!("still not, after {} s: {what}", limit.as_secs()),
    }
}
