//! The daemon on a disk that is full.

use std::fs;
use std::path::PathBuf;

use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended, Terminated};
use hearth_proto::microvms::v1::{DeleteMicrovmImageRequest, GetMicrovmImageRequest};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tonic::Code;

use crate::goldens::{IMAGE, unpack};
use crate::support::api::request;
use crate::support::app::count;
use crate::support::site::Site;
use crate::support::traces::is_gone;
use crate::support::{Daemon, until};

/// Enough for the golden input, a resumed microVM and the store's reserve.
const SIZE: &std::ffi::CStr = c"size=400m";

/// A file system of its own, which goes with this.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount("tmpfs", &at, "tmpfs", MountFlags::empty(), Some(SIZE)).unwrap();
        Self(at)
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        hearth_testing::fill_disk(&self.0.join("fill"));
    }

    fn clear(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn microvms_end_and_images_are_deleted_on_a_full_disk() {
    let Some(site) = Site::get() else { return };
    let folder = site.folder.join("full-disk");
    let disk = Disk::mount(folder.join("data"));
    let archive = fs::read_dir(&site.golden).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    unpack(&archive, &folder);
    // The settings live as long as the process, as the shared ones do.
    let site: &'static Site = Box::leak(Box::new(Site { folder: folder.clone(), ..site.clone() }));
    let mut daemon = Daemon::start_on(site, "").await;
    let kept = daemon.list().await;
    let [(kept, Suspended)] = kept.as_slice() else { panic!("{kept:?}") };
    daemon.resume(kept).await.unwrap();
    daemon.wait(kept, Running).await;
    assert!(count(kept).await > 0);

    disk.fill();
    let refused = daemon.launch(request(IMAGE)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("disk is full"), "{refused}");
    // Not asked: whether it runs on. In a tmpfs, unlike on a disk, it takes room to read a hole of the memory's file.
    daemon.terminate(kept).await.unwrap();
    daemon.ended(kept).await;
    assert!(is_gone(kept));

    // The next daemon has what was answered, and ends what is left.
    daemon.kill();
    daemon.restart(None).await;
    assert_eq!(daemon.get(kept).await.unwrap().state(), Terminated);
    daemon.end_all().await;

    disk.clear();
    let again = until("there is room", async || daemon.launch(request(IMAGE)).await.ok()).await;
    daemon.wait(&again.microvm_id, Running).await;

    disk.fill();
    daemon.terminate(&again.microvm_id).await.unwrap();
    daemon.ended(&again.microvm_id).await;
    let delete = DeleteMicrovmImageRequest { image_identifier: Some(IMAGE.into()) };
    daemon.api().delete_microvm_image(delete).await.unwrap();
    until("the image is gone", async || {
        let get = GetMicrovmImageRequest { image_identifier: Some(IMAGE.into()) };
        daemon.api().get_microvm_image(get).await.err().filter(|error| error.code() == Code::NotFound)
    })
    .await;
    disk.clear();
    daemon.finish().await;
    drop(disk);
    fs::remove_dir_all(folder).unwrap();
}
