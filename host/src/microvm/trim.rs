//! Returns the guest's unused memory to the host, before a snapshot.
//!
//! Free pages of a guest still hold their last content, and would be in the snapshot. The balloon takes them all: the
//! monitor drops them from the host's memory, after which they read as zeros and take no room in a snapshot. Then the
//! balloon is emptied, and the guest has its memory again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Microvm, MicrovmError};

/// Memory in MiB that the guest keeps while the balloon is full.
const LEFT: u64 = 12;
/// Deadline for the guest to fill the balloon, or to empty it. Pages that are not in it by then stay in the snapshot, which does no harm.
const BALLOON_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between checks of the balloon.
const POLL: Duration = Duration::from_millis(5);
/// After so long without progress, the guest has given all the pages that it can.
const STALLED: Duration = Duration::from_millis(500);
/// Balloon pages in a MiB.
const PAGES_PER_MIB: u64 = 256;

impl Microvm {
    /// Takes `free_mib` MiB except a few from the guest, and gives them back.
    ///
    /// # Errors
    /// [`MicrovmError::Monitor`].
    pub async fn trim(&self, free_mib: u64) -> Result<(), MicrovmError> {
        let target = u32::try_from(free_mib.saturating_sub(LEFT)).unwrap_or(u32::MAX);
        if target == 0 {
            return Ok(());
        }
        self.request(move |client| client.set_balloon(target)).await?;
        self.wait_for_balloon(|pages| pages >= u64::from(target) * PAGES_PER_MIB).await?;
        self.request(|client| client.set_balloon(0)).await?;
        self.wait_for_balloon(|pages| pages == 0).await
    }

    /// Waits until the balloon's size satisfies `reached`, or no longer changes.
    async fn wait_for_balloon(&self, reached: impl Fn(u64) -> bool) -> Result<(), MicrovmError> {
        let end = Instant::now() + BALLOON_TIMEOUT;
        let (mut last, mut since) = (u64::MAX, Instant::now());
        loop {
            let pages = self.request(|client| client.counter("balloon", "actual_pages")).await?;
            if reached(pages) || Instant::now() >= end {
                return Ok(());
            }
            if pages != last {
                (last, since) = (pages, Instant::now());
            } else if since.elapsed() >= STALLED {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }
}
