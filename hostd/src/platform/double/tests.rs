//! The double keeps the contract of the platform, and deviates from it in each of its ways.

use std::net::Ipv4Addr;

use hearth_model::hooks::{Hook, HookOutcome, Hooks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::world::GONE;
use super::*;
use crate::platform::{ConnectError, SuspendError};

const PACE: Duration = Duration::from_secs(1);

fn spec(id: &str, suspends: u64) -> Spec {
    Spec {
        id: id.parse().unwrap(),
        account: "111122223333".parse().unwrap(),
        image_arn: String::new(),
        image_name: String::new(),
        image_version: String::new(),
        build: build("b-1"),
        memory_mib: 1,
        hooks: Hooks::default(),
        execution_role_arn: None,
        egress: hearth_host::network::Egress::None,
        log: None,
        run_hook_payload: String::new(),
        suspends,
    }
}

fn build(build_id: &str) -> ImageBuild {
    ImageBuild::parse("111122223333", "u", 1, build_id).unwrap()
}

/// What the host finds of `vm` when it was saved as number `suspends`.
async fn found(host: &Double, suspends: u64) -> FoundState {
    match host.find(&spec("microvm-1", suspends), suspends).await.unwrap() {
        Found::Running(_) => FoundState::Running,
        Found::Suspended => FoundState::Suspended,
        Found::Nothing => FoundState::Nothing,
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_is_asked_for_is_done_and_lasts_longer_than_who_asked() {
    let host = Double::paced(PACE);
    let guest = host.launch(&spec("microvm-1", 0)).await.unwrap();
    assert_eq!(guest.call_hook(Hook::Run).await, HookOutcome::Status(200));
    drop(guest);
    let Found::Running(guest) = host.clone().find(&spec("microvm-1", 0), 0).await.unwrap() else {
        panic!("it runs")
    };
    guest.suspend(1).await.unwrap();
    assert_eq!(found(&host, 1).await, FoundState::Suspended);
    assert_eq!(found(&host, 2).await, FoundState::Nothing, "another state is none");
    assert_eq!(guest.call_hook(Hook::Suspend).await, HookOutcome::Failed(GONE.into()));
    assert!(host.resume(&spec("microvm-1", 2)).await.is_err());
    let resumed = host.resume(&spec("microvm-1", 1)).await.unwrap();
    assert_eq!(found(&host, 1).await, FoundState::Running, "the state stays, and is not taken for a new one");
    assert!(matches!(guest.suspend(2).await, Err(SuspendError::Failed(_))), "it is another process");
    host.once(Point::Resume, Deviation::Fails("no user id is free"));
    assert!(host.resume(&spec("microvm-1", 1)).await.is_err());
    assert_eq!(found(&host, 1).await, FoundState::Suspended, "the earlier process is ended first");
    assert_eq!(resumed.call_hook(Hook::Resume).await, HookOutcome::Failed(GONE.into()));
    let resumed = host.resume(&spec("microvm-1", 1)).await.unwrap();
    resumed.suspend(2).await.unwrap();
    host.discard(&"microvm-1".parse().unwrap()).await.unwrap();
    host.discard(&"microvm-1".parse().unwrap()).await.unwrap();
    assert_eq!(found(&host, 2).await, FoundState::Nothing);
}

#[tokio::test]
async fn a_sweep_leaves_what_has_an_owner() {
    let host = Double::default();
    for id in ["microvm-1", "microvm-3"] {
        host.launch(&spec(id, 0)).await.unwrap();
    }
    host.world().builds.extend(["b-1", "b-2", "b-3"].map(build));
    host.remove_build(&build("b-3")).await.unwrap();
    host.sweep(&["microvm-1".parse().unwrap()].into(), &[build("b-1")].into()).await.unwrap();
    assert!(host.world().vms.keys().eq(["microvm-1"]));
    assert_eq!(host.world().builds, [build("b-1")].into());
}

#[tokio::test]
async fn it_fails_once_or_until_it_is_released_for_all_or_for_one() {
    let host = Double::default();
    host.once(Point::Launch, Deviation::Fails("first"));
    host.once(Point::Launch, Deviation::Fails("second"));
    host.always_for("microvm-2", Point::Launch, Deviation::Fails("always"));
    let launch = async |id| host.launch(&spec(id, 0)).await.map(drop).map_err(|error| error.to_string());
    assert_eq!(launch("microvm-1").await, Err("first".to_owned()));
    assert_eq!(launch("microvm-2").await, Err("second".to_owned()));
    assert_eq!(launch("microvm-1").await, Ok(()));
    assert_eq!(launch("microvm-2").await, Err("always".to_owned()));
    assert_eq!(launch("microvm-2").await, Err("always".to_owned()));
    host.release(Point::Launch);
    assert_eq!(launch("microvm-2").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_hangs_goes_on_when_it_is_released_and_a_save_that_lingers_when_it_is_cancelled() {
    let host = Double::default();
    let guest = host.launch(&spec("microvm-1", 0)).await.unwrap();
    host.always(Point::Save, Deviation::Hangs);
    let saving = tokio::spawn({
        let guest = Arc::clone(&guest);
        async move { guest.suspend(1).await }
    });
    host.hung(Point::Save).await;
    host.once(Point::Cancel, Deviation::Pretends);
    guest.cancel_suspend().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!saving.is_finished());
    host.release(Point::Save);
    saving.await.unwrap().unwrap();

    let guest = host.resume(&spec("microvm-1", 1)).await.unwrap();
    host.once(Point::Save, Deviation::Lingers);
    let (saved, ()) = tokio::join!(guest.suspend(2), async {
        tokio::time::sleep(PACE).await;
        guest.cancel_suspend().await;
    });
    assert!(matches!(saved, Err(SuspendError::Cancelled)));
    guest.suspend(2).await.unwrap(); // a cancel is for the save that is under way
}

#[tokio::test]
async fn it_lies() {
    let host = Double::default();
    host.once(Point::Launch, Deviation::Pretends);
    let guest = host.launch(&spec("microvm-1", 0)).await.unwrap();
    assert_eq!(guest.call_hook(Hook::Run).await, HookOutcome::Failed(GONE.into()));
    assert_eq!(found(&host, 0).await, FoundState::Nothing);

    host.once(Point::Launch, Deviation::Denies("no"));
    assert!(host.launch(&spec("microvm-1", 0)).await.is_err());
    assert_eq!(found(&host, 0).await, FoundState::Running);

    for (sight, truth) in
        [(FoundState::Nothing, FoundState::Running), (FoundState::Suspended, FoundState::Running)]
    {
        host.once(Point::Find, Deviation::Finds(sight));
        assert_eq!(found(&host, 0).await, sight);
        assert_eq!(found(&host, 0).await, truth);
    }

    let Found::Running(guest) = host.find(&spec("microvm-1", 0), 0).await.unwrap() else { panic!("it runs") };
    host.once(Point::Save, Deviation::Pretends);
    guest.suspend(1).await.unwrap();
    assert_eq!((found(&host, 1).await, host.world().vms["microvm-1"].suspended), (FoundState::Running, None));
    host.once(Point::Save, Deviation::RunsOn);
    guest.suspend(1).await.unwrap();
    assert!(host.world().vms["microvm-1"].process.is_some());
    assert_eq!(found(&host, 1).await, FoundState::Suspended, "what is found is settled");

    host.launch(&spec("microvm-2", 0)).await.unwrap();
    host.once(Point::Find, Deviation::Mistakes("microvm-2"));
    let Found::Running(other) = host.find(&spec("microvm-1", 1), 1).await.unwrap() else {
        panic!("another's")
    };
    other.call_hook(Hook::Terminate).await;
    assert_eq!(host.world().vms["microvm-2"].hooks.len(), 1);

    host.once(Point::Discard, Deviation::Pretends);
    host.discard(&"microvm-1".parse().unwrap()).await.unwrap();
    assert!(host.world().vms.contains_key("microvm-1"));
    host.once(Point::Discard, Deviation::Denies("no"));
    assert!(host.discard(&"microvm-1".parse().unwrap()).await.is_err());
    assert!(!host.world().vms.contains_key("microvm-1"));

    host.claim_exit("microvm-2", Exit::App(1));
    assert_eq!(other.exited().await, Exit::App(1));
    assert!(host.world().vms["microvm-2"].process.is_some());
    host.vanish("microvm-2");
    assert!(host.world().vms["microvm-2"].process.is_none());
}

#[test]
#[should_panic(expected = "no meaning")]
fn what_has_no_meaning_is_not_taken() {
    Double::default().once(Point::Launch, Deviation::Lingers);
}

#[tokio::test]
async fn apps_are_reached_until_their_microvm_ends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let host = Double::default();
    host.world().ports.insert(80, listener.local_addr().unwrap());
    let guest = host.launch(&spec("microvm-1", 0)).await.unwrap();
    assert!(matches!(guest.connect(81).await, Err(ConnectError::App(_))));
    host.once(Point::Connect(80), Deviation::Fails("no route"));
    assert!(matches!(guest.connect(80).await, Err(ConnectError::Guest(_))));
    host.once(Point::Connect(80), Deviation::Pretends);
    assert_eq!(guest.connect(80).await.unwrap().read(&mut [0]).await.unwrap(), 0, "nobody is there");
    let mut connection = guest.connect(80).await.unwrap();
    let mut app = listener.accept().await.unwrap().0;
    app.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    connection.read_exact(&mut hello).await.unwrap();
    assert_eq!((&hello, host.world().connections[&80]), (b"hello", 1));
    guest.suspend(1).await.unwrap();
    assert_eq!(connection.read(&mut hello).await.unwrap(), 0);
    assert!(matches!(guest.connect(80).await, Err(ConnectError::Guest(_))));
}
