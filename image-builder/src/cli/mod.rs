//! The command line: `base`, `build`, `run`, `show`.

pub(crate) mod base;
pub(crate) mod build;
mod host;
mod progress;
pub(crate) mod run;
pub(crate) mod show;

use anyhow::Context as _;

/// Runs asynchronous work on a new runtime.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime")?;
    let done = runtime.block_on(work);
    // Threads that wait for a monitor's exit could wait for ever, so they are not joined.
    runtime.shutdown_background();
    done
}

/// Completes on Ctrl-C, or when the process gets SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
