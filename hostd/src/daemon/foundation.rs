//! What all other parts of the daemon use: the configuration, the store, and what reports to the outside.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use prost_types::Timestamp;

use super::output::LogOutput;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::Config;
use crate::driver::faults::Faults;
use crate::events::Events;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::store::{Db, Store};

/// What all other parts of the daemon use.
pub(super) struct Foundation {
    pub(super) config: Config,
    pub(super) clock: Clock,
    /// When the daemon was started.
    pub(super) started: Timestamp,
    pub(super) db: Db,
    pub(super) faults: Faults,
    pub(super) events: Events,
    pub(super) logs: Logs,
    pub(super) metrics: Metrics,
    pub(super) audit: Audit,
    /// Writes the output of microVMs and builds to the logs.
    pub(super) output: Arc<LogOutput>,
}

impl Foundation {
    /// Starts the store's commits, and opens logs and audit log.
    pub(super) fn open(config: Config, store: Arc<dyn Store>) -> Result<Self> {
        let clock = Clock::system();
        let started = clock.timestamp();
        let metrics = Metrics::new();
        let observed = metrics.clone();
        let db = Db::observed(store, move |batches, took| observed.committed(batches, took));
        let logs = Logs::open(&config.data.join("logs"), config.logs.clone(), clock)?;
        let audit_folder = config.data.join("audit");
        let audit = Audit::open(&audit_folder, config.audit.clone(), clock)
            .with_context(|| format!("opening the audit log in {}", audit_folder.display()))?;
        let events = Events::default();
        let output = Arc::new(LogOutput::new(logs.clone(), metrics.clone(), events.clone(), clock));
        Ok(Self {
            config,
            clock,
            started,
            db,
            faults: Faults::of_environment(),
            events,
            logs,
            metrics,
            audit,
            output,
        })
    }
}
