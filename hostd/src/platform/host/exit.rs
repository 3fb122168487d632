//! Detection of the unrequested exit of a microVM.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_host::agent::Agent;
use hearth_host::microvm::process::{ExitStatus, Process};
use hearth_host::microvm::{EXIT_REPORT, MONITOR_LOG, files};
use hearth_proto::ExitReport;
use hearth_proto::vmm::v1::ExitKind;
use tokio::sync::watch;
use tokio::time::sleep;

use super::phase::Phase;
use crate::platform::Exit;

/// Pause before the agent is queried again.
const RETRY: Duration = Duration::from_millis(500);
/// Number of bytes of a monitor's last output that are reported.
const WORDS: u64 = 1024;
/// Longest exit report in bytes.
const REPORT: u64 = 16 << 10;

/// Waits for the exit of a microVM and reports it, unless the exit was requested.
pub(super) async fn watch(
    agent: Agent,
    process: Arc<Process>,
    folder: std::path::PathBuf,
    mut phase: watch::Receiver<Phase>,
    exit: watch::Sender<Option<Exit>>,
) {
    let how = tokio::select! {
        code = app_exit(&agent) => Exit::App(code),
        _ = process.exited() => of_monitor(&folder, process.reap()),
    };
    // During a suspend the exit of the process is expected if the suspend succeeds, and the exit of the app belongs
    // to the state that was saved.
    if let Ok(phase) = phase.wait_for(|phase| *phase != Phase::Suspending).await
        && *phase == Phase::Running
    {
        exit.send_replace(Some(how));
    }
}

/// Waits for the app's exit; returns its status.
async fn app_exit(agent: &Agent) -> u32 {
    loop {
        let waited = async { agent.control().await?.wait_app().await };
        match waited.await {
            Ok(exit) => return exit.code,
            // The microVM is being saved or has exited; both are reported elsewhere.
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// How a monitor has exited, from the files in its run directory.
fn of_monitor(folder: &Path, ended: ExitStatus) -> Exit {
    let report = files::head(&folder.join(EXIT_REPORT), REPORT).and_then(|text| ExitReport::read(&text));
    match report {
        Some(ExitReport { kind, message }) => match kind {
            ExitKind::PowerOff | ExitKind::GuestError => Exit::Guest(message),
            ExitKind::Shutdown | ExitKind::MonitorError | ExitKind::Unspecified => Exit::Monitor(message),
        },
        None => {
            let words = files::tail(&folder.join(MONITOR_LOG), WORDS).unwrap_or_default();
            match words.trim() {
                "" => Exit::Monitor(format!("the monitor process is gone: {ended}")),
                words => {
                    Exit::Monitor(format!("the monitor process is gone: {ended}; its last words: {words}"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_monitor_has_left_says_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let exit = |ended| of_monitor(folder.path(), ended);
        let Exit::Monitor(why) = exit(ExitStatus::Signal(9)) else { panic!("no monitor") };
        assert_eq!(why, "the monitor process is gone: it was ended by signal 9");
        fs::write(folder.path().join(MONITOR_LOG), format!("{}\nno memory\n", "x".repeat(5000))).unwrap();
        let Exit::Monitor(why) = exit(ExitStatus::Unknown) else { panic!("no monitor") };
        assert!(why.ends_with("\nno memory") && why.len() < 1200, "{why}");
        for (kind, expected) in [
            (ExitKind::PowerOff, Exit::Guest("m".into())),
            (ExitKind::GuestError, Exit::Guest("m".into())),
            (ExitKind::MonitorError, Exit::Monitor("m".into())),
            (ExitKind::Shutdown, Exit::Monitor("m".into())),
            (ExitKind::Unspecified, Exit::Monitor("m".into())),
        ] {
            let report = ExitReport { kind, message: "m".into() };
            fs::write(folder.path().join(EXIT_REPORT), format!("{report}\n")).unwrap();
            assert_eq!(exit(ExitStatus::Status(0)), expected);
        }
        fs::write(folder.path().join(EXIT_REPORT), "{\"kind\":").unwrap();
        assert!(matches!(exit(ExitStatus::Status(0)), Exit::Monitor(_)), "half a report");
    }
}
