//! Room on the disk for a running microVM, as its monitor is told it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_client::{CONTROL_SOCKET, Client, Limited};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::logs::Output;
use crate::disk::Holder;
use crate::panics::poisoned;

/// Deadline for a monitor to take over a bound. A thread waits for it.
const TELL: Duration = Duration::from_secs(10);
/// Time in which it is said once that writes wait: a guest can make them wait and go on as often as it likes.
const SAY: Duration = Duration::from_secs(60);

/// A microVM whose disk has a bound.
#[derive(Debug)]
pub(super) struct Room {
    /// Run directory of the monitor.
    pub(super) run: PathBuf,
    /// The limits of its devices beside the bound.
    pub(super) limits: DeviceLimits,
    pub(super) output: Output,
    /// When it was said last that writes wait.
    said: Mutex<Option<Instant>>,
}

impl Room {
    pub(super) fn new(run: PathBuf, limits: DeviceLimits, output: Output) -> Self {
        Self { run, limits, output, said: Mutex::default() }
    }

    /// Tells the monitor its limits and this bound.
    pub(super) fn tell(&self, room: Option<u64>) -> Result<Limited, String> {
        let client = Client::connect(self.run.join(CONTROL_SOCKET));
        let set = client
            .and_then(|client| client.with_timeout(TELL).set_limits(DeviceLimits { room, ..self.limits }));
        set.map_err(|error| error.to_string())
    }
}

impl Holder for Room {
    fn bound(&self, bytes: u64) -> Result<bool, String> {
        Ok(self.tell(Some(bytes))? == Limited::All)
    }

    fn waits(&self, waits: bool) {
        let mut said = self.said.lock().unwrap_or_else(poisoned);
        if !waits || said.is_some_and(|said| said.elapsed() < SAY) {
            return;
        }
        *said = Some(Instant::now());
        tracing::warn!(
            microvm = %self.output.microvm,
            account = %self.output.account,
            "writes of a microVM wait: its account may take no more of the disk; see quotas.disk_mib and disk.account_ratio"
        );
        if let Ok(runtime) = Handle::try_current() {
            let output = self.output.clone();
            drop(runtime.spawn_blocking(move || {
                output.notice(
                    "Writes of this MicroVM to its disk wait: its account may take no more of the host's disk. They go on when MicroVMs \
                     have ended, or images or artifacts are deleted.",
                );
            }));
        }
    }
}
