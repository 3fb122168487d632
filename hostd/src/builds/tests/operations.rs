use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hearth_proto::host::v1::build_event::Event;
use hearth_proto::microvms::v1::{
    MicrovmImageState as State, MicrovmImageVersionStatus as Status, build_state::Value as BuildState,
    microvm_image_version_state::Value as VersionState,
};
use hearth_proto::store::v1::{ArtifactRecord, ClientTokenRecord};

use super::super::{ImageQuota, ImagesError, Settings};
use super::double::{ACCOUNT, Builder, Daemon, build_id, config, settings};
use crate::clock::Clock;
use crate::clock::timestamp;
use crate::driver::faults::Faults;
use crate::lifecycle::image::{Refusal, VersionDeletion};
use crate::platform::Platform as _;
use crate::platform::double::{Deviation, Point};
use crate::records::{self, Expiry};
use crate::store::{Batch, MemoryStore, Table};

#[tokio::test]
async fn an_image_is_creating_when_it_is_answered_and_created_when_it_is_built() {
    let (daemon, builder) = Daemon::new(settings());
    let mut events = daemon.events.follow(ACCOUNT);
    let image = daemon.create("demo", "ok").await;
    assert_eq!(
        (image.record.state(), image.version_state(1)),
        (State::Creating, Some(VersionState::Pending))
    );
    daemon.idle().await;
    let (record, version) = (daemon.image("demo").unwrap(), daemon.version("demo", 1).unwrap());
    assert_eq!((record.state(), record.latest_active), (State::Created, 1));
    let build = version.builds[0].build.clone().unwrap();
    assert_eq!((build.build_state(), build.chipset_generation.as_str()), (BuildState::Successful, "2"));
    assert_eq!(build.snapshot_build.unwrap().disk_snapshot_size_in_bytes, Some(3));
    assert_eq!(builder.host.world().builds.len(), 1);
    assert_eq!(daemon.artifacts(), [(1, build.build_id)].into());
    assert_eq!(*builder.ended.lock().unwrap(), [true]);
    let line = ("/aws/lambda-microvms/demo".to_owned(), "Step 1/1 : FROM scratch".to_owned());
    assert_eq!(*builder.lines.lock().unwrap(), [line]);
    let mut seen = Vec::new();
    while let Ok(Some(event)) = events.ready() {
        seen.push(format!("{} {}>{}", event.kind, event.from_state, event.to_state));
    }
    assert_eq!(
        seen,
        [
            "image >CREATING",
            "version >PENDING",
            "version PENDING>IN_PROGRESS",
            "image CREATING>CREATED",
            "version IN_PROGRESS>SUCCESSFUL"
        ]
    );
}

#[tokio::test]
async fn a_failed_build_leaves_its_reason_and_no_files() {
    let (daemon, builder) = Daemon::new(settings());
    for (name, uri, reason, code) in [
        ("one", "fail", "The container image build failed.", None),
        (
            "step",
            "step",
            "The container image build failed. Step 2/3 (RUN make) ended with exit status 2. Its last line: no rule",
            None,
        ),
        ("two", "unready", "Ready hook invocation timed out after PT5M", Some(77)),
    ] {
        daemon.create(name, uri).await;
        daemon.idle().await;
        assert_eq!(daemon.image(name).unwrap().state(), State::CreateFailed);
        let version = daemon.version(name, 1).unwrap();
        assert_eq!(version.version.unwrap().state_reason.as_deref(), Some(reason));
        let build = version.builds[0].build.clone().unwrap();
        let sizes = build.snapshot_build;
        assert_eq!(sizes.and_then(|sizes| sizes.code_install_size_in_bytes), code, "{name}");
        assert_eq!(sizes.and_then(|sizes| sizes.memory_snapshot_size_in_bytes), None);
    }
    assert!(builder.host.world().builds.is_empty());
    assert!(daemon.artifacts().is_empty());
}

#[tokio::test]
async fn where_aws_is_followed_strictly_the_reason_is_its_sentence() {
    let (daemon, _) = Daemon::new(Settings { details: false, ..settings() });
    daemon.create("one", "step").await;
    daemon.idle().await;
    let build = daemon.version("one", 1).unwrap().builds[0].build.clone().unwrap();
    assert_eq!(build.state_reason.as_deref(), Some("The container image build failed."));
}

