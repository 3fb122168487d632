//! A host on which every operation that waits for a guest or its monitor may hang for ever: no microVM hangs with it.

use MicrovmState::{Running, Suspended, Terminated};
use Request::{Resume, Suspend, Terminate};

use hearth_model::hooks::Hook;

use super::*;
use crate::driver::gate::{GateError, WaitLimits};

/// All phases.
fn phases() -> impl Iterator<Item = Phase> {
    let phases: Vec<Phase> = (0..).map_while(|number| Phase::try_from(number).ok()).collect();
    assert!(phases.contains(&Phase::Terminated) && phases.contains(&Phase::ResumeAfterCancel), "{phases:?}");
    phases.into_iter()
}

/// How to reach a phase: the operation that hangs in it, and the requests that lead to it. A new phase does not
/// compile until it is listed here.
fn way(phase: Phase) -> Option<(Option<Point>, &'static [Request])> {
    Some(match phase {
        // No microVM is in this phase, or nothing follows it.
        Phase::Unspecified | Phase::Terminated => return None,
        Phase::Launching => (Some(Point::Launch), &[]),
        Phase::RunHook => (Some(Point::Hook(Hook::Run)), &[]),
        Phase::Running => (None, &[]),
        Phase::SuspendHook => (Some(Point::Hook(Hook::Suspend)), &[Suspend]),
        Phase::Saving => (Some(Point::Save), &[Suspend]),
        Phase::ResumeAfterCancel => (Some(Point::Hook(Hook::Resume)), &[Suspend, Resume]),
        Phase::Suspended => (None, &[Suspend]),
        Phase::Restoring => (Some(Point::Resume), &[Suspend, Resume]),
        Phase::ResumeHook => (Some(Point::Hook(Hook::Resume)), &[Suspend, Resume]),
        Phase::TerminateHook => (Some(Point::Hook(Hook::Terminate)), &[Terminate]),
        Phase::Ending => (Some(Point::Discard), &[Suspend, Terminate]),
    })
}

/// How long a phase may last, whatever hangs: the save has the longest deadline.
const BY_ITSELF: Duration = Duration::from_secs(15 * 60);
/// How long termination of a microVM takes at most, whatever causes it.
const END: Duration = Duration::from_secs(5 * 60);
const LIFETIME: Duration = Duration::from_secs(28_800);

/// A host with a microVM in `phase`, whose effect hangs; from then on all operations that would terminate it hang,
/// too.
async fn stuck(phase: Phase) -> Option<Host> {
    let (hang, requests) = way(phase)?;
    let host = Host::new(DEFAULT, Faults::none()).await;
    // The save is rolled back, so that `/resume` is called after a suspend that was cancelled.
    if phase == Phase::ResumeAfterCancel {
        host.platform.always(Point::Save, Deviation::Lingers);
    }
    hang.into_iter().for_each(|point| host.hang(point));
    host.run("microvm-vm").await.unwrap();
    let settled = requests.split_last().map_or(&[][..], |(_, before)| before);
    if !requests.is_empty() {
        host.until("microvm-vm", Running).await;
    }
    for request in settled {
        host.ask("microvm-vm", *request).await.unwrap();
        match phase {
            Phase::ResumeAfterCancel => host.until_hung(Point::Save).await,
            _ => drop(host.until("microvm-vm", Suspended).await),
        }
    }
    if let Some(last) = requests.last() {
        host.ask("microvm-vm", *last).await.unwrap();
    }
    match (hang, phase) {
        (Some(point), _) => host.until_hung(point).await,
        (None, Phase::Running) => drop(host.until("microvm-vm", Running).await),
        (None, _) => drop(host.until("microvm-vm", Suspended).await),
    }
    // The state that clients see is stored; the finer phase is known from the operation that hangs.
    let seen = crate::lifecycle::microvm::visible(phase);
    assert_eq!(host.microvm("microvm-vm").state(), seen, "{phase:?}");
    for point in [Point::Hook(Hook::Terminate), Point::Cancel, Point::Discard] {
        host.hang(point);
    }
    Some(host)
}

impl Host {
    /// Makes the host hang at `point` from now on; at a removal only once, since the next removal terminates the
    /// microVM.
    fn hang(&self, point: Point) {
        match point {
            Point::Discard => self.platform.once(point, Deviation::Hangs),
            _ => self.platform.always(point, Deviation::Hangs),
        }
    }

    /// Waits until the host hangs at `point`.
    async fn until_hung(&self, point: Point) {
        let hung = tokio::time::timeout(Duration::from_secs(100), self.platform.hung(point)).await;
        assert!(hung.is_ok(), "nobody comes to {point:?}: {:?}", self.record("microvm-vm"));
    }

