//! The guest as a whole: its status, quiescing before a snapshot, and power-off.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hearth_proto::guest::v1::{AppState, Quiesce, Quiesced, Status};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Agent;
use crate::container::job::Archive;
use crate::container::spawn::{PidNamespace, SpawnRequest};
use crate::refusal::{Context as _, Refusal};
use crate::system::{check, kill};

/// How often the lists of free pages are made an eighth shorter: 40 times leaves less than a hundredth.
const SHORTENINGS: u32 = 40;
/// How long processes have between SIGTERM and SIGKILL when the guest shuts down.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long the host has to receive the last response.
const LAST_ANSWER: Duration = Duration::from_secs(1);

impl Agent {
    /// The status of the guest, the app and the logs.
    pub(super) fn status(&self) -> Status {
        let (container, app) = {
            let state = self.state();
            (state.container.clone(), state.app.clone())
        };
        let exited = app.as_ref().and_then(|app| app.exited());
        let state = match (&app, &exited) {
            (None, _) => AppState::NotStarted,
            (Some(_), None) => AppState::Running,
            (Some(_), Some(_)) => AppState::Exited,
        };
        let times = fs::read_to_string("/proc/stat").unwrap_or_default();
        let (cpu_total_ms, cpu_busy_ms) = processor_times(&times, ticks_per_second());
        let (last_log, acknowledged_log) = self.logs.sequences();
        Status {
            release: env!("CARGO_PKG_VERSION").to_string(),
            configured: container.is_some(),
            app: state.into(),
            exited,
            cpu_total_ms,
            cpu_busy_ms,
            last_log,
            acknowledged_log,
            frozen: container.is_some_and(|container| container.is_frozen()),
        }
    }

    /// Terminates all processes but this one, and unmounts their file systems.
    pub(super) async fn stop_everything(&self) -> Result<(), Refusal> {
        if std::process::id() != 1 {
            return Err(Refusal::invalid("this agent is not the first process of its machine"));
        }
        let (container, app) = {
            let mut state = self.state();
            (state.container.take(), state.app.clone())
        };
        let _ = kill(-1, libc::SIGTERM);
        if let Some(container) = &container {
            let _ = container.thaw(); // a frozen app would not get SIGTERM; should this fail, SIGKILL still works
        }
        if let Some(app) = app {
            let mut exited = app.exited.clone();
            let _ = timeout(LAST_WORDS, exited.wait_for(Option::is_some)).await;
        }
        let _ = kill(-1, libc::SIGKILL);
        if let Some(container) = container {
            let job = Archive::default();
            let mut released = self.spawner.start(SpawnRequest {
                kind: "release",
                job: &job,
                container: Some(&container.namespaces),
                groups: None,
                pids: PidNamespace::Agents,
                streams: [Stdio::null(), Stdio::null(), Stdio::null()],
            })?;
            released.succeeded().await?;
        }
        sync().await
    }
}

/// Writes everything to disk, and releases memory that is not needed.
pub(super) async fn quiesce(request: &Quiesce) -> Result<Quiesced, Refusal> {
    sync().await?;
    if request.drop_page_cache {
        set("/proc/sys/vm/drop_caches", "1").await?;
    }
    // SAFETY: takes no pointer.
    unsafe { libc::malloc_trim(0) };
    // Free pages are reported to the host in blocks of some MiB. Not every kernel can move pages.
    if Path::new("/proc/sys/vm/compact_memory").exists() {
        set("/proc/sys/vm/compact_memory", "1").await?;
    }
    give_back_processors_pages().await;
    let memory = fs::read_to_string("/proc/meminfo").or_refuse(|| "reading /proc/meminfo")?;
    let mib = |name: &str| field_kib(&memory, name) >> 10;
    Ok(Quiesced { free_mib: mib("MemFree"), cached_mib: mib("Cached") })
}

/// Returns each processor's own list of free pages to the common ones: those lists grow to an eighth of the memory, and nothing in
/// them is reported to the host. Each read of this file makes them an eighth shorter (Linux, mm/page_alloc.c, `decay_pcp_high`).
async fn give_back_processors_pages() {
    let shorten = || (0..SHORTENINGS).all(|_| fs::read("/proc/sys/vm/stat_refresh").is_ok());
    let _ = spawn_blocking(shorten).await; // a kernel without the file has no such lists
}

/// Waits until the host has received the last response, and powers the guest off.
pub(super) async fn power_off(mut connection: UnixStream) {
    use tokio::io::AsyncWriteExt as _;
    let _ = connection.shutdown().await;
    let _ = timeout(LAST_ANSWER, connection.read(&mut [0])).await;
    // SAFETY: takes no pointer.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

async fn sync() -> Result<(), Refusal> {
    // SAFETY: takes no pointer.
    let synced = spawn_blocking(|| unsafe { libc::sync() }).await;
    synced.map_err(io::Error::other).or_refuse(|| "writing everything to disk")
}

async fn set(path: &'static str, value: &'static str) -> Result<(), Refusal> {
    let set = spawn_blocking(move || fs::write(path, value)).await.map_err(io::Error::other);
    set.and_then(|result| result).or_refuse(|| format!("writing {value} to {path}"))
}

/// CPU time in milliseconds since boot, added up over all CPUs: the total, and the part that was not idle (proc_stat(5)).
fn processor_times(stat: &str, ticks_per_second: u64) -> (u64, u64) {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> =
        line.into_iter().flat_map(str::split_whitespace).map(|field| field.parse().unwrap_or(0)).collect();
    // user nice system idle iowait irq softirq steal; the remaining fields are contained in the first two.
    let total: u64 = ticks.iter().take(8).sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let milliseconds = |ticks: u64| ticks.saturating_mul(1_000) / ticks_per_second;
    (milliseconds(total), milliseconds(total - idle))
}

fn ticks_per_second() -> u64 {
    // SAFETY: takes no pointer.
    let ticks = check(i32::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(-1));
    ticks.ok().and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100)
}

fn field_kib(memory: &str, name: &str) -> u64 {
    let value = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_times_are_all_and_those_not_idle() {
        let stat = "cpu  100 20 30 400 50 6 7 8 90 10\ncpu0 1 1 1 1\n";
        assert_eq!(processor_times(stat, 100), (6_210, 1_710));
        assert_eq!(processor_times("", 100), (0, 0));
    }

    #[test]
    fn memory_is_read_by_its_whole_name() {
        let memory = "MemTotal:  1000 kB\nSwapCached:   7 kB\nCached:   2048 kB\n";
        assert_eq!(field_kib(memory, "Cached"), 2048);
        assert_eq!(field_kib(memory, "MemFree"), 0);
    }
}
