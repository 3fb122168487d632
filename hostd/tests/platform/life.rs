//! MicroVMs are launched, suspended, resumed and terminated.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use hearth_host::limits::LimitsConfig;
use hearth_image_builder::image::MANIFEST;
use hearth_model::hooks::{Hook, HookOutcome};

use hearth_hostd::platform::{Exit, Platform as _, PlatformError, Spec, SuspendError};

use super::support::{ACCOUNT, Site, monitors, names, owned};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launched_microvm_has_its_identity_and_its_share_and_leaves_nothing() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let spec = site.spec(1);
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let guest = platform.launch(&spec).await.unwrap();
    assert_eq!(owned(), 1, "its connections count to its account, and those of the pool's network to nobody");
    // The guest continues with its own identity and time, not with those of the snapshot.
    site.logs.wait_for(&spec.id, "tick").await;
    let ticks = site.logs.ticks(&spec.id);
    assert!(ticks.iter().all(|time| *time >= began), "launched at {began}: {ticks:?}");
    assert_eq!(guest.call_hook(Hook::Run).await, HookOutcome::Status(200));
    assert_eq!(guest.call_hook(Hook::Terminate).await, HookOutcome::Disabled);
    let run: serde_json::Value = serde_json::from_str(&site.ask(&spec.id, "/run").await).unwrap();
    assert_eq!(
        (&run["microvmId"], &run["runHookPayload"]),
        (&spec.id.as_str().into(), &"payload \"one\"".into())
    );
    assert!(site.ask(&spec.id, "/").await.starts_with("request 1 of"));
    assert!(site.has_limits(&spec.id, LimitsConfig::default()));
    let record = fs::read_to_string(site.run_of(&spec.id).join("monitor.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let group = format!("/sys/fs/cgroup/hearth/vm-{}", record["uid"]);
    assert_eq!(fs::read_to_string(format!("{group}/cpu.weight")).unwrap().trim(), "25");
    // Not every kernel shares disks by weight (CONFIG_BLK_CGROUP_IOCOST).
    if let Ok(weight) = fs::read_to_string(format!("{group}/io.weight")) {
        assert_eq!(weight.trim(), "default 25");
    }
    // Here the files are in memory, and would count as the monitor's.
    assert_eq!(fs::read_to_string(format!("{group}/memory.max")).unwrap().trim(), "max");
    assert_eq!(
        fs::read_to_string(format!("{group}/cgroup.procs")).unwrap().trim(),
        record["process"]["pid"].to_string()
    );
    platform.discard(&spec.id).await.unwrap();
    let refused = platform.resume(&Spec { suspends: 1, ..spec }).await;
    assert!(matches!(refused, Err(PlatformError::Failed(_))), "there is no such state: {refused:?}");
    site.assert_clean(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_connections_inside_survive_two_suspends() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let mut spec = site.spec(2);
    let mut guest = platform.launch(&spec).await.unwrap();
    assert_eq!(guest.call_hook(Hook::Run).await, HookOutcome::Status(200));
    assert!(site.ask(&spec.id, "/").await.starts_with("request 1 of"));
    // Two suspends: the first state contains the overlay itself, the second a merged one.
    for number in [1, 2] {
        guest.suspend(number).await.unwrap();
        assert_eq!(names(&site.state_of(&spec.id)), [format!("suspended-{number}")]);
        assert!(!site.run_of(&spec.id).exists(), "nothing runs");
        spec.suspends = number;
        guest = platform.resume(&spec).await.unwrap();
        assert_eq!(guest.call_hook(Hook::Resume).await, HookOutcome::Status(200));
        let expected = format!("request {} of", number + 1);
        assert!(site.ask(&spec.id, "/").await.starts_with(&expected), "{expected}");
        let expected = format!("round {number} over the same connection\n");
        assert_eq!(site.ask(&spec.id, "/loopback").await, expected);
    }
    site.logs.wait_for(&spec.id, "/resume").await;
    platform.discard(&spec.id).await.unwrap();
    platform.discard(&spec.id).await.unwrap();
    let lines = site.logs.lines(&spec.id);
    assert_eq!(lines.iter().filter(|line| line.contains("/resume")).count(), 2, "{lines:?}");
    site.assert_clean(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_of_the_image_give_a_name_and_a_clock_that_stands() {
    const STANDS: Duration = Duration::from_secs(3);
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let manifest = site.data.join("images").join(ACCOUNT).join("counter/1/b1").join(MANIFEST);
    let before = fs::read(&manifest).unwrap();
    let mut labelled: serde_json::Value = serde_json::from_slice(&before).unwrap();
    labelled["app"]["container"]["Labels"] =
        serde_json::json!({ "hearth.own-name": "true", "hearth.standing-clock": "true" });
    fs::write(&manifest, labelled.to_string()).unwrap();

    let mut spec = site.spec(6);
    let guest = platform.launch(&spec).await.unwrap();
    let machine = async |id| {
        let told = site.ask(id, "/machine").await;
        let words: Vec<&str> = told.split_whitespace().collect();
        let [name, machine, seconds] = words[..] else { panic!("{told}") };
        (name.to_owned(), machine.to_owned(), seconds.parse::<f64>().unwrap())
    };
    let asked = Instant::now();
    let (name, id, began) = machine(&spec.id).await;
    assert_eq!((name, Some(id)), (spec.id.to_string(), spec.id.machine_id()));
    guest.suspend(1).await.unwrap();
    tokio::time::sleep(STANDS).await;
    spec.suspends = 1;
    let _guest = platform.resume(&spec).await.unwrap();
    let (_, _, now) = machine(&spec.id).await;
    assert!(now - began < (asked.elapsed() - STANDS).as_secs_f64(), "from {began} to {now}");
    fs::write(&manifest, before).unwrap();
    platform.discard(&spec.id).await.unwrap();
    site.assert_clean(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspend_that_is_given_up_leaves_the_microvm_running() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let spec = site.spec(3);
    let guest = platform.launch(&spec).await.unwrap();
    assert!(site.ask(&spec.id, "/").await.starts_with("request 1 of"));
    let (suspended, ()) = tokio::join!(guest.suspend(1), guest.cancel_suspend());
    assert!(matches!(suspended, Err(SuspendError::Cancelled)), "{suspended:?}");
    assert!(!site.is_frozen(&spec.id).await);
    assert!(site.ask(&spec.id, "/").await.starts_with("request 2 of"));
    assert!(!site.state_of(&spec.id).join("suspended-1").exists());
    guest.suspend(1).await.unwrap();
    assert_eq!(names(&site.state_of(&spec.id)), ["suspended-1"]);
    platform.discard(&spec.id).await.unwrap();
    site.assert_clean(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_that_nobody_asked_for_are_told() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let (app, monitor) = (site.spec(4), site.spec(5));
    let guest = platform.launch(&app).await.unwrap();
    let _ = site.ask(&app.id, "/exit/7").await;
    assert_eq!(guest.exited().await, Exit::App(7));
    let guest = platform.launch(&monitor).await.unwrap();
    let record = fs::read_to_string(site.run_of(&monitor.id).join("monitor.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let killed =
        std::process::Command::new("kill").args(["-9", &record["process"]["pid"].to_string()]).status();
    assert!(killed.unwrap().success());
    let Exit::Monitor(why) = guest.exited().await else { panic!("not the monitor") };
    assert!(why.contains("signal 9"), "{why}");
    for spec in [app, monitor] {
        platform.discard(&spec.id).await.unwrap();
    }
    site.assert_clean(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn microvms_that_are_launched_at_once_do_not_disturb_each_other() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let specs: Vec<Spec> = (10..14).map(|number| site.spec(number)).collect();
    let launched = join_all(specs.iter().map(|spec| platform.launch(spec))).await;
    assert!(launched.iter().all(Result::is_ok), "{launched:?}");
    for spec in &specs {
        assert!(site.ask(&spec.id, "/").await.starts_with("request 1 of"));
    }
    assert!(monitors() >= specs.len());
    join_all(specs.iter().map(|spec| async { platform.discard(&spec.id).await.unwrap() })).await;
    site.assert_clean(platform).await;
}
