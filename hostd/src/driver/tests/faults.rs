//! The daemon is killed at every fault point of a story, and restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hearth_model::hooks::{Hook, HookOutcome};
use proptest::prelude::*;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;
use crate::driver::gate::WaitLimits;
use crate::platform::Exit;
use Request::{Resume, Suspend, Terminate};

/// Ids of the microVMs in all stories.
const IDS: [&str; 5] = ["microvm-cycle", "microvm-exits", "microvm-0", "microvm-1", "microvm-2"];

/// The responses that a client has received.
#[derive(Debug, Default)]
struct Responses {
    /// The last accepted request of each microVM; none stands for its launch.
    accepted: BTreeMap<String, Option<Request>>,
}

/// A story that passes all fault points. Requests that are refused have none.
async fn story(host: &Host, responses: &Mutex<Responses>) {
    let accepted = |id: &str, request| {
        responses.lock().unwrap().accepted.insert(id.to_owned(), request);
    };
    let ask = async |id: &str, request| {
        if host.ask(id, request).await.is_ok() {
            accepted(id, Some(request));
        }
    };
    for id in ["microvm-cycle", "microvm-exits"] {
        if host.run(id).await.is_ok() {
            accepted(id, None);
        }
    }
    settled(host).await;
    for request in [Suspend, Resume, Suspend] {
        ask("microvm-cycle", request).await;
        settled(host).await;
    }
    // Suspends that are cancelled: during the hook, and during the save.
    ask("microvm-exits", Suspend).await;
    ask("microvm-exits", Resume).await;
    settled(host).await;
    ask("microvm-exits", Suspend).await;
    tokio::time::sleep(STEP + STEP / 2).await;
    ask("microvm-exits", Resume).await;
    settled(host).await;
    if host.platform.world().vms.get("microvm-exits").is_some_and(|vm| vm.process.is_some()) {
        host.platform.exit("microvm-exits", Exit::App(1));
    }
    ask("microvm-cycle", Resume).await;
    settled(host).await;
    ask("microvm-cycle", Terminate).await;
    settled(host).await;
}

/// Waits until nothing is under way: much longer than any effect takes.
async fn settled(host: &Host) {
    let _ = host;
    tokio::time::sleep(Duration::from_secs(5)).await;
}

