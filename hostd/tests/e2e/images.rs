//! Images, versions, builds, and microVMs that outlive their images.

use std::collections::BTreeMap;
use std::fs;

use hearth_proto::host::v1::{WatchBuildRequest, build_event::Event};
use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended, Terminated};
use hearth_proto::microvms::v1::{
    Chipset, CreateMicrovmImageRequest, DeleteMicrovmImageRequest, DeleteMicrovmImageVersionRequest,
    GetMicrovmImageRequest, GetMicrovmImageVersionRequest, ListMicrovmImageBuildsRequest, ListTagsRequest,
    MicrovmImageState, MicrovmImageVersion, MicrovmImageVersionStatus, UpdateMicrovmImageRequest,
    UpdateMicrovmImageVersionRequest, build_state, microvm_image_version_state,
};
use tonic::{Code, Status};

use crate::support::api::request;
use crate::support::app::count;
use crate::support::traces::entries;
use crate::support::{Daemon, TEST_TIMEOUT, until};

const NAME: &str = "rules";

#[tokio::test]
async fn an_image_from_its_first_build_to_after_its_deletion() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut create = daemon.image_request(NAME).await;
    create.tags = BTreeMap::from([("team".into(), "a".into())]);
    create.client_token = Some("create once".into());
    let created = daemon.api().create_microvm_image(create.clone()).await.unwrap().into_inner();
    assert_eq!((created.state(), created.image_version.as_str()), (MicrovmImageState::Creating, "1.0"));
    let arn = created.image_arn.clone();

    // The image cannot be launched yet, and its client token returns the same response.
    let early = daemon.launch(request(NAME)).await.unwrap_err();
    assert_eq!(early.message(), format!("No active version found for MicroVM image {arn}"));
    assert_eq!(early.code(), Code::NotFound);
    assert_eq!(delete(&daemon).await.unwrap_err().message(), busy(&arn));
    assert_eq!(daemon.api().create_microvm_image(create.clone()).await.unwrap().into_inner(), created);
    let second = CreateMicrovmImageRequest { client_token: None, ..create.clone() };
    let twice = daemon.api().create_microvm_image(second).await.unwrap_err();
    let text = format!("A MicroVM image with the name '{NAME}' already exists in this account");
    assert_eq!(twice.message(), text);

    let told = watch(&daemon).await;
    for expected in ["COPY counter", "counter: /ready", "snapshot"] {
        assert!(told.iter().any(|line| line.contains(expected)), "{expected} in {told:?}");
    }
    let image = daemon.wait_for_image(NAME, MicrovmImageState::Created).await;
    assert_eq!(image.latest_active_image_version.as_deref(), Some("1.0"));
    let first = version(&daemon, "1.0").await.unwrap();
    assert_eq!(first.state(), microvm_image_version_state::Value::Successful);
    assert_eq!(first.status(), MicrovmImageVersionStatus::Active);
    let builds = ListMicrovmImageBuildsRequest {
        image_identifier: Some(arn.clone()),
        image_version: Some("1.0".into()),
        ..Default::default()
    };
    let builds = daemon.api().list_microvm_image_builds(builds).await.unwrap().into_inner().items;
    assert_eq!(builds.len(), 1);
    assert_eq!(
        (builds[0].build_state(), builds[0].chipset()),
        (build_state::Value::Successful, Chipset::Graviton)
    );
    let tags = daemon.api().list_tags(ListTagsRequest { resource: Some(arn.clone()) }).await.unwrap();
    assert_eq!(tags.into_inner().tags, create.tags);

    // The next version's /run fails. While it is built, the first version is launched.
    let mut update = update_of(&create);
    update.environment_variables = BTreeMap::from([("HOOK_RUN".into(), "500".into())]);
    let updating = daemon.api().update_microvm_image(update).await.unwrap().into_inner();
    assert_eq!((updating.state(), updating.image_version.as_str()), (MicrovmImageState::Updating, "2.0"));
    let old = daemon.launch(request(NAME)).await.unwrap().microvm_id;
    assert_eq!(daemon.wait(&old, Running).await.image_version, "1.0");
    let image = daemon.wait_for_image(NAME, MicrovmImageState::Updated).await;
    assert_eq!(image.latest_active_image_version.as_deref(), Some("2.0"));
    let failing = daemon.launch(request(NAME)).await.unwrap();
    assert_eq!(failing.image_version, "2.0");
    assert_eq!(
        daemon.wait(&failing.microvm_id, Terminated).await.state_reason.unwrap(),
        "Run lifecycle hook returned HTTP status 500. Please check your hook endpoint and application logs for more details."
    );

    // An inactive version is not launched; the newest active one is.
    set_status(&daemon, "2.0", MicrovmImageVersionStatus::Inactive).await.unwrap();
    let mut pinned = request(&arn);
    pinned.image_version = Some("2.0".into());
    let refused = daemon.launch(pinned).await.unwrap_err();
    assert_eq!(refused.message(), format!("No active version found for MicroVM image {arn} and version 2.0"));
    let again = daemon.launch(request(NAME)).await.unwrap();
    assert_eq!(again.image_version, "1.0");
    daemon.terminate(&again.microvm_id).await.unwrap();
    daemon.ended(&again.microvm_id).await;

    delete_version(&daemon, "2.0").await.unwrap();
    until("version 2.0 is gone", async || version(&daemon, "2.0").await.err()).await;
    daemon.wait_for_image(NAME, MicrovmImageState::Updated).await;
    let last = delete_version(&daemon, "1.0").await.unwrap_err();
    assert_eq!(last.message(), "This is the last version. Please delete the entire image");

    // The image is deleted and its microVM stays: it can even be suspended and resumed.
    assert_eq!(count(&old).await, 1);
    delete(&daemon).await.unwrap();
    let get = GetMicrovmImageRequest { image_identifier: Some(arn.clone()) };
    let gone =
        until("the image is gone", async || daemon.api().get_microvm_image(get.clone()).await.err()).await;
    assert_eq!(gone.message(), format!("MicroVMImage not found for MicroVMImageID: {arn}"));
    delete(&daemon).await.expect("once more is the same");
    assert!(daemon.launch(request(NAME)).await.is_err());
    daemon.suspend(&old).await.unwrap();
    daemon.wait(&old, Suspended).await;
    daemon.resume(&old).await.unwrap();
    daemon.wait(&old, Running).await;
    assert_eq!(count(&old).await, 2);
    let before = files(&daemon);
    daemon.terminate(&old).await.unwrap();
    daemon.ended(&old).await;
    // The files are removed with their last user.
    until("the files of the image are gone", async || (files(&daemon) < before).then_some(())).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_build_that_fails_says_why_and_leaves_no_version_to_run() {
    let Some(daemon) = Daemon::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    // As code hosts make them: all is in one folder.
    fs::create_dir(folder.path().join("app-main")).unwrap();
    fs::write(folder.path().join("app-main/Dockerfile"), "FROM scratch\n").unwrap();
    let mut zip = tempfile::NamedTempFile::new().unwrap();
    let file = zip.as_file_mut().try_clone().unwrap();
    hearth_image_builder::artifact::zip::pack(folder.path(), file).unwrap();
    let uri = daemon.upload(&fs::read(zip.path()).unwrap()).await;
    let mut create = daemon.image_request("broken").await;
    create.code_artifact.as_mut().unwrap().artifact =
        Some(hearth_proto::microvms::v1::code_artifact::Artifact::Uri(uri));
    let arn = daemon.api().create_microvm_image(create).await.unwrap().into_inner().image_arn;
    let image = daemon.wait_for_image("broken", MicrovmImageState::CreateFailed).await;
    assert_eq!(image.latest_failed_image_version.as_deref(), Some("1.0"));
    let failed = GetMicrovmImageVersionRequest {
        image_identifier: Some(arn.clone()),
        image_version: Some("1.0".into()),
    };
    let failed = daemon.api().get_microvm_image_version(failed).await.unwrap().into_inner();
    assert_eq!(failed.state(), microvm_image_version_state::Value::Failed);
    let reason = failed.state_reason.unwrap_or_default();
    let expected =
        "ARCHIVE_DOCKERFILE_NOT_FOUND: The archive has no Dockerfile at its root, but app-main/Dockerfile: ";
    assert!(reason.starts_with(expected) && reason.contains("cd app-main && zip"), "{reason}");
    assert_eq!(daemon.launch(request(&arn)).await.unwrap_err().code(), Code::NotFound);
    let delete = DeleteMicrovmImageRequest { image_identifier: Some(arn) };
    daemon.api().delete_microvm_image(delete).await.unwrap();
    daemon.finish().await;
}

