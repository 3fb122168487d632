//! What earlier releases have left on a host: a store, an image with its agent, a suspended microVM, a log, and the
//! monitor of a microVM that runs. `cargo xtask golden` makes these inputs, one for each release; they are in `golden/`
//! and never change.

use std::fs;
use std::path::Path;
use std::process::Command;

use hearth_proto::host::v1::ReadLogsRequest;
use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended};
use hearth_proto::microvms::v1::{GetMicrovmImageRequest, MicrovmImageState};

use crate::support::Daemon;
use crate::support::api::request;
use crate::support::app::count;
use crate::support::site::Site;

/// The image in each golden input.
pub(crate) const IMAGE: &str = "counter";
/// The log group of the microVM.
const GROUP: &str = "/golden";

#[tokio::test]
async fn what_earlier_releases_have_left_is_accepted() {
    let Some(site) = Site::get() else { return };
    let archives: Vec<_> = fs::read_dir(&site.golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!archives.is_empty(), "no golden input is in {}", site.golden.display());
    for archive in archives {
        println!("--- {}", archive.display());
        accept(site, &archive).await;
    }
}

/// Unpacks a golden input into a folder.
pub(crate) fn unpack(archive: &Path, folder: &Path) {
    let unpacked = Command::new("tar")
        .args(["--warning=no-timestamp", "-xf"])
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .status()
        .unwrap();
    assert!(unpacked.success());
}

/// Starts the daemon of today on a golden input, at first with the monitor of that release.
async fn accept(site: &Site, archive: &Path) {
    let folder = site.folder.join(archive.file_stem().unwrap());
    fs::create_dir(&folder).unwrap();
    unpack(archive, &folder);
    // The settings live as long as the process, as the shared ones do.
    let new: &'static Site = Box::leak(Box::new(Site { folder: folder.clone(), ..site.clone() }));
    let old: &'static Site = Box::leak(Box::new(Site { vmm: folder.join("hearth-vmm"), ..new.clone() }));

    let mut daemon = Daemon::start_on(old, "").await;
    let image = GetMicrovmImageRequest { image_identifier: Some(IMAGE.into()) };
    let image = daemon.api().get_microvm_image(image).await.unwrap().into_inner();
    assert_eq!((image.state(), image.tags["kept"].as_str()), (MicrovmImageState::Created, "yes"));
    let kept = daemon.list().await;
    let [(kept, Suspended)] = kept.as_slice() else { panic!("{kept:?}") };
    let log = ReadLogsRequest { log_group: Some(GROUP.into()), ..Default::default() };
    let log = daemon.host().read_logs(log).await.unwrap().into_inner().items;
    assert!(log.iter().any(|event| event.message.starts_with("counter: /run,")), "{log:?}");

    // The old monitor takes its own state, the image with the old agent, and requests of the new daemon.
    let launched = daemon.launch(request(IMAGE)).await.unwrap().microvm_id;
    daemon.wait(&launched, Running).await;
    assert_eq!(count(&launched).await, 1);
    daemon.resume(kept).await.unwrap();
    daemon.wait(kept, Running).await;
    assert_eq!(count(kept).await, 2);
    daemon.suspend(kept).await.unwrap();
    daemon.wait(kept, Suspended).await;

    // After the upgrade of the monitor, the daemon adopts the old one that runs and suspends what it has; the new
    // monitor goes on with both states.
    daemon.stop().await;
    daemon.site = new;
    daemon.restart(None).await;
    assert_eq!(count(&launched).await, 2);
    daemon.suspend(&launched).await.unwrap();
    daemon.wait(&launched, Suspended).await;
    for id in [kept, &launched] {
        daemon.resume(id).await.unwrap();
        daemon.wait(id, Running).await;
        assert_eq!(count(id).await, 3);
    }
    let fresh = daemon.launch(request(IMAGE)).await.unwrap().microvm_id;
    daemon.wait(&fresh, Running).await;
    assert_eq!(count(&fresh).await, 1);
    daemon.finish().await;
    fs::remove_dir_all(folder).unwrap();
}
