//! Memory of the host that builds take and wait for.

use std::sync::Arc;

use hearth_proto::microvms::v1::{
    MicrovmImageState as State, MicrovmImageVersion, Resources,
    microvm_image_version_state::Value as VersionState,
};

use super::double::{ACCOUNT, Builder, Daemon, config, settings};
use crate::builds::Settings;
use crate::driver::Capacity;
use crate::driver::faults::Faults;
use crate::store::{Batch, MemoryStore};

#[tokio::test(start_paused = true)]
async fn a_build_of_a_large_class_takes_memory_of_the_host_and_waits_for_it() {
    let capacity = Capacity::new(8192);
    let builder = Arc::new(Builder { capacity: Some(capacity.clone()), ..Builder::default() });
    let daemon = Daemon::start(&Arc::<MemoryStore>::default(), &builder, Faults::none(), settings());
    let mut events = daemon.events.follow(ACCOUNT);
    let create = |name: &'static str, uri: &str, mib: i32| {
        let resources = vec![Resources { minimum_memory_in_mib: Some(mib) }];
        let config = MicrovmImageVersion { resources, ..config(name, uri) };
        daemon.images.create(ACCOUNT, name, [].into(), config, |_| Batch::new())
    };
    // What every build has is not of the capacity.
    create("small", "wait", 2048).await.unwrap();
    while events.next().await.unwrap().to_state != "IN_PROGRESS" {}
    assert_eq!(capacity.figures(), (8192, 0));
    let microvm = capacity.reserve(4096).unwrap();
    create("large", "wait", 8192).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(daemon.version("large", 1).unwrap().version.unwrap().state(), VersionState::Pending);
    drop(microvm);
    while events.next().await.unwrap().to_state != "IN_PROGRESS" {}
    assert_eq!(capacity.figures(), (8192, 6144), "8192 MiB, of which 2048 are every build's");
    builder.go_on.notify_waiters();
    daemon.idle().await;
    assert_eq!(daemon.image("large").unwrap().state(), State::Created);
    assert_eq!(capacity.figures(), (8192, 0));

    // What does not get any in time fails, and says so.
    let _microvm = capacity.reserve(8192).unwrap();
    create("late", "ok", 4096).await.unwrap();
    daemon.idle().await;
    let reason = daemon.version("late", 1).unwrap().version.unwrap().state_reason.unwrap();
    assert!(reason.contains("waited 3600 s for 2048 MiB of the host's memory"), "{reason}");
}

#[tokio::test]
async fn a_build_that_waits_for_memory_delays_no_other() {
    let capacity = Capacity::new(8192);
    let builder = Arc::new(Builder { capacity: Some(capacity.clone()), ..Builder::default() });
    let settings = Settings { concurrent_builds: 1, ..settings() };
    let daemon = Daemon::start(&Arc::<MemoryStore>::default(), &builder, Faults::none(), settings);
    let microvm = capacity.reserve(4096).unwrap();
    let create = |name: &'static str, mib: i32| {
        let resources = vec![Resources { minimum_memory_in_mib: Some(mib) }];
        let config = MicrovmImageVersion { resources, ..config(name, "ok") };
        daemon.images.create(ACCOUNT, name, [].into(), config, |_| Batch::new())
    };
    let mut events = daemon.events.follow(ACCOUNT);
    create("large", 8192).await.unwrap();
    create("small", 2048).await.unwrap();
    while events.next().await.unwrap().to_state != "SUCCESSFUL" {}
    assert_eq!(daemon.image("small").unwrap().state(), State::Created);
    assert_eq!(daemon.version("large", 1).unwrap().version.unwrap().state(), VersionState::Pending);
    drop(microvm);
    daemon.idle().await;
    assert_eq!(daemon.image("large").unwrap().state(), State::Created);
}
