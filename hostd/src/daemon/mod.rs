//! The daemon: its parts, the order in which they start, and its shutdown.
//!
//! | Part | Owns | Needs |
//! |---|---|---|
//! | [`host_info`] | what is known of this host | – |
//! | `foundation` | configuration, store, logs, metrics, events, audit log | – |
//! | `workloads` | role provider, platform, image builder; images and microVMs | a supported host, `foundation` |
//! | `front` | API, endpoints, metrics server, and the tasks beside them | recovered `workloads`, `foundation` |
//!
//! Each step returns what the next one takes, so that none can be left out or come too early:
//!
//! ```text
//!  HostInfo ─check─► SupportedHost ─► Unrecovered ─recover─► Workloads ─► Front ─serve─► Serving ─signal─► Closed ─stop─► end
//! ```
//!
//! So the daemon does not listen anywhere before it knows what its store has, and has removed what belongs to nothing. It
//! finds the microVMs of an earlier daemon while it listens already. On SIGTERM and SIGINT it accepts no new calls
//! and completes what is half made; the microVMs run on by themselves.
//!
//! * `notifications` – converts notifications of drivers, builds and calls into events, metrics and audit lines
//! * `endpoints` – the endpoints, according to the configuration
//! * `output` – writes the output of microVMs and builds to the log store
//! * `status` – the status of the host, and gauges

mod endpoints;
mod foundation;
mod front;
pub mod host_info;
mod notifications;
mod output;
mod status;
mod workloads;

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::watch;

use self::foundation::Foundation;
use self::front::Front;
use self::host_info::HostInfo;
use self::workloads::Workloads;
use crate::config::Config;
use crate::store::Store;

/// The bucket that clients upload into.
pub const LOCAL_BUCKET: &str = "hearth-local";

/// Runs until a signal requests the shutdown. `store` is the opened store of the configuration.
///
/// # Errors
/// Why the daemon cannot start, or has failed.
pub async fn run(config: Config, store: Arc<dyn Store>) -> Result<()> {
    let host = HostInfo::inspect().check()?;
    let (shutdown_sender, shutdown) = watch::channel(false);
    let foundation = Foundation::open(config, store)?;
    let workloads = Workloads::open(&foundation, host).await?.recover().await?;
    let front = Front::open(&foundation, &workloads, shutdown).await?;
    let serving = front.serve(&foundation, &workloads)?;
    let signalled = signal().await?;
    tracing::info!(signal = signalled, "ending; microVMs go on by themselves");
    let _ = shutdown_sender.send(true); // an error means that no receiver is left
    serving.closed().await?.stop(workloads, &foundation.audit).await;
    tracing::info!("ended");
    Ok(())
}

/// Waits for a signal that requests the shutdown; returns its name.
async fn signal() -> Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
