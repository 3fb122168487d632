use hearth_model::hooks::{Hook, HookOutcome};
use hearth_proto::store::v1::ClientTokenRecord;

use super::*;
use crate::clock;
use crate::driver::Full;
use crate::platform::Exit;
use crate::records::Expiry;
use crate::store::{CommitError, Scan};
use MicrovmState::{Running, Suspended, Suspending, Terminated};
use Request::{Resume, Suspend, Terminate};

async fn host() -> Host {
    Host::new(Rules::default(), Faults::none()).await
}

#[tokio::test(start_paused = true)]
async fn a_microvm_runs_is_suspended_resumed_and_terminated() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    assert_eq!(host.microvm("microvm-vm").state(), MicrovmState::Pending);
    host.until("microvm-vm", Running).await;
    assert!(
        host.record("microvm-vm").unwrap().run_hook_payload.is_empty(),
        "it is not kept once it was delivered"
    );
    host.ask("microvm-vm", Suspend).await.unwrap();
    assert_eq!(host.microvm("microvm-vm").state(), Suspending, "what was accepted is stored");
    host.until("microvm-vm", Suspended).await;
    assert_eq!(host.microvms.capacity(), (4096, 0), "its memory is free");
    host.ask("microvm-vm", Suspend).await.unwrap();
    host.ask("microvm-vm", Resume).await.unwrap();
    host.until("microvm-vm", Running).await;
    host.ask("microvm-vm", Terminate).await.unwrap();
    let ended = host.until("microvm-vm", Terminated).await;
    assert_eq!(ended.state_reason.as_deref(), Some("Success."));
    assert!(ended.terminated_at.is_some());
    assert!(host.platform.world().vms.is_empty(), "nothing is left");
    assert_eq!(host.microvms.capacity(), (4096, 0));
    host.ask("microvm-vm", Terminate).await.unwrap();
    let refused = host.ask("microvm-vm", Resume).await.unwrap_err().to_string();
    assert_eq!(refused, "The MicroVM microvm-vm has been terminated and its state cannot be changed.");
    assert!(matches!(host.ask("microvm-other", Terminate).await, Err(RequestError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn a_full_host_refuses_launches_and_resumes_and_disturbs_nothing_else() {
    let host = host().await;
    for id in ["microvm-one", "microvm-two"] {
        host.run(id).await.unwrap();
        host.until(id, Running).await;
    }
    assert!(matches!(
        host.run("microvm-three").await,
        Err(LaunchError::Capacity(Full { needed_mib: 2048, free_mib: 0 }))
    ));
    assert!(host.record("microvm-three").is_none());
    host.ask("microvm-one", Suspend).await.unwrap();
    host.until("microvm-one", Suspended).await;
    host.run("microvm-three").await.unwrap();
    host.until("microvm-three", Running).await;
    assert!(matches!(host.ask("microvm-one", Resume).await, Err(RequestError::Capacity(_))));
    assert_eq!(host.microvm("microvm-one").state(), Suspended);
    assert_eq!(host.microvm("microvm-two").state(), Running);
}

#[tokio::test(start_paused = true)]
async fn a_resume_during_a_suspend_wakes_it_at_once() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    host.ask("microvm-vm", Suspend).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await; // the hook has answered, it is being saved
    host.ask("microvm-vm", Resume).await.unwrap();
    host.until("microvm-vm", Running).await;
    let hooks: Vec<Hook> =
        host.platform.world().vms["microvm-vm"].hooks.iter().map(|(_, hook)| *hook).collect();
    assert_eq!(hooks, [Hook::Run, Hook::Suspend, Hook::Resume]);
    assert_eq!(host.record("microvm-vm").unwrap().suspends, 0, "it was never suspended");
}

#[tokio::test(start_paused = true)]
async fn hooks_that_fail_have_their_effects() {
    let host = host().await;
    host.platform.once(Point::Hook(Hook::Run), Deviation::Answers(HookOutcome::Status(500)));
    host.run("microvm-one").await.unwrap();
    let reason = host.until("microvm-one", Terminated).await.state_reason.unwrap();
    assert!(reason.starts_with("Run lifecycle hook returned HTTP status 500."), "{reason}");

    host.run("microvm-two").await.unwrap();
    host.until("microvm-two", Running).await;
    host.platform.once(Point::Hook(Hook::Suspend), Deviation::Answers(HookOutcome::TimedOut));
    host.ask("microvm-two", Suspend).await.unwrap();
    let microvm = host.until("microvm-two", Running).await;
    assert!(microvm.state_reason.unwrap().starts_with("Suspend lifecycle hook timed out."));

    host.ask("microvm-two", Suspend).await.unwrap();
    assert_eq!(host.until("microvm-two", Suspended).await.state_reason, None, "it is as it should be again");
    host.platform.once(Point::Hook(Hook::Resume), Deviation::Answers(HookOutcome::Refused));
    host.ask("microvm-two", Resume).await.unwrap();
    let reason = host.until("microvm-two", Terminated).await.state_reason.unwrap();
    assert!(reason.starts_with("Resume lifecycle hook connection was refused."), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_terminate_does_not_wait_for_a_hook_that_hangs() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await; // /run is being called
    host.ask("microvm-vm", Terminate).await.unwrap();
    host.until("microvm-vm", Terminated).await;
    let world = host.platform.world();
    assert!(world.vms.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_app_that_exits_and_a_process_that_dies_end_the_microvm() {
    let host = host().await;
    for (id, exit, sentence) in [
        ("microvm-app", Exit::App(7), "Container Stopped with Exit Code: 7"),
        (
            "microvm-vmm",
            Exit::Monitor("killed".into()),
            "Internal platform error: the microVM's process has ended: killed",
        ),
    ] {
        host.run(id).await.unwrap();
        host.until(id, Running).await;
        host.platform.exit(id, exit);
        assert_eq!(host.until(id, Terminated).await.state_reason.as_deref(), Some(sentence));
    }
    assert!(host.platform.world().vms.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_maximum_duration_counts_suspended_time_too() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    let started = crate::clock::time(&host.until("microvm-vm", Running).await.started_at.unwrap());
    host.ask("microvm-vm", Suspend).await.unwrap();
    host.until("microvm-vm", Suspended).await;
    // The microVM is resumed in time, so that its suspended duration does not terminate it.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(1500)).await;
        if host.microvm("microvm-vm").state() == Suspended {
            host.ask("microvm-vm", Resume).await.unwrap();
            host.until("microvm-vm", Running).await;
            host.ask("microvm-vm", Suspend).await.unwrap();
        }
    }
    let ended = host.until("microvm-vm", Terminated).await;
    let after = crate::clock::time(&ended.terminated_at.unwrap()).duration_since(started).unwrap();
    assert!(after >= Duration::from_secs(28_800) && after < Duration::from_secs(28_802), "{after:?}");
    assert_eq!(ended.state_reason.as_deref(), Some("MicroVM exceeded maximum lifetime."));
}

#[tokio::test(start_paused = true)]
async fn a_microvm_is_not_suspended_for_longer_than_its_policy_says() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    tokio::time::sleep(Duration::from_secs(890)).await;
    host.until("microvm-vm", Suspended).await;
    tokio::time::sleep(Duration::from_secs(1790)).await;
    assert_eq!(host.microvm("microvm-vm").state(), Suspended);
    let ended = host.until("microvm-vm", Terminated).await;
    assert_eq!(ended.state_reason.as_deref(), Some("MicroVM exceeded maximum lifetime."));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_at_once_is_removed_later() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    for _ in 0..3 {
        host.platform.once(Point::Discard, Deviation::Fails("the folder is busy"));
    }
    host.ask("microvm-vm", Terminate).await.unwrap();
    host.until("microvm-vm", Terminated).await;
    assert!(host.platform.world().vms.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_fails_on_the_host_loses_nothing() {
    let host = host().await;
    host.platform.once(Point::Launch, Deviation::Fails("the snapshot cannot be read"));
    host.run("microvm-one").await.unwrap();
    let reason = host.until("microvm-one", Terminated).await.state_reason.unwrap();
    assert_eq!(reason, "Internal platform error: the snapshot cannot be read");

    host.run("microvm-two").await.unwrap();
    host.until("microvm-two", Running).await;
    host.platform.once(Point::Save, Deviation::Fails("the disk is full"));
    host.ask("microvm-two", Suspend).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let microvm = host.microvm("microvm-two");
    assert_eq!(microvm.state(), Running);
    assert!(microvm.state_reason.unwrap().contains("the disk is full"));

    host.ask("microvm-two", Suspend).await.unwrap();
    host.until("microvm-two", Suspended).await;
    host.platform.once(Point::Resume, Deviation::Fails("no user id is free"));
    host.ask("microvm-two", Resume).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(host.microvm("microvm-two").state(), Suspended);
    host.ask("microvm-two", Resume).await.unwrap();
    host.until("microvm-two", Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_the_next_daemon_cannot_repeat_leaves_no_process() {
    let mut host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    host.ask("microvm-vm", Suspend).await.unwrap();
    host.until("microvm-vm", Suspended).await;
    host.ask("microvm-vm", Resume).await.unwrap();
    tokio::time::sleep(STEP + STEP / 2).await; // restored; its hook is being called
    assert!(host.platform.world().vms["microvm-vm"].process.is_some());
    host.platform.once(Point::Resume, Deviation::Fails("no user id is free"));
    host.restart().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(host.microvm("microvm-vm").state(), Suspended);
    assert_eq!(host.platform.world().vms["microvm-vm"].process, None);
    assert_eq!(host.microvms.capacity(), (4096, 0));
    // The microVM is not taken for a running one either.
    host.restart().await;
    host.ask("microvm-vm", Resume).await.unwrap();
    host.until("microvm-vm", Running).await;
}

#[tokio::test(start_paused = true)]
async fn the_files_of_a_retired_build_are_launched_from_no_more() {
    let host = host().await;
    let retired = ArtifactRecord { build_id: BUILD.into(), retired: true, ..ArtifactRecord::default() };
    let batch = Batch::new().put(Table::Artifacts, records::artifact(BUILD), records::encode(&retired));
    host.db.commit(batch).await.unwrap();
    assert!(matches!(host.run("microvm-vm").await, Err(LaunchError::Conflict)));
    assert_eq!(host.microvms.capacity(), (4096, 0));
}

#[tokio::test(start_paused = true)]
async fn a_microvm_is_forgotten_a_day_after_its_end() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    host.ask("microvm-vm", Terminate).await.unwrap();
    host.until("microvm-vm", Terminated).await;
    tokio::time::sleep(Duration::from_secs(86_000)).await;
    assert_eq!(host.microvms.expire().await.unwrap(), 0);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(host.microvms.states()["TERMINATED"], 1);
    assert_eq!(host.microvms.expire().await.unwrap(), 1);
    assert!(host.microvms.states().values().all(|count| *count == 0), "{:?}", host.microvms.states());
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Artifacts) {
        let left = host.db.scan(&Scan { table, prefix: b"", after: None, limit: 10 }).unwrap();
        assert_eq!(left, [], "{}", table.name());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_token_that_is_used_again_outlives_its_earlier_use() {
    let host = host().await;
    let key = b"account/token".to_vec();
    let now = record::millis(Some(&host.microvms.context.clock.timestamp()));
    let token = |at_ms: u64| {
        let expires_at = Some(clock::timestamp(UNIX_EPOCH + Duration::from_millis(at_ms)));
        records::encode(&ClientTokenRecord { expires_at, ..ClientTokenRecord::default() })
    };
    let entry = |at_ms| records::expiry(at_ms, Expiry::ClientToken, &key);
    // An entry of the earlier use is left, and the token has been used again.
    let batch = Batch::new().put(Table::ClientTokens, key.clone(), token(now + 60_000));
    host.db.commit(batch.put(Table::Expiries, entry(now - 1), Vec::new())).await.unwrap();
    assert_eq!(host.microvms.expire().await.unwrap(), 1);
    let kept = || host.db.get_bytes(Table::ClientTokens, &key).unwrap();
    assert_eq!(kept(), Some(token(now + 60_000)));
    // It is used again between the search and the removal.
    host.db.commit(Batch::new().put(Table::ClientTokens, key.clone(), token(now - 1))).await.unwrap();
    let removal = host.microvms.removal(&entry(now - 1), now).unwrap();
    host.db.commit(Batch::new().put(Table::ClientTokens, key.clone(), token(now + 60_000))).await.unwrap();
    let removed = host.db.commit(removal.batch).await;
    assert!(matches!(removed, Err(CommitError::Conflict)), "{removed:?}");
    assert!(kept().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_stops_leaves_its_microvms_running() {
    let mut host = host().await;
    host.run("microvm-one").await.unwrap();
    host.until("microvm-one", Running).await;
    host.run("microvm-two").await.unwrap(); // still being launched
    host.microvms.stop().await;
    assert!(host.platform.world().vms["microvm-one"].process.is_some());
    assert!(matches!(host.ask("microvm-one", Suspend).await, Err(RequestError::Stopping)));
    host.restart().await;
    assert_eq!(host.microvms.capacity(), (4096, 4096));
    host.until("microvm-two", Running).await;
    assert_eq!((host.microvms.states()["RUNNING"], host.microvms.states().get("TERMINATED")), (2, None));
    host.ask("microvm-one", Suspend).await.unwrap();
    host.until("microvm-one", Suspended).await;
    assert_eq!(host.platform.world().vms["microvm-one"].hooks.len(), 2, "/run once, /suspend once");
}
