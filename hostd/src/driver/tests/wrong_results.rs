//! A host that fails where it must not, and a host that reports wrong results: no microVM hangs, and none is left
//! over.

use std::collections::BTreeSet;

use MicrovmState::{Running, Suspended, Terminated};
use Request::{Resume, Suspend, Terminate};
use hearth_model::hooks::{Hook, HookOutcome};
use proptest::prelude::*;

use super::*;
use crate::platform::Exit;
use crate::platform::double::FoundState;

/// Longer than any number of effects take, including those that are given up.
const AGES: Duration = Duration::from_secs(3600);

impl Host {
    fn process(&self, id: &str) -> Option<u64> {
        self.platform.world().vms.get(id).and_then(|vm| vm.process)
    }

    /// Two microVMs that run: `vm` and `other`.
    async fn with_two() -> Self {
        let host = Self::new(DEFAULT, Faults::none()).await;
        for id in ["microvm-vm", "microvm-other"] {
            host.run(id).await.unwrap();
            host.until(id, Running).await;
        }
        host
    }

    /// The host behaves correctly again, all microVMs are terminated, and the daemon is restarted: nothing is left.
    async fn ends_all(&mut self) {
        self.platform.behave();
        let ids: BTreeSet<String> =
            self.records().iter().map(|record| record::id(record).to_owned()).collect();
        for id in &ids {
            let _ = self.ask(id, Terminate).await; // it may have terminated already
        }
        tokio::time::sleep(AGES).await;
        for record in self.records() {
            assert_eq!(record.phase(), Phase::Terminated, "{record:?}");
        }
        assert_eq!(self.microvms.capacity().1, 0, "their memory is free");
        self.restart().await;
        assert!(self.platform.world().vms.is_empty(), "{:?} are left", self.platform.world().vms);
    }