/// Runs the story with the daemon killed at the `kill`-th point; returns the names of the points that were passed.
async fn live(rules: Rules, kill: Option<usize>) -> Vec<String> {
    let (points, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let killed = Arc::new(Notify::new());
    let faults = {
        let (points, killed) = (Arc::clone(&points), Arc::clone(&killed));
        Faults::stopping(move |point| {
            let index = count.fetch_add(1, Ordering::SeqCst);
            points.lock().unwrap().push(point.to_owned());
            let dead = kill.is_some_and(|kill| index >= kill);
            if dead {
                killed.notify_one();
            }
            dead
        })
    };
    let mut host = Host::new(rules, faults).await;
    let responses = Mutex::new(Responses::default());
    tokio::select! {
        () = story(&host, &responses) => {}
        () = killed.notified() => {}
    }
    let point = kill.and_then(|kill| points.lock().unwrap().get(kill).cloned()).unwrap_or_default();
    let before: BTreeMap<String, Option<u64>> = {
        let world = host.platform.world();
        world.vms.iter().map(|(id, vm)| (id.clone(), vm.process)).collect()
    };
    let states: BTreeMap<String, MicrovmState> =
        before.keys().filter_map(|id| Some((id.clone(), host.record(id)?.microvm?.state()))).collect();
    host.restart().await;
    settled(&host).await;
    check(&host, &responses.into_inner().unwrap(), &point);
    for (id, state) in states {
        let now = host.record(&id).unwrap();
        if state == MicrovmState::Running && now.phase() == Phase::Running {
            assert_eq!(host.platform.world().vms[&id].process, before[&id], "{point}: {id} was adopted");
        }
    }
    host.microvms.stop().await;
    points.lock().unwrap().clone()
}

/// Checks that all responses to clients hold, and that nothing is left over.
fn check(host: &Host, responses: &Responses, point: &str) {
    let world = host.platform.world();
    for (id, request) in &responses.accepted {
        let record = host.record(id).unwrap_or_else(|| panic!("{point}: {id} is lost"));
        let (phase, reason) = (record.phase(), record.microvm.clone().unwrap().state_reason);
        let exited = reason.as_deref() == Some("Container Stopped with Exit Code: 1");
        let expected = match request {
            _ if exited => Phase::Terminated,
            None | Some(Resume) => Phase::Running,
            Some(Suspend) => Phase::Suspended,
            Some(Terminate) => Phase::Terminated,
        };
        // A request that was sent but not answered before the kill may have been carried out, too.
        let next = match request {
            None | Some(Resume) => [Phase::Running, Phase::Suspended, Phase::Terminated],
            Some(Suspend) => [Phase::Suspended, Phase::Running, Phase::Terminated],
            Some(Terminate) => [Phase::Terminated; 3],
        };
        assert!(
            phase == expected || next.contains(&phase),
            "{point}: {id} is {phase:?} after {request:?}: {reason:?}"
        );
        assert!(
            !reason.as_deref().is_some_and(|reason| reason.starts_with("Internal")),
            "{point}: {id} {reason:?}"
        );
    }
    let (mut alive, mut reserved) = (BTreeSet::new(), 0);
    for id in IDS {
        let Some(record) = host.record(id) else { continue };
        let vm = world.vms.get(id);
        match record.phase() {
            Phase::Running => {
                assert!(vm.is_some_and(|vm| vm.process.is_some()), "{point}: {id} runs");
                reserved += 2048;
            }
            Phase::Suspended => {
                let suspended = vm.map(|vm| (vm.process, vm.suspended));
                assert_eq!(suspended, Some((None, Some(record.suspends))), "{point}: {id} is suspended");
            }
            Phase::Terminated => assert!(vm.is_none(), "{point}: nothing of {id} is left"),
            phase => panic!("{point}: {id} hangs in {phase:?}"),
        }
        if record.phase() != Phase::Terminated {
            alive.insert(id.to_owned());
        }
        if let Some(vm) = vm {
            let mut runs = BTreeSet::new();
            for (process, hook) in &vm.hooks {
                assert!(*hook != Hook::Run || runs.insert(*process), "{point}: {id} got /run twice");
            }
        }
    }
    let left: BTreeSet<String> = world.vms.keys().cloned().collect();
    assert_eq!(left, alive, "{point}: no orphans");
    if point != "at the end" {
        assert_eq!(host.microvms.capacity().1, reserved, "{point}: what is reserved is what runs");
    }
}

async fn sweep(rules: Rules) {
    let points = live(rules, None).await;
    assert!(points.len() > 40, "{points:?}");
    for effect in
        ["launch", "run-hook", "suspend-hook", "save", "restore", "resume-hook", "terminate-hook", "discard"]
    {
        assert!(points.iter().any(|point| point == &format!("microvm.{effect}.before")), "{effect}");
    }
    for kill in 0..points.len() {
        live(rules, Some(kill)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_killed_at_any_point_loses_nothing() {
    sweep(Rules::default()).await;
}

#[tokio::test(start_paused = true)]
async fn so_it_is_in_the_strict_profile() {
    sweep(Rules::AWS_STRICT).await;
}

#[derive(Debug, Clone)]
enum Act {
    Run(u8),
    Ask(u8, Request),
    /// A request reaches the endpoint, and the app takes so many milliseconds.
    Enter(u8, u64),
    Exit(u8),
    Wait(u64),
    /// The host behaves this way at this point once, instead of correctly.
    Once(Point, Deviation),
    Restart,
}

/// Failures of the host.
fn faults() -> Vec<(Point, Deviation)> {
    [Point::Launch, Point::Resume, Point::Save, Point::Discard]
        .map(|point| (point, Deviation::Fails("it fails")))
        .into()
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let hook = prop::sample::select(vec![Hook::Run, Hook::Suspend, Hook::Resume, Hook::Terminate]);
    let request = prop::sample::select(vec![Suspend, Resume, Terminate]);
    let act = prop_oneof![
        3 => (0..3_u8).prop_map(Act::Run),
        6 => (0..3_u8, request).prop_map(|(id, request)| Act::Ask(id, request)),
        2 => (0..3_u8, 0..2000_u64).prop_map(|(id, millis)| Act::Enter(id, millis)),
        1 => (0..3_u8).prop_map(Act::Exit),
        6 => (0..400_u64).prop_map(Act::Wait),
        1 => (0..4_000_000_u64).prop_map(Act::Wait),
        1 => hook.prop_map(|hook| Act::Once(Point::Hook(hook), Deviation::Answers(HookOutcome::Status(500)))),
        2 => prop::sample::select(faults()).prop_map(|(point, way)| Act::Once(point, way)),
        2 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..50)
}

async fn do_all(acts: Vec<Act>, rules: Rules) {
    let mut host = Host::new(rules, Faults::none()).await;
    let (mut ended, mut entering) = (BTreeMap::new(), JoinSet::new());
    for act in acts {
        match act {
            Act::Run(id) => drop(host.run(&format!("microvm-{id}")).await),
            Act::Ask(id, request) => drop(host.ask(&format!("microvm-{id}"), request).await),
            Act::Enter(id, millis) => {
                let microvms = host.microvms.clone();
                entering.spawn(async move {
                    let Some(gate) = microvms.gate(&format!("microvm-{id}")) else { return };
                    let wait_limits =
                        WaitLimits { max_waiting: 9, beyond_hook: Duration::from_secs(9), launching: true };
                    let pass = microvms.enter(&gate, wait_limits).await;
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    drop(pass);
                });
            }
            Act::Exit(id) => {
                let id = format!("microvm-{id}");
                let runs = host.platform.world().vms.get(&id).is_some_and(|vm| vm.process.is_some());
                if runs {
                    host.platform.exit(&id, Exit::Monitor("killed".into()));
                }
            }
            Act::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Act::Once(point, way) => host.platform.once(point, way),
            Act::Restart => {
                entering.shutdown().await; // requests are cut off with their daemon
                host.restart().await;
            }
        }
        for id in ["microvm-0", "microvm-1", "microvm-2"] {
            let Some(record) = host.record(id) else { continue };
            if let Some(end) = ended.get(id) {
                assert_eq!(record.microvm.as_ref(), Some(end), "TERMINATED is final");
            } else if record.phase() == Phase::Terminated {
                ended.insert(id, record.microvm.unwrap());
            }
        }
    }
    host.platform.behave();
    settled(&host).await;
    check(&host, &Responses::default(), "at the end");
    let world = host.platform.world();
    for id in world.vms.keys() {
        let phase = host.record(id).unwrap().phase();
        assert!(matches!(phase, Phase::Running | Phase::Suspended), "{id} is {phase:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if hearth_testing::full() { 4096 } else { 128 }))]
    #[test]
    fn whatever_happens_no_microvm_is_lost(acts in acts(), strict in any::<bool>()) {
        let rules = if strict { Rules::AWS_STRICT } else { Rules::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(do_all(acts, rules));
    }
}