#[tokio::test]
async fn a_name_is_taken_once_and_the_second_is_told() {
    let (daemon, _) = Daemon::new(settings());
    daemon.create("demo", "ok").await;
    let again =
        daemon.images.create(ACCOUNT, "demo", [].into(), config("demo", "ok"), |_| Batch::new()).await;
    assert!(matches!(again, Err(ImagesError::Exists(name)) if name == "demo"));
    let elsewhere =
        daemon.images.create("999999999999", "demo", [].into(), config("demo", "ok"), |_| Batch::new()).await;
    assert!(elsewhere.is_ok(), "names are an account's");
}

#[tokio::test]
async fn builds_beyond_the_hosts_limit_wait_pending() {
    let (daemon, builder) = Daemon::new(Settings { concurrent_builds: 1, ..settings() });
    let mut events = daemon.events.follow(ACCOUNT);
    daemon.create("one", "wait").await;
    while events.next().await.unwrap().to_state != "IN_PROGRESS" {}
    daemon.create("two", "wait").await;
    assert_eq!(daemon.images.builds_under_way(), 2);
    assert_eq!(daemon.version("two", 1).unwrap().version.unwrap().state(), VersionState::Pending);
    builder.go_on.notify_one();
    while events.next().await.unwrap().to_state != "SUCCESSFUL" {}
    while events.next().await.unwrap().to_state != "IN_PROGRESS" {}
    builder.go_on.notify_one();
    daemon.idle().await;
    assert_eq!(daemon.image("two").unwrap().state(), State::Created);
    assert_eq!(daemon.images.builds_under_way(), 0);
}

