//! The end of a microVM that nobody asked for.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_host::agent::Agent;
use hearth_host::microvm::process::{Ended, Process};
use hearth_host::microvm::{EXIT_REPORT, MONITOR_LOG};
use tokio::sync::watch;
use tokio::time::sleep;

use super::guest::Phase;
use crate::platform::Exit;

/// How long to wait before the agent is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// Bytes of a monitor's last words that are told.
const WORDS: u64 = 1024;
/// Longest report in bytes.
const REPORT: u64 = 16 << 10;

/// What a monitor writes at its machine's end.
#[derive(Debug, serde::Deserialize)]
struct Report {
    kind: String,
    message: String,
}

/// Waits for the end of a microVM and tells it, unless it was asked for.
pub(super) async fn watch(
    agent: Agent,
    process: Arc<Process>,
    folder: std::path::PathBuf,
    mut phase: watch::Receiver<Phase>,
    exit: watch::Sender<Option<Exit>>,
) {
    let how = tokio::select! {
        code = app_exit(&agent) => Exit::App(code),
        _ = process.ended() => of_monitor(&folder, process.reap()),
    };
    // A suspend under way says what the end of the process means; an app that ended before it is what was suspended.
    if let Ok(phase) = phase.wait_for(|phase| *phase != Phase::Suspending).await
        && *phase == Phase::Running
    {
        exit.send_replace(Some(how));
    }
}

/// The status with which the app ends.
async fn app_exit(agent: &Agent) -> u32 {
    loop {
        let waited = async { agent.control().await?.wait_app().await };
        match waited.await {
            Ok(exit) => return exit.code,
            // It is being saved, or has ended: whoever sees that tells it.
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// How a monitor has ended, from what it left in its run directory.
fn of_monitor(folder: &Path, ended: Ended) -> Exit {
    let report = read(&folder.join(EXIT_REPORT), REPORT, false)
        .and_then(|text| serde_json::from_str::<Report>(text.lines().next()?).ok());
    match report {
        Some(Report { kind, message }) => match kind.as_str() {
            "power_off" | "guest_error" => Exit::Guest(message),
            _ => Exit::Monitor(message),
        },
        None => {
            let words = read(&folder.join(MONITOR_LOG), WORDS, true).unwrap_or_default();
            match words.trim() {
                "" => Exit::Monitor(format!("the monitor process is gone: {ended}")),
                words => {
                    Exit::Monitor(format!("the monitor process is gone: {ended}; its last words: {words}"))
                }
            }
        }
    }
}

/// The beginning or the end of a file.
fn read(path: &Path, bytes: u64, end: bool) -> Option<String> {
    let mut file = File::open(path).ok()?;
    if end {
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes))).ok()?;
    }
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_monitor_has_left_says_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let exit = |ended| of_monitor(folder.path(), ended);
        let Exit::Monitor(why) = exit(Ended::Signal(9)) else { panic!("no monitor") };
        assert_eq!(why, "the monitor process is gone: it was ended by signal 9");
        fs::write(folder.path().join(MONITOR_LOG), format!("{}\nno memory\n", "x".repeat(5000))).unwrap();
        let Exit::Monitor(why) = exit(Ended::Unknown) else { panic!("no monitor") };
        assert!(why.ends_with("\nno memory") && why.len() < 1200, "{why}");
        for (kind, expected) in [
            ("power_off", Exit::Guest("m".into())),
            ("guest_error", Exit::Guest("m".into())),
            ("monitor_error", Exit::Monitor("m".into())),
            ("shutdown", Exit::Monitor("m".into())),
        ] {
            let report = format!("{{\"kind\":\"{kind}\",\"message\":\"m\"}}\n");
            fs::write(folder.path().join(EXIT_REPORT), report).unwrap();
            assert_eq!(exit(Ended::Status(0)), expected);
        }
        fs::write(folder.path().join(EXIT_REPORT), "{\"kind\":").unwrap();
        assert!(matches!(exit(Ended::Status(0)), Exit::Monitor(_)), "half a report");
    }
}