    /// Checks that the microVM has terminated within `limit`, and that nothing of it is left.
    async fn ends(&self, limit: Duration, what: &str) -> Microvm {
        let end = self.clock.now() + limit;
        while self.microvm("microvm-vm").state() != Terminated {
            let stays = self.record("microvm-vm").unwrap();
            assert!(self.clock.now() < end, "{what}: it does not end: {stays:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(!self.platform.world().vms.contains_key("microvm-vm"), "{what}: something is left");
        assert_eq!(self.microvms.capacity().1, 0, "{what}: its memory is free");
        self.microvm("microvm-vm")
    }
}

#[tokio::test(start_paused = true)]
async fn terminate_ends_a_microvm_in_every_phase_whatever_hangs() {
    for phase in phases() {
        let Some(host) = stuck(phase).await else { continue };
        host.ask("microvm-vm", Terminate).await.unwrap();
        let ended = host.ends(END, &format!("{phase:?}")).await;
        assert_eq!(ended.state_reason.as_deref(), Some("Success."), "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_phase_but_running_and_suspended_ends_by_itself() {
    for phase in phases() {
        let Some(host) = stuck(phase).await else { continue };
        tokio::time::sleep(BY_ITSELF).await;
        let record = host.record("microvm-vm").unwrap();
        let lasts = matches!(record.phase(), Phase::Running | Phase::Suspended | Phase::Terminated);
        // Clients see no idle time here that would begin a suspend: it is as long as this.
        let begun_since = record.phase_since.is_some_and(|since| {
            let lasted = host.clock.now().duration_since(crate::clock::time(&since));
            lasted.unwrap_or_default() < BY_ITSELF / 2
        });
        assert!(lasts || begun_since, "{phase:?}: it hangs in {record:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_lifetime_ends_a_microvm_in_every_phase_whatever_hangs() {
    for phase in phases() {
        let Some(host) = stuck(phase).await else { continue };
        host.ends(LIFETIME + END, &format!("{phase:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn so_it_does_after_a_restart_of_the_daemon() {
    for finds in [true, false] {
        for phase in phases() {
            let Some(mut host) = stuck(phase).await else { continue };
            if !finds {
                host.hang(Point::Find);
            }
            tokio::time::timeout(END, host.restart()).await.expect("the daemon starts");
            host.ends(LIFETIME + END, &format!("{phase:?}, found: {finds}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_ends_in_the_phase_that_hangs_when_it_is_over() {
    // The lifetime is so short that it is over while the effect of the phase hangs.
    for phase in phases() {
        let Some(host) = stuck(phase).await else { continue };
        let mut record = host.record("microvm-vm").unwrap();
        let microvm = record.microvm.as_mut().unwrap();
        let lived =
            host.clock.now().duration_since(crate::clock::time(&microvm.started_at.unwrap())).unwrap();
        microvm.maximum_duration_in_seconds = i32::try_from(lived.as_secs()).unwrap() + 1;
        host.db.commit(super::super::record::update(&record, 0)).await.unwrap();
        let mut host = host;
        host.restart().await;
        host.ends(END, &format!("{phase:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_stops_whatever_hangs() {
    for phase in phases() {
        let Some(host) = stuck(phase).await else { continue };
        let stopped = tokio::time::timeout(Duration::from_secs(30), host.microvms.stop()).await;
        assert!(stopped.is_ok(), "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_microvm_that_cannot_be_looked_at_holds_up_no_other() {
    let mut host = Host::new(DEFAULT, Faults::none()).await;
    for id in ["microvm-vm", "microvm-other"] {
        host.run(id).await.unwrap();
        host.until(id, Running).await;
    }
    host.platform.always_for("microvm-vm", Point::Find, Deviation::Hangs);
    let begun = host.clock.now();
    tokio::time::timeout(END, host.restart()).await.expect("the daemon starts");
    assert_eq!(host.microvms.capacity().1, 4096, "its memory is taken");
    assert_eq!(host.microvms.memory_of(ACCOUNT), 4096);
    host.ask("microvm-other", Suspend).await.unwrap();
    host.until("microvm-other", Suspended).await;
    assert!(host.clock.now() < begun + Duration::from_secs(5), "nobody waits for a search");
    assert_eq!(host.microvm("microvm-vm").state(), Running, "it is what its record says");
    tokio::time::sleep(Duration::from_secs(100)).await;
    let ended = host.until("microvm-vm", Terminated).await;
    assert!(ended.state_reason.unwrap().starts_with("Internal platform error: "));
}

#[tokio::test(start_paused = true)]
async fn a_microvm_that_cannot_be_looked_at_can_be_ended_and_other_requests_wait_in_their_order() {
    for phase in phases() {
        let Some(mut host) = stuck(phase).await else { continue };
        host.platform.always_for("microvm-vm", Point::Find, Deviation::Hangs);
        host.restart().await;
        let begun = host.clock.now();
        let resume = {
            let microvms = host.microvms.clone();
            tokio::spawn(async move { microvms.request(ACCOUNT, "microvm-vm", Resume).await })
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!resume.is_finished(), "{phase:?}: it waits for the search");
        host.ask("microvm-vm", Terminate).await.unwrap();
        drop(resume.await.unwrap());
        assert!(host.clock.now() < begun + Duration::from_secs(20), "{phase:?}: the end waits for 15 s");
        let ended = host.ends(END, &format!("{phase:?}")).await;
        assert_eq!(ended.state_reason.as_deref(), Some("Success."), "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_that_is_over_waits_for_no_search() {
    for phase in phases() {
        let Some(mut host) = stuck(phase).await else { continue };
        host.platform.always_for("microvm-vm", Point::Find, Deviation::Hangs);
        let mut record = host.record("microvm-vm").unwrap();
        let microvm = record.microvm.as_mut().unwrap();
        microvm.maximum_duration_in_seconds = 1;
        host.db.commit(super::super::record::update(&record, 0)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        host.restart().await;
        let begun = host.clock.now();
        let ends = |record: MicrovmRecord| matches!(record.phase(), Phase::TerminateHook | Phase::Ending);
        while host.record("microvm-vm").is_some_and(|record| !ends(record)) {
            assert!(host.clock.now() < begun + Duration::from_secs(30), "{phase:?}: a search takes 120 s");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        host.ends(END, &format!("{phase:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_is_told_of_an_end_that_is_asked_for_before_it_is_found_again() {
    let mut host = Host::new(DEFAULT, Faults::none()).await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    host.platform.once(Point::Find, Deviation::Hangs);
    host.restart().await;
    host.platform.always(Point::Hook(Hook::Terminate), Deviation::Hangs);
    let microvms = host.microvms.clone();
    let asked = tokio::spawn(async move { microvms.request(ACCOUNT, "microvm-vm", Terminate).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    host.platform.release(Point::Find);
    asked.await.unwrap().unwrap();
    let told =
        || host.platform.world().vms["microvm-vm"].hooks.iter().any(|(_, hook)| *hook == Hook::Terminate);
    tokio::time::timeout(END, async {
        while !told() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("its /terminate is called");
}

#[tokio::test(start_paused = true)]
async fn many_silent_monitors_of_one_account_hold_up_no_other_account() {
    const OTHER: &str = "444455556666";
    let mut host = Host::new(DEFAULT, Faults::none()).await;
    for number in 0..100 {
        let id = format!("microvm-silent-{number}");
        let mut record = new(&id, host.clock);
        (record.account, record.memory_mib) = (OTHER.to_owned(), 1);
        host.microvms.launch(record, Batch::new()).await.unwrap();
        host.platform.always_for(&id, Point::Find, Deviation::Hangs);
    }
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    host.restart().await;
    let begun = host.clock.now();
    host.ask("microvm-vm", Suspend).await.unwrap();
    host.until("microvm-vm", Suspended).await;
    assert!(host.clock.now() < begun + Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_suspended_microvm_that_cannot_be_looked_at_is_not_lost() {
    let mut host = Host::new(DEFAULT, Faults::none()).await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    host.ask("microvm-vm", Suspend).await.unwrap();
    host.until("microvm-vm", Suspended).await;
    host.platform.always_for("microvm-vm", Point::Find, Deviation::Hangs);
    host.restart().await;
    assert_eq!(host.microvm("microvm-vm").state(), Suspended);
    host.ask("microvm-vm", Resume).await.unwrap();
    host.until("microvm-vm", Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_save_that_takes_too_long_is_cancelled_and_the_microvm_runs_on() {
    let host = Host::new(DEFAULT, Faults::none()).await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    host.platform.always(Point::Save, Deviation::Lingers);
    host.ask("microvm-vm", Suspend).await.unwrap();
    host.until_hung(Point::Save).await;
    tokio::time::sleep(DEADLINES.suspend).await;
    let goes_on = host.until("microvm-vm", Running).await;
    let reason = "Internal platform error: the microVM could not be suspended: it took longer than 600 s";
    assert_eq!(goes_on.state_reason.as_deref(), Some(reason));
    let hooks: Vec<Hook> =
        host.platform.world().vms["microvm-vm"].hooks.iter().map(|(_, hook)| *hook).collect();
    assert_eq!(hooks, [Hook::Run, Hook::Suspend, Hook::Resume]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_microvm_is_answered_whatever_hangs() {
    let wait_limits = WaitLimits { max_waiting: 9, beyond_hook: Duration::from_secs(30), launching: true };
    for phase in phases() {
        let Some(host) = stuck(phase).await else { continue };
        let gate = host.microvms.gate("microvm-vm").unwrap();
        let entered = tokio::time::timeout(END, host.microvms.enter(&gate, wait_limits)).await;
        let entered = entered.unwrap_or_else(|_| panic!("{phase:?}: it waits for ever"));
        let passes = matches!(phase, Phase::Running | Phase::Suspended | Phase::SuspendHook);
        match entered {
            Ok(_) => assert!(passes, "{phase:?}"),
            Err(refused) => {
                let why = matches!(
                    refused,
                    GateError::Timeout(_) | GateError::Terminated | GateError::ResumeFailed(_)
                );
                assert!(why && !matches!(phase, Phase::Running | Phase::Suspended), "{phase:?}: {refused}");
            }
        }
    }
}
