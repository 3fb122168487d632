//! The daemon is stopped at every fault point of a story, each time that the story reaches it; the next daemon
//! continues.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hearth_proto::microvms::v1::{
    MicrovmImageState as State, microvm_image_version_state::Value as VersionState,
};
use hearth_proto::store::v1::{ArtifactRecord, ImageRecord, VersionRecord};
use tokio::sync::Notify;

use super::double::{ACCOUNT, Builder, Daemon, build_id, settings};
use crate::driver::faults::Faults;
use crate::store::{MemoryStore, Scan, Table};

/// The acknowledgements that clients have received, in order.
#[derive(Debug, Default)]
struct Acknowledged(Mutex<Vec<&'static str>>);

impl Acknowledged {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn has(&self, what: &str) -> bool {
        self.0.lock().unwrap().contains(&what)
    }
}

/// A story with everything that can happen to images.
async fn story(daemon: &Daemon, told: &Acknowledged) {
    daemon.create("a", "ok").await;
    told.note("a created");
    daemon.create("b", "fail").await;
    told.note("b created");
    daemon.idle().await;
    daemon.update("a", "ok").await;
    told.note("a updated");
    daemon.idle().await;
    daemon.update("a", "fail").await;
    told.note("a updated again");
    daemon.idle().await;
    let id = build_id(&daemon.version("a", 1).unwrap());
    daemon.use_files(&id, true).await;
    daemon.images.delete_version(ACCOUNT, "a", 1).await.unwrap();
    told.note("1 of a deleted");
    daemon.idle().await;
    daemon.images.delete_version(ACCOUNT, "a", 3).await.unwrap();
    told.note("3 of a deleted");
    daemon.idle().await;
    daemon.use_files(&id, false).await;
    daemon.images.released(&id);
    daemon.idle().await;
    daemon.images.delete(ACCOUNT, "a").await.unwrap();
    told.note("a deleted");
    daemon.idle().await;
    daemon.create("a", "ok").await;
    told.note("a created anew");
    daemon.idle().await;
}

/// Runs the story and stops at its `stop_at`th point; returns that point, or none if the story finished before.
async fn stopped_at(
    stop_at: usize,
    store: &Arc<MemoryStore>,
    builder: &Arc<Builder>,
    told: &Acknowledged,
) -> Option<String> {
    let (count, reached, at) = (AtomicUsize::new(0), Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
    let faults = {
        let (reached, at) = (Arc::clone(&reached), Arc::clone(&at));
        Faults::stopping(move |point| {
            let stop = count.fetch_add(1, Ordering::Relaxed) == stop_at;
            if stop {
                *at.lock().unwrap() = Some(point.to_owned());
                reached.notify_one();
            }
            stop
        })
    };
    let daemon = Daemon::start(store, builder, faults, settings());
    tokio::select! {
        biased;
        () = reached.notified() => {}
        () = story(&daemon, told) => {}
    }
    daemon.images.stop().await;
    at.lock().unwrap().clone()
}

fn check(daemon: &Daemon, builder: &Builder, told: &Acknowledged, point: &str) {
    let images: Vec<ImageRecord> = daemon.all(Table::Images);
    let versions: Vec<VersionRecord> = daemon.all(Table::Versions);
    for image in &images {
        let state = image.state();
        let settled = [State::Created, State::CreateFailed, State::Updated, State::UpdateFailed];
        assert!(settled.contains(&state), "{} is {state:?} after {point}", image.name);
        let of_image = versions.iter().filter(|version| version.image_name == image.name);
        let numbers: BTreeSet<u32> = of_image.clone().map(|version| version.number).collect();
        assert_eq!(numbers, image.versions.iter().copied().collect(), "{} after {point}", image.name);
        assert!(of_image.clone().all(|version| version.image_uid == image.uid));
    }
    // Every file has an owner, and every owner has its files.
    let successful =
        |version: &&VersionRecord| version.version.as_ref().unwrap().state() == VersionState::Successful;
    let owned: BTreeSet<String> = versions.iter().filter(successful).map(build_id).collect();
    let used: BTreeSet<String> = daemon
        .db
        .scan(&Scan { table: Table::ArtifactUses, prefix: &[], after: None, limit: 9 })
        .unwrap()
        .into_iter()
        .map(|(key, _)| String::from_utf8(key).unwrap().split('/').next().unwrap().to_owned())
        .collect();
    let owned: BTreeSet<String> = owned.union(&used).cloned().collect();
    let files: BTreeSet<String> =
        builder.host.world().builds.iter().map(|file| file.build_id.to_string()).collect();
    let records: Vec<ArtifactRecord> = daemon.all(Table::Artifacts);
    let records: BTreeSet<String> = records.into_iter().map(|record| record.build_id).collect();
    assert_eq!(files, owned, "files after {point}");
    assert_eq!(records, owned, "artifacts after {point}");
    // Everything that was acknowledged is in effect.
    let find = |name: &str| images.iter().find(|image| image.name == name);
    let newest = find("a").map_or(0, |image| image.newest_version);
    if told.has("b created") {
        assert!(find("b").is_some(), "b after {point}");
    }
    if told.has("a created anew") {
        assert_eq!(newest, 1);
    } else if told.has("a deleted") {
        assert!(newest <= 1, "a after {point}");
    } else {
        for (word, number) in [("a created", 1), ("a updated", 2), ("a updated again", 3)] {
            // The deletion is complete if it had begun.
            assert!(
                !told.has(word) || newest >= number || told.has("3 of a deleted"),
                "{word} after {point}"
            );
        }
        for (word, number) in [("1 of a deleted", 1), ("3 of a deleted", 3)] {
            assert!(!told.has(word) || daemon.version("a", number).is_none(), "{word} after {point}");
        }
    }
}

#[tokio::test]
async fn whatever_the_daemon_is_killed_at_the_next_one_goes_on() {
    let mut points = Vec::new();
    for stop_at in 0.. {
        let (store, builder, told) =
            (Arc::new(MemoryStore::new()), Arc::new(Builder::default()), Acknowledged::default());
        let Some(point) = stopped_at(stop_at, &store, &builder, &told).await else { break };
        points.push(point.clone());
        let next = Daemon::start(&store, &builder, Faults::none(), settings());
        next.images.recover().await.unwrap();
        next.idle().await;
        check(&next, &builder, &told, &format!("point {stop_at}, {point}"));
        // A second recovery finds nothing to do.
        next.images.stop().await;
        drop(next);
        let third = Daemon::start(&store, &builder, Faults::none(), settings());
        let recovered = third.images.recover().await.unwrap();
        assert_eq!((recovered.builds, recovered.deletions), (0, 0), "after {point}");
        third.images.stop().await;
    }
    let all: BTreeSet<&str> = points.iter().map(String::as_str).collect();
    let commits =
        ["create", "update", "build-start", "build-end", "delete-version", "version-gone", "delete", "gone"];
    let commits = commits
        .iter()
        .flat_map(|name| ["before-commit", "after-commit"].map(|place| format!("image.{name}.{place}")));
    let effects = ["build.before", "build.after", "files.before", "files.after", "files.after-commit"];
    for expected in commits.chain(effects.iter().map(|name| format!("image.{name}"))) {
        assert!(all.contains(expected.as_str()), "the story never comes to {expected}");
    }
}

/// How often the build of a version has begun without a result, and its failure, if any.
fn tries(daemon: &Daemon, name: &str) -> (u32, Option<String>) {
    let version = daemon.version(name, 1).unwrap();
    (version.builds[0].begun, version.version.unwrap().state_reason)
}

#[tokio::test]
async fn a_build_that_panics_is_given_up_after_three_tries() {
    let (store, builder) = (Arc::new(MemoryStore::new()), Arc::new(Builder::default()));
    let start = || Daemon::start(&store, &builder, Faults::none(), settings());
    let daemon = start();
    daemon.create("other", "ok").await;
    daemon.create("bad", "panic").await;
    daemon.idle().await;
    // Outside of this test the panic would abort the daemon: each further daemon begins the build again.
    for begun in 1..=3 {
        assert_eq!(tries(&start(), "bad"), (begun, None));
        let next = start();
        next.images.recover().await.unwrap();
        next.idle().await;
    }
    let (_, reason) = tries(&start(), "bad");
    let reason = reason.unwrap();
    assert!(reason.contains("began 3 times"), "{reason}");
    assert_eq!(start().image("bad").unwrap().state(), State::CreateFailed);
    let id = build_id(&start().version("bad", 1).unwrap());
    let built =
        builder.built.lock().unwrap().iter().filter(|artifact| artifact.build_id.as_str() == id).count();
    assert_eq!(built, 3, "the fourth time nothing is tried");
    assert_eq!(start().images.recover().await.unwrap().builds, 0, "it is over");
    assert_eq!(tries(&start(), "other").0, 1, "it has begun once, and ended");
}

#[tokio::test]
async fn a_daemon_that_is_told_to_stop_does_not_count_against_its_builds() {
    let (store, builder) = (Arc::new(MemoryStore::new()), Arc::new(Builder::default()));
    let start = || Daemon::start(&store, &builder, Faults::none(), settings());
    for round in 0..5 {
        let daemon = start();
        if round == 0 {
            daemon.create("slow", "wait").await;
        }
        daemon.images.recover().await.unwrap();
        // The build has begun once the builder was called.
        while builder.built.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(tries(&daemon, "slow"), (1, None));
        daemon.images.stop().await;
        assert_eq!(tries(&daemon, "slow"), (0, None));
        builder.built.lock().unwrap().clear();
    }
}
