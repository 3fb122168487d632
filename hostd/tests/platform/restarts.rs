//! Daemons that exit or are killed, and what the next one finds.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use hearth_host::limits::{DiskLimits, LimitsConfig};
use hearth_hostd::aside::Aside;
use hearth_hostd::platform::{Exit, Found, Platform as _, Spec};
use hearth_vmm_client::Client;
use hearth_vmm_client::snapshot::{Take, take};

use super::support::{Site, groups, image_build, monitors, names, owned};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn microvms_outlive_the_daemon_and_are_found_again() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let (running, mut suspended) = (site.spec(20), site.spec(21));
    let guest = platform.launch(&running).await.unwrap();
    assert!(site.ask(&running.id, "/").await.starts_with("request 1 of"));
    let other = platform.launch(&suspended).await.unwrap();
    other.suspend(1).await.unwrap();
    suspended.suspends = 1;
    platform.shut_down().await;
    drop((guest, other, platform));
    assert_eq!(monitors(), 1, "it runs on, and the pool has ended");
    // A daemon of an earlier release has not said whose its connections are.
    groups().iter().for_each(|group| fs::write(group, "0").unwrap());

    let platform = site.open().await;
    let Found::Running(guest) = platform.find(&running, 0).await.unwrap() else { panic!("not running") };
    assert!(matches!(platform.find(&suspended, 1).await.unwrap(), Found::Suspended));
    assert!(matches!(platform.find(&site.spec(22), 0).await.unwrap(), Found::Nothing));
    assert_eq!(owned(), 1);
    assert!(site.ask(&running.id, "/").await.starts_with("request 2 of"));
    // An adopted microVM can be suspended and resumed, and exits like any other.
    guest.suspend(1).await.unwrap();
    let guest = platform.resume(&Spec { suspends: 1, ..running.clone() }).await.unwrap();
    assert!(site.ask(&running.id, "/").await.starts_with("request 3 of"));
    let _ = site.ask(&running.id, "/exit/3").await;
    assert_eq!(guest.exited().await, Exit::App(3));
    site.logs.wait_for(&running.id, "exiting with 3").await;
    for spec in [running, suspended] {
        platform.discard(&spec.id).await.unwrap();
    }
    site.assert_clean(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_those_of_the_daemon_that_launches_adopts_or_resumes() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let (running, mut suspended) = (site.spec(25), site.spec(26));
    let guests = [platform.launch(&running).await.unwrap(), platform.launch(&suspended).await.unwrap()];
    guests[1].suspend(1).await.unwrap();
    suspended.suspends = 1;
    platform.shut_down().await;
    drop((guests, platform));
    assert!(site.has_limits(&running.id, LimitsConfig::default()));

    let disk = DiskLimits { bytes_per_second: 1 << 20, burst_bytes: 8 << 20, ..DiskLimits::default() };
    let limits = LimitsConfig { disk, ..LimitsConfig::NONE };
    let platform = site.open_with(limits).await;
    assert!(matches!(platform.find(&running, 0).await.unwrap(), Found::Running(_)));
    // The adoption does not wait for it.
    let began = Instant::now();
    while !site.has_limits(&running.id, limits) {
        assert!(began.elapsed() < Duration::from_secs(300), "an adopted microVM keeps its old limits");
        tokio::task::yield_now().await;
    }
    let _guest = platform.resume(&suspended).await.unwrap();
    assert!(site.has_limits(&suspended.id, limits), "those in its suspended state count no longer");
    for spec in [running, suspended] {
        platform.discard(&spec.id).await.unwrap();
    }
    site.assert_clean(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspend_that_was_interrupted_is_settled_one_way_or_the_other() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let (committed, paused, half, frozen) = (site.spec(30), site.spec(31), site.spec(32), site.spec(33));
    for spec in [&committed, &paused, &half, &frozen] {
        platform.launch(spec).await.unwrap();
        assert!(site.ask(&spec.id, "/").await.starts_with("request 1 of"));
    }
    platform.shut_down().await;
    drop(platform);
    // The daemon is killed after the folder was renamed, and before the monitor was requested to exit.
    let client = Client::connect(site.run_of(&committed.id).join("control.sock")).unwrap();
    let image = site.data.join("images/111122223333/counter/1/b1/snapshot");
    let what = Take { base: Some(image), ..Take::default() };
    take(&client, &site.state_of(&committed.id).join("suspended-1"), &what).unwrap();
    // The daemon is killed when everything was written and nothing was renamed.
    Client::connect(site.run_of(&paused.id).join("control.sock")).unwrap().pause().unwrap();
    fs::create_dir(site.state_of(&paused.id).join(".suspended-1.tmp-1-0")).unwrap();
    // The daemon is killed when the app was frozen and nothing was saved yet.
    site.agent(&frozen.id).control().await.unwrap().freeze(false).await.unwrap();
    assert!(site.is_frozen(&frozen.id).await);
    // The daemon is killed before the guest has received its identity.
    fs::remove_file(site.run_of(&half.id).join("identified")).unwrap();

    let platform = site.open().await;
    assert!(matches!(platform.find(&committed, 1).await.unwrap(), Found::Suspended));
    assert!(!site.run_of(&committed.id).exists(), "its process is ended");
    assert!(matches!(platform.find(&paused, 1).await.unwrap(), Found::Running(_)));
    assert!(site.ask(&paused.id, "/").await.starts_with("request 2 of"));
    assert_eq!(names(&site.state_of(&paused.id)), ["overlay-0"]);
    assert!(matches!(platform.find(&half, 0).await.unwrap(), Found::Nothing));
    assert!(matches!(platform.find(&frozen, 1).await.unwrap(), Found::Running(_)));
    assert!(!site.is_frozen(&frozen.id).await);
    assert!(site.ask(&frozen.id, "/").await.starts_with("request 2 of"));
    platform.resume(&Spec { suspends: 1, ..committed.clone() }).await.unwrap();
    assert!(site.ask(&committed.id, "/").await.starts_with("request 2 of"));
    for spec in [committed, paused, half, frozen] {
        platform.discard(&spec.id).await.unwrap();
    }
    site.assert_clean(platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_knows_is_swept_away_and_the_rest_is_left_alone() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let (known, unknown) = (site.spec(40), site.spec(41));
    for spec in [&known, &unknown] {
        platform.launch(spec).await.unwrap();
    }
    let stray = site.data.join("images/111122223333/gone/1/b0");
    fs::create_dir_all(stray.join("snapshot")).unwrap();
    // A killed daemon leaves its pool behind.
    while names(&site.run.join("pool")).is_empty() || monitors() < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::mem::forget(platform);

    let platform = site.open().await;
    platform.sweep(&HashSet::from([known.id.clone()]), &HashSet::from([image_build()])).await.unwrap();
    assert!(!stray.exists() && site.data.join("images/111122223333/counter/1/b1").exists());
    assert!(!site.run_of(&unknown.id).exists() && !site.state_of(&unknown.id).exists());
    assert!(matches!(platform.find(&known, 0).await.unwrap(), Found::Running(_)));
    assert!(site.ask(&known.id, "/").await.starts_with("request 1 of"));
    platform.discard(&known.id).await.unwrap();
    site.assert_clean(platform).await;
}

#[tokio::test]
async fn what_a_restored_store_does_not_know_is_set_aside_and_does_not_run_on() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let unknown = site.spec(42);
    platform.launch(&unknown).await.unwrap();
    let stray = site.data.join("images/111122223333/gone/1/b0");
    fs::create_dir_all(stray.join("snapshot")).unwrap();
    std::mem::forget(platform);

    let aside = Aside::announce(&site.data, SystemTime::now()).unwrap();
    let platform = site.open().await;
    let builds = HashSet::from([image_build()]);
    platform.sweep(&HashSet::new(), &builds).await.unwrap();
    let kept = |path: &str| aside.folder().join(path).exists();
    assert!(kept("images/111122223333/gone/1/b0/snapshot") && !stray.exists());
    assert!(kept(&format!("microvms/{}/overlay-0", unknown.id)) && !site.state_of(&unknown.id).exists());
    assert!(!site.run_of(&unknown.id).exists(), "its monitor has ended");
    assert!(site.data.join("images/111122223333/counter/1/b1").exists());
    // What belongs to nothing after that is removed again.
    fs::create_dir_all(stray.join("snapshot")).unwrap();
    platform.sweep(&HashSet::new(), &builds).await.unwrap();
    assert!(!stray.exists() && !kept("images/111122223333/gone/1/b0.2"));
    fs::remove_dir_all(site.data.join("set-aside")).unwrap();
    site.assert_clean(platform).await;
}

#[tokio::test]
async fn states_that_a_restored_store_does_not_ask_for_are_set_aside() {
    let Some(site) = Site::find().await else { return };
    let platform = site.open().await;
    let known = site.spec(43);
    let guest = platform.launch(&known).await.unwrap();
    guest.suspend(1).await.unwrap();
    std::mem::forget(platform);

    let aside = Aside::announce(&site.data, SystemTime::now()).unwrap();
    let platform = site.open().await;
    platform.sweep(&HashSet::from([known.id.clone()]), &HashSet::from([image_build()])).await.unwrap();
    let is_pending = || Aside::pending(&site.data).unwrap().is_some();
    // The restored store is older than the state: it knows a microVM that was never suspended, which ends.
    assert!(matches!(platform.find(&known, 0).await.unwrap(), Found::Nothing));
    assert!(is_pending());
    platform.discard(&known.id).await.unwrap();
    let state = aside.folder().join(format!("microvms/{}/suspended-1", known.id));
    assert!(state.exists() && !site.state_of(&known.id).exists() && !is_pending());
    fs::remove_dir_all(site.data.join("set-aside")).unwrap();
    site.assert_clean(platform).await;
}