/// Follows the build to its end and returns the names of its steps and its output lines.
async fn watch(daemon: &Daemon) -> Vec<String> {
    let request = WatchBuildRequest { image_identifier: Some(NAME.into()), image_version: None };
    let mut events = daemon.host().watch_build(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    loop {
        let event =
            tokio::time::timeout(TEST_TIMEOUT, events.message()).await.expect("the build goes on").unwrap();
        match event.expect("the last event says that the build has ended").event.unwrap() {
            Event::StepStarted(name) => told.push(name),
            Event::Log(line) => told.push(line.message),
            Event::StepFinished(step) => assert!(step.duration_ns > 0),
            Event::Fetched(_) => {}
            Event::Ended(build) => {
                assert_eq!(build.build_state(), build_state::Value::Successful, "{:?}", build.state_reason);
                let sizes = build.snapshot_build.unwrap();
                assert!(sizes.memory_snapshot_size_in_bytes.is_some_and(|bytes| bytes > 0), "{sizes:?}");
                return told;
            }
        }
    }
}

fn update_of(create: &CreateMicrovmImageRequest) -> UpdateMicrovmImageRequest {
    UpdateMicrovmImageRequest {
        image_identifier: create.name.clone(),
        base_image_arn: create.base_image_arn.clone(),
        build_role_arn: create.build_role_arn.clone(),
        code_artifact: create.code_artifact.clone(),
        resources: create.resources.clone(),
        hooks: create.hooks,
        ..Default::default()
    }
}

async fn version(daemon: &Daemon, version: &str) -> Result<MicrovmImageVersion, Status> {
    let request = GetMicrovmImageVersionRequest {
        image_identifier: Some(NAME.into()),
        image_version: Some(version.into()),
    };
    Ok(daemon.api().get_microvm_image_version(request).await?.into_inner())
}

async fn set_status(daemon: &Daemon, version: &str, to: MicrovmImageVersionStatus) -> Result<(), Status> {
    let request = UpdateMicrovmImageVersionRequest {
        image_identifier: Some(NAME.into()),
        image_version: Some(version.into()),
        status: Some(to.into()),
    };
    daemon.api().update_microvm_image_version(request).await.map(drop)
}

async fn delete_version(daemon: &Daemon, version: &str) -> Result<(), Status> {
    let request = DeleteMicrovmImageVersionRequest {
        image_identifier: Some(NAME.into()),
        image_version: Some(version.into()),
    };
    daemon.api().delete_microvm_image_version(request).await.map(drop)
}

async fn delete(daemon: &Daemon) -> Result<(), Status> {
    let request = DeleteMicrovmImageRequest { image_identifier: Some(NAME.into()) };
    daemon.api().delete_microvm_image(request).await.map(drop)
}

fn busy(arn: &str) -> String {
    format!("Cannot delete MicroVM image in its current state: {arn}")
}

/// Number of builds that have files: folders below `images/ACCOUNT/IMAGE/VERSION/`.
fn files(daemon: &Daemon) -> usize {
    let mut folders = vec![daemon.site.data().join("images")];
    for _ in 0..4 {
        let below = |folder: &std::path::PathBuf| {
            entries(folder).into_iter().map(|name| folder.join(name)).collect::<Vec<_>>()
        };
        folders = folders.iter().flat_map(below).collect();
    }
    folders.len()
}