    fn records(&self) -> Vec<MicrovmRecord> {
        ["microvm-vm", "microvm-other"].iter().filter_map(|id| self.record(id)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_looked_at_at_once_is_looked_at_again() {
    let mut host = Host::with_two().await;
    let before = [host.process("microvm-vm"), host.process("microvm-other")];
    for _ in 0..3 {
        host.platform.once(Point::Find, Deviation::Fails("a record cannot be read"));
    }
    host.restart().await;
    assert_eq!([host.process("microvm-vm"), host.process("microvm-other")], before, "they were adopted");
    assert_eq!([host.microvm("microvm-vm").state(), host.microvm("microvm-other").state()], [Running; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_microvm_that_can_never_be_looked_at_keeps_no_daemon_from_starting() {
    let mut host = Host::with_two().await;
    let before = host.process("microvm-other");
    host.platform.always_for("microvm-vm", Point::Find, Deviation::Fails("a record cannot be read"));
    host.restart().await;
    assert_eq!((host.microvm("microvm-other").state(), host.process("microvm-other")), (Running, before));
    tokio::time::sleep(Duration::from_secs(100)).await; // it is looked at again and again
    let ended = host.until("microvm-vm", Terminated).await;
    assert!(ended.state_reason.unwrap().starts_with("Internal platform error: "));
    assert!(!host.platform.world().vms.contains_key("microvm-vm"), "nothing is left");

    let mut host = Host::with_two().await;
    host.ask("microvm-vm", Suspend).await.unwrap();
    host.until("microvm-vm", Suspended).await;
    host.platform.always_for("microvm-vm", Point::Find, Deviation::Fails("a record cannot be read"));
    host.restart().await;
    host.ask("microvm-vm", Resume).await.unwrap();
    host.until("microvm-vm", Running).await;
}

/// Wrong reports of the host: success without the effect, failure with the effect, and wrong findings.
fn lies() -> Vec<(Point, Deviation)> {
    use Point::{Cancel, Discard, Find, Launch, Save};
    let mut lies: Vec<(Point, Deviation)> = [Launch, Point::Resume, Save, Discard]
        .into_iter()
        .flat_map(|point| [(point, Deviation::Pretends), (point, Deviation::Denies("it says so"))])
        .collect();
    lies.extend([(Save, Deviation::RunsOn), (Cancel, Deviation::Pretends)]);
    lies.extend(
        [FoundState::Running, FoundState::Suspended, FoundState::Nothing]
            .map(|sight| (Find, Deviation::Finds(sight))),
    );
    for hook in [Hook::Run, Hook::Suspend, Hook::Resume, Hook::Terminate] {
        lies.extend(
            [HookOutcome::Disabled, HookOutcome::Status(0)]
                .map(|outcome| (Point::Hook(hook), Deviation::Answers(outcome))),
        );
    }
    lies
}

#[tokio::test(start_paused = true)]
async fn whatever_the_host_says_of_a_microvm_it_ends_and_others_run() {
    for (point, way) in lies() {
        let what = format!("{way:?} at {point:?}");
        let mut host = Host::new(DEFAULT, Faults::none()).await;
        host.run("microvm-other").await.unwrap();
        host.until("microvm-other", Running).await;
        let before = host.process("microvm-other");
        host.platform.always_for("microvm-vm", point, way.clone());
        host.run("microvm-vm").await.unwrap();
        for request in [Suspend, Resume, Suspend, Resume] {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let _ = host.ask("microvm-vm", request).await; // it may have terminated already
        }
        // A resume during the save.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let _ = host.ask("microvm-vm", Suspend).await;
        tokio::time::sleep(STEP + STEP / 2).await;
        let _ = host.ask("microvm-vm", Resume).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        host.restart().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(
            (host.microvm("microvm-other").state(), host.process("microvm-other")),
            (Running, before),
            "{what}"
        );
        host.ends_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_was_none_and_one_that_is_kept_back_leave_nothing() {
    let mut host = Host::with_two().await;
    host.platform.claim_exit("microvm-vm", Exit::Monitor("killed".into()));
    host.until("microvm-vm", Terminated).await;
    assert!(host.process("microvm-vm").is_none(), "what was said to have ended is ended");
    host.platform.vanish("microvm-other");
    host.ask("microvm-other", Suspend).await.unwrap();
    host.ends_all().await;

    // A daemon that starts later notices that the microVM is gone.
    let mut host = Host::with_two().await;
    host.platform.vanish("microvm-vm");
    host.restart().await;
    host.until("microvm-vm", Terminated).await;
    assert_eq!(host.microvm("microvm-other").state(), Running);
}

#[tokio::test(start_paused = true)]
async fn a_microvm_is_ended_by_its_own_id_even_if_its_guest_is_another_ones() {
    for point in [Point::Launch, Point::Resume, Point::Find] {
        let mut host = Host::new(DEFAULT, Faults::none()).await;
        host.run("microvm-other").await.unwrap();
        host.until("microvm-other", Running).await;
        let before = host.process("microvm-other");
        if point == Point::Launch {
            host.platform.always_for("microvm-vm", point, Deviation::Mistakes("microvm-other"));
        }
        host.run("microvm-vm").await.unwrap();
        host.until("microvm-vm", Running).await;
        if point == Point::Resume {
            host.ask("microvm-vm", Suspend).await.unwrap();
            host.until("microvm-vm", Suspended).await;
            host.platform.always_for("microvm-vm", point, Deviation::Mistakes("microvm-other"));
            host.ask("microvm-vm", Resume).await.unwrap();
            host.until("microvm-vm", Running).await;
        }
        if point == Point::Find {
            host.platform.always_for("microvm-vm", point, Deviation::Mistakes("microvm-other"));
            host.restart().await;
        }
        host.ask("microvm-vm", Terminate).await.unwrap();
        host.until("microvm-vm", Terminated).await;
        assert!(!host.platform.world().vms.contains_key("microvm-vm"), "{point:?}: nothing is left");
        assert_eq!(
            (host.microvm("microvm-other").state(), host.process("microvm-other")),
            (Running, before),
            "{point:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_removal_left_behind_is_removed_by_the_next_daemon() {
    let mut host = Host::with_two().await;
    host.platform.once(Point::Discard, Deviation::Pretends);
    host.ask("microvm-vm", Terminate).await.unwrap();
    host.until("microvm-vm", Terminated).await;
    assert!(host.process("microvm-vm").is_some(), "the host has lied");
    host.restart().await;
    assert!(host.platform.world().vms.keys().eq(["microvm-other"]));
}

#[derive(Debug, Clone)]
enum Act {
    Run,
    Ask(Request),
    /// The host behaves this way at this point once, instead of correctly.
    Once(Point, Deviation),
    /// The host behaves correctly again, and completes the operations that hang.
    Behave,
    Exit,
    ClaimExit,
    Vanish,
    Wait(u64),
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let request = prop::sample::select(vec![Suspend, Resume, Terminate]);
    let hangs = [Point::Launch, Point::Resume, Point::Save, Point::Cancel, Point::Discard, Point::Find]
        .map(|point| (point, Deviation::Hangs));
    let fails = [Point::Launch, Point::Resume, Point::Save, Point::Discard, Point::Find]
        .map(|point| (point, Deviation::Fails("it fails")));
    let otherwise = [&hangs[..], &fails, &lies(), &[(Point::Save, Deviation::Lingers)]].concat();
    let act = prop_oneof![
        3 => Just(Act::Run),
        8 => request.prop_map(Act::Ask),
        8 => prop::sample::select(otherwise).prop_map(|(point, way)| Act::Once(point, way)),
        1 => Just(Act::Behave),
        1 => Just(Act::Exit),
        1 => Just(Act::ClaimExit),
        1 => Just(Act::Vanish),
        8 => (0..400_u64).prop_map(Act::Wait),
        2 => (0..4_000_000_u64).prop_map(Act::Wait),
        2 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..40)
}

async fn do_all(acts: Vec<Act>, rules: Rules) {
    let mut host = Host::new(rules, Faults::none()).await;
    let mut ended = None;
    for act in acts {
        match act {
            Act::Run => drop(host.run("microvm-vm").await),
            Act::Ask(request) => drop(host.ask("microvm-vm", request).await),
            Act::Once(point, way) => host.platform.once(point, way),
            Act::Behave => host.platform.behave(),
            Act::Exit => host.platform.exit("microvm-vm", Exit::Monitor("killed".into())),
            Act::ClaimExit => host.platform.claim_exit("microvm-vm", Exit::App(1)),
            Act::Vanish => host.platform.vanish("microvm-vm"),
            Act::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Act::Restart => host.restart().await,
        }
        let Some(record) = host.record("microvm-vm") else { continue };
        if record.phase() == Phase::Terminated {
            assert_eq!(ended.get_or_insert_with(|| record.clone()), &record, "TERMINATED is final");
        }
    }
    host.ends_all().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if hearth_testing::full() { 4096 } else { 128 }))]
    #[test]
    fn whatever_the_host_says_a_microvm_can_be_ended(acts in acts(), strict in any::<bool>()) {
        let rules = if strict { Rules::AWS_STRICT } else { Rules::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(do_all(acts, rules));
    }
}