#[tokio::test]
async fn quotas_are_of_accounts_and_images() {
    let limits = Settings { max_images: Some(2), max_versions: Some(2), max_builds: Some(1), ..settings() };
    let (daemon, builder) = Daemon::new(limits);
    let create = |account: &'static str, name: &'static str| {
        let images = daemon.images.clone();
        async move { images.create(account, name, [].into(), config(name, "wait"), |_| Batch::new()).await }
    };
    let quota = |result: Result<_, ImagesError>| match result {
        Err(ImagesError::Quota { quota, limit }) => Some((quota, limit)),
        _ => None,
    };
    create(ACCOUNT, "one").await.unwrap();
    assert_eq!(quota(create(ACCOUNT, "two").await), Some((ImageQuota::Builds, 1)));
    create("999999999999", "two").await.unwrap();
    loop {
        builder.go_on.notify_one();
        if daemon.images.builds_under_way() == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    daemon.update("one", "ok").await;
    daemon.idle().await;
    let third = daemon.images.update(ACCOUNT, "one", config("one", "ok"), |_| Batch::new()).await;
    assert_eq!(quota(third), Some((ImageQuota::Versions, 2)));
    assert_eq!(daemon.image("one").unwrap().newest_version, 2, "nothing was begun");
    daemon.create("two", "ok").await;
    daemon.idle().await;
    assert_eq!(quota(create(ACCOUNT, "three").await), Some((ImageQuota::Images, 2)));
}

#[tokio::test]
async fn what_is_stored_along_decides_with_it() {
    let (daemon, _) = Daemon::new(settings());
    let token = records::client_token(ACCOUNT, "CreateMicrovmImage", "token");
    let with = {
        let token = token.clone();
        move |image: &crate::lifecycle::image::Image| {
            Batch::new().expect_absent(Table::ClientTokens, token.clone()).put(
                Table::ClientTokens,
                token.clone(),
                image.record.uid.clone().into_bytes(),
            )
        }
    };
    daemon.images.create(ACCOUNT, "one", [].into(), config("one", "ok"), with.clone()).await.unwrap();
    let same_token = daemon.images.create(ACCOUNT, "two", [].into(), config("two", "ok"), with).await;
    assert!(matches!(same_token, Err(ImagesError::Conflict)));
    assert!(daemon.image("two").is_none());
    daemon.idle().await;
    let stale = |_: &crate::lifecycle::image::Image| {
        Batch::new().expect_absent(Table::Images, records::image(ACCOUNT, "one"))
    };
    let update = daemon.images.update(ACCOUNT, "one", config("one", "ok"), stale).await;
    assert!(matches!(update, Err(ImagesError::Conflict)));
}

#[tokio::test]
async fn tags_that_others_change_meanwhile_are_kept() {
    let (daemon, builder) = Daemon::new(settings());
    daemon.create("demo", "wait").await;
    let mut record = daemon.image("demo").unwrap();
    record.tags = [("team".to_owned(), "a".to_owned())].into();
    let at = records::image(ACCOUNT, "demo");
    daemon.db.commit(Batch::new().put(Table::Images, at, records::encode(&record))).await.unwrap();
    builder.go_on.notify_one();
    daemon.idle().await;
    let record = daemon.image("demo").unwrap();
    assert_eq!((record.state(), record.tags.len()), (State::Created, 1));
}

#[tokio::test]
async fn the_files_of_a_deleted_version_live_while_a_microvm_uses_them() {
    let (daemon, builder) = Daemon::new(settings());
    daemon.create("demo", "ok").await;
    daemon.idle().await;
    daemon.update("demo", "ok").await;
    daemon.idle().await;
    let id = build_id(&daemon.version("demo", 1).unwrap());
    daemon.use_files(&id, true).await;
    let deletion = daemon.images.delete_version(ACCOUNT, "demo", 1).await.unwrap();
    assert_eq!(deletion, VersionDeletion::Begun);
    daemon.idle().await;
    assert_eq!(daemon.version("demo", 1), None);
    assert_eq!(daemon.image("demo").unwrap().state(), State::Updated);
    assert_eq!(builder.host.world().builds.len(), 2, "the microVM has its files");
    assert!(daemon.images.stored_builds().unwrap().iter().any(|build| build.build_id.as_str() == id));
    daemon.images.released(&id);
    daemon.idle().await;
    assert_eq!(builder.host.world().builds.len(), 2, "it is still used");
    daemon.use_files(&id, false).await;
    daemon.images.released(&id);
    daemon.idle().await;
    assert_eq!(builder.host.world().builds.len(), 1);
    assert_eq!(daemon.all::<ArtifactRecord>(Table::Artifacts).len(), 1);
    assert_eq!(daemon.images.delete_version(ACCOUNT, "demo", 1).await.unwrap(), VersionDeletion::Gone);
    let last = daemon.images.delete_version(ACCOUNT, "demo", 2).await;
    assert!(matches!(last, Err(ImagesError::Refused(Refusal::LastVersion))));
}

#[tokio::test]
async fn files_that_cannot_be_removed_stay_until_the_next_daemon() {
    for way in [Deviation::Fails("the disk is away"), Deviation::Denies("it says so")] {
        let (store, builder) = (Arc::new(MemoryStore::new()), Arc::new(Builder::default()));
        let daemon = Daemon::start(&store, &builder, Faults::none(), settings());
        for _ in 0..2 {
            match daemon.image("demo") {
                None => drop(daemon.create("demo", "ok").await),
                Some(_) => drop(daemon.update("demo", "ok").await),
            }
            daemon.idle().await;
        }
        builder.host.once(Point::RemoveBuild, way.clone());
        daemon.images.delete_version(ACCOUNT, "demo", 1).await.unwrap();
        daemon.idle().await;
        assert_eq!(daemon.version("demo", 1), None);
        assert_eq!(daemon.artifacts().len(), 2, "{way:?}: they are not forgotten");
        let next = Daemon::start(&store, &builder, Faults::none(), settings());
        next.images.recover().await.unwrap();
        next.idle().await;
        assert_eq!((next.artifacts().len(), builder.host.world().builds.len()), (1, 1), "{way:?}");
    }
}

#[tokio::test]
async fn files_that_are_said_to_be_removed_are_swept_by_the_next_daemon() {
    let (daemon, builder) = Daemon::new(settings());
    daemon.create("demo", "ok").await;
    daemon.idle().await;
    builder.host.once(Point::RemoveBuild, Deviation::Pretends);
    daemon.images.delete(ACCOUNT, "demo").await.unwrap();
    daemon.idle().await;
    assert_eq!((daemon.artifacts().len(), builder.host.world().builds.len()), (0, 1));
    let owned = daemon.images.stored_builds().unwrap();
    builder.host.sweep(&[].into(), &owned).await.unwrap();
    assert!(builder.host.world().builds.is_empty());
}

#[tokio::test]
async fn a_removal_that_hangs_keeps_no_daemon_from_stopping() {
    let (daemon, builder) = Daemon::new(settings());
    daemon.create("demo", "ok").await;
    daemon.idle().await;
    builder.host.always(Point::RemoveBuild, Deviation::Hangs);
    daemon.images.delete(ACCOUNT, "demo").await.unwrap();
    builder.host.hung(Point::RemoveBuild).await;
    // The files that a build finds in its place before it begins are removed, too.
    daemon.create("other", "ok").await;
    let stopped = tokio::time::timeout(Duration::from_secs(20), daemon.images.stop()).await;
    stopped.expect("the daemon stops");
}

#[tokio::test]
async fn an_account_with_many_builds_delays_another_by_what_is_under_way() {
    const OTHER: &str = "999999999999";
    let (daemon, builder) = Daemon::new(Settings { concurrent_builds: 1, ..settings() });
    for name in ["one", "two", "three"] {
        daemon.create(name, "wait").await;
    }
    let other = daemon.images.create(OTHER, "other", [].into(), config("other", "wait"), |_| Batch::new());
    other.await.unwrap();
    let mut order = Vec::new();
    for number in 1..=4 {
        while builder.built.lock().unwrap().len() < number {
            tokio::task::yield_now().await;
        }
        order.push(builder.built.lock().unwrap()[number - 1].account.to_string());
        builder.go_on.notify_one();
    }
    daemon.idle().await;
    assert_eq!(order, [ACCOUNT, OTHER, ACCOUNT, ACCOUNT]);
}

#[tokio::test]
async fn after_a_restart_builds_continue_in_their_order() {
    let store = Arc::new(MemoryStore::new());
    let (first, builder) = Daemon::on(&store, Settings { concurrent_builds: 1, ..settings() });
    let clock = Clock::system();
    for name in ["c", "b", "a"] {
        first.create(name, "wait").await;
        // Times of records are whole milliseconds.
        let now = clock.timestamp();
        while clock.timestamp() == now {
            tokio::task::yield_now().await;
        }
    }
    while builder.built.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    first.images.stop().await;
    drop(first);
    let (second, builder) = Daemon::on(&store, Settings { concurrent_builds: 1, ..settings() });
    second.images.recover().await.unwrap();
    while builder.ended.lock().unwrap().len() < 3 {
        builder.go_on.notify_one();
        tokio::task::yield_now().await;
    }
    second.idle().await;
    let built: Vec<String> =
        builder.built.lock().unwrap().iter().map(|build| build.build_id.as_str().to_owned()).collect();
    let expected = ["c", "b", "a"].map(|name| build_id(&second.version(name, 1).unwrap()));
    assert_eq!(built, expected);
}

#[tokio::test]
async fn a_build_fails_where_files_are_in_its_way_and_leaves_none() {
    let (store, builder) = (Arc::new(MemoryStore::new()), Arc::new(Builder::default()));
    let daemon = Daemon::start(&store, &builder, Faults::none(), settings());
    let mut events = daemon.events.follow(ACCOUNT);
    daemon.create("demo", "wait").await;
    while events.next().await.unwrap().to_state != "IN_PROGRESS" {}
    while builder.built.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // The daemon is killed after the files were made and before the result was stored.
    let build = builder.built.lock().unwrap()[0].clone();
    builder.host.world().builds.insert(build);
    builder.host.once(Point::RemoveBuild, Deviation::Pretends);
    daemon.images.stop().await;
    let next = Daemon::start(&store, &builder, Faults::none(), settings());
    next.images.recover().await.unwrap();
    next.idle().await;
    assert_eq!(next.image("demo").unwrap().state(), State::CreateFailed);
    assert!(builder.host.world().builds.is_empty(), "a build that has failed has no files");
}

#[tokio::test]
async fn a_deleted_image_is_gone_with_its_tokens_and_its_deletion_is_remembered() {
    let (daemon, builder) = Daemon::new(settings());
    let image = daemon.create("demo", "ok").await;
    daemon.idle().await;
    let expires = SystemTime::now() + Duration::from_secs(60);
    let key = |token| records::client_token(ACCOUNT, "UpdateMicrovmImage", token);
    let expiry = |token| {
        let millis = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        records::expiry(u64::try_from(millis).unwrap(), Expiry::ClientToken, &key(token))
    };
    for (token, uid) in [("mine", image.record.uid.as_str()), ("other", "other")] {
        let record = ClientTokenRecord {
            image_uid: uid.into(),
            expires_at: Some(timestamp(expires)),
            ..Default::default()
        };
        let batch = Batch::new().put(Table::ClientTokens, key(token), records::encode(&record)).put(
            Table::Expiries,
            expiry(token),
            Vec::new(),
        );
        daemon.db.commit(batch).await.unwrap();
    }
    daemon.images.delete(ACCOUNT, "demo").await.unwrap();
    daemon.idle().await;
    assert_eq!((daemon.image("demo"), daemon.version("demo", 1)), (None, None));
    assert!(builder.host.world().builds.is_empty() && daemon.artifacts().is_empty());
    let there = |table, key: Vec<u8>| daemon.db.get_bytes(table, &key).unwrap().is_some();
    assert!(!there(Table::ClientTokens, key("mine")) && !there(Table::Expiries, expiry("mine")));
    assert!(there(Table::ClientTokens, key("other")) && there(Table::Expiries, expiry("other")));
    assert!(matches!(daemon.images.delete(ACCOUNT, "demo").await, Err(ImagesError::Deleted)));
    assert!(matches!(daemon.images.delete(ACCOUNT, "never").await, Err(ImagesError::NotFound)));
    let again = daemon.create("demo", "ok").await;
    assert_eq!(again.record.newest_version, 1);
    assert_ne!(again.record.uid, image.record.uid);
    daemon.idle().await;
}

#[tokio::test]
async fn a_build_is_watched_from_its_beginning_to_its_end() {
    let (daemon, builder) = Daemon::new(settings());
    daemon.create("demo", "wait").await;
    let mut watch = daemon.images.watch(ACCOUNT, "demo", None).unwrap().unwrap();
    builder.go_on.notify_one();
    let mut told = Vec::new();
    while let Some(event) = watch.next().await {
        told.push(match event.event.unwrap() {
            Event::StepStarted(name) => format!("begin {name}"),
            Event::StepFinished(step) => format!("end {} {}", step.name, step.duration_ns),
            Event::Log(line) => {
                assert!(line.log_stream.contains("[1.0]build-"), "{}", line.log_stream);
                line.message
            }
            Event::Fetched(_) => "fetched".into(),
            Event::Ended(build) => format!("{:?}", build.build_state()),
        });
    }
    assert_eq!(
        told,
        [
            "begin build the container image",
            "Step 1/1 : FROM scratch",
            "end build the container image 7000000000",
            "Successful"
        ]
    );
    let mut late = daemon.images.watch(ACCOUNT, "demo", Some(1)).unwrap().unwrap();
    assert!(matches!(late.next().await.unwrap().event, Some(Event::Ended(_))));
    assert!(late.next().await.is_none());
    assert!(daemon.images.watch(ACCOUNT, "demo", Some(2)).unwrap().is_none());
    assert!(daemon.images.watch(ACCOUNT, "other", None).unwrap().is_none());
}

#[tokio::test]
async fn a_killed_build_is_built_again_under_its_number_and_id() {
    let (store, builder) = (Arc::new(MemoryStore::new()), Arc::new(Builder::default()));
    let first = Daemon::start(&store, &builder, Faults::none(), settings());
    let mut events = first.events.follow(ACCOUNT);
    first.create("demo", "wait").await;
    while events.next().await.unwrap().to_state != "IN_PROGRESS" {}
    let mut watch = first.images.watch(ACCOUNT, "demo", None).unwrap().unwrap();
    first.images.stop().await;
    while watch.next().await.is_some() {}
    let stopped = first.images.update(ACCOUNT, "demo", config("demo", "ok"), |_| Batch::new()).await;
    assert!(matches!(stopped, Err(ImagesError::Stopping)));
    drop(first);
    let second = Daemon::start(&store, &builder, Faults::none(), settings());
    let recovered = second.images.recover().await.unwrap();
    assert_eq!((recovered.images, recovered.builds, recovered.deletions), (1, 1, 0));
    builder.go_on.notify_one();
    second.idle().await;
    assert_eq!(second.image("demo").unwrap().state(), State::Created);
    let built = builder.built.lock().unwrap().clone();
    assert_eq!(built.last().map(|build| build.version), Some(1));
    assert!(
        built.iter().all(|build| build.build_id.as_str() == build_id(&second.version("demo", 1).unwrap()))
    );
    assert_eq!(second.image("demo").unwrap().newest_version, 1);
}

#[tokio::test]
async fn activation_is_stored() {
    let (daemon, _) = Daemon::new(settings());
    daemon.create("demo", "ok").await;
    daemon.idle().await;
    daemon.images.set_status(ACCOUNT, "demo", 1, Status::Inactive).await.unwrap();
    assert_eq!(daemon.image("demo").unwrap().latest_active, 0);
    let unknown = daemon.images.set_status(ACCOUNT, "demo", 7, Status::Inactive).await;
    assert!(matches!(unknown, Err(ImagesError::Refused(Refusal::NoVersion { number: 7, .. }))));
    let unknown = daemon.images.set_status(ACCOUNT, "other", 1, Status::Inactive).await;
    assert!(matches!(unknown, Err(ImagesError::NotFound)));
}
