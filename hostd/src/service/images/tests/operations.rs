//! Tests of the operations on a store in memory, with a scripted builder.

use std::sync::Arc;
use std::time::Duration;

use hearth_base::Catalogue;
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_image_builder::artifact::ArtifactConfig;
use hearth_proto::microvms::v1::{
    CodeArtifact, CpuConfiguration, CreateMicrovmImageRequest, DeleteMicrovmImageRequest,
    DeleteMicrovmImageVersionRequest, MicrovmImageState as State, MicrovmImageVersionStatus as Status,
    UpdateMicrovmImageRequest, UpdateMicrovmImageVersionRequest, code_artifact,
    microvm_image_version_state::Value as VersionState,
};
use tempfile::TempDir;

use super::super::super::{Limits, Parts, Profile, Service, ServiceConfig, ServiceError};
use crate::access::{Caller, Policy};
use crate::builds::tests::double::{ACCOUNT, Builder, Daemon, settings};
use crate::clock::Clock;
use crate::disk::{Disk, DiskConfig};
use crate::driver::context::NoObserver;
use crate::driver::deadlines::Deadlines;
use crate::driver::faults::Faults;
use crate::driver::{Capacity, DriverConfig, Microvms};
use crate::lifecycle::microvm::Rules;
use crate::service::tests::Outside;
use crate::tokens::Tokens;

struct Host {
    daemon: Daemon,
    builder: Arc<Builder>,
    service: Service,
    caller: Caller,
    _bases: TempDir,
}

async fn host(profile: Profile, limits: Limits) -> Host {
    let limited = crate::builds::Settings {
        region: "us-east-1".into(),
        max_images: limits.images,
        max_versions: limits.versions,
        max_builds: limits.builds,
        ..settings()
    };
    let (daemon, builder) = Daemon::new(limited);
    let bases = tempfile::tempdir().unwrap();
    std::fs::create_dir(bases.path().join("1")).unwrap();
    let driver = DriverConfig {
        max_memory_mib: None,
        rules: Rules::default(),
        retention: Duration::from_secs(60),
        drain: Duration::ZERO,
        deadlines: Deadlines::default(),
    };
    let clock = Clock::system();
    let platform = Arc::new(builder.host.clone());
    let microvms = Microvms::new(
        driver,
        Capacity::new(1024),
        daemon.db.clone(),
        clock,
        platform,
        Arc::new(NoObserver),
        Faults::none(),
    );
    let (outside, host) = Outside::new(daemon.events.clone(), clock);
    let parts = Parts {
        disk: Disk::of(bases.path(), DiskConfig { reserve_mib: Some(0) }, limits.disk_mib).unwrap(),
        db: daemon.db.clone(),
        clock,
        microvms,
        images: daemon.images.clone(),
        artifacts: ArtifactConfig::default(),
        bases: Catalogue::open(bases.path()).unwrap(),
        tokens: Tokens::open(&daemon.db, clock, "us-east-1").await.unwrap(),
        roles: Arc::new(RoleProvider::new(RolesConfig::default()).unwrap()),
        host,
        observer: Arc::new(outside.observed),
        config: ServiceConfig { limits, ..ServiceConfig::new("us-east-1", profile) },
    };
    let caller = Caller {
        account: ACCOUNT.into(),
        principal: "key".into(),
        policies: [Policy::everything()].into(),
        role: None,
        request_id: "id".into(),
    };
    let service = Service::new(parts).await.unwrap();
    Host { daemon, builder, service, caller, _bases: bases }
}

const BASE: &str = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";

fn arn(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:{ACCOUNT}:microvm-image:{name}")
}

fn artifact(key: &str) -> Option<CodeArtifact> {
    Some(CodeArtifact { artifact: Some(code_artifact::Artifact::Uri(format!("s3://bucket/{key}"))) })
}

fn create(name: &str, key: &str) -> CreateMicrovmImageRequest {
    CreateMicrovmImageRequest {
        name: Some(name.into()),
        base_image_arn: Some(BASE.into()),
        build_role_arn: Some("arn:aws:iam::123456789012:role/build".into()),
        code_artifact: artifact(key),
        ..Default::default()
    }
}

fn update(name: &str, key: &str) -> UpdateMicrovmImageRequest {
    UpdateMicrovmImageRequest {
        image_identifier: Some(arn(name)),
        base_image_arn: Some(BASE.into()),
        build_role_arn: Some("arn:aws:iam::123456789012:role/build".into()),
        code_artifact: artifact(key),
        ..Default::default()
    }
}

fn of_version(name: &str, version: &str) -> DeleteMicrovmImageVersionRequest {
    DeleteMicrovmImageVersionRequest {
        image_identifier: Some(arn(name)),
        image_version: Some(version.into()),
    }
}

fn of_image(name: &str) -> DeleteMicrovmImageRequest {
    DeleteMicrovmImageRequest { image_identifier: Some(arn(name)) }
}

fn status(error: &ServiceError) -> (u16, String) {
    (error.exception().http_status, error.to_string())
}

#[tokio::test]
async fn an_image_is_created_updated_and_deleted_as_the_reference_says() {
    let host = host(Profile::Default, Limits::default()).await;
    let (service, caller) = (&host.service, &host.caller);
    let mut request = create("demo", "ok");
    request.tags = [("team".to_owned(), "a".to_owned())].into();
    let created = service.call_as(caller, request).await.unwrap();
    assert_eq!((created.image_arn.as_str(), created.name.as_str()), (arn("demo").as_str(), "demo"));
    assert_eq!((created.state(), created.image_version.as_str()), (State::Creating, "1.0"));
    assert_eq!(
        (created.latest_active_image_version, created.base_image_version.as_deref()),
        (None, Some("1.0"))
    );
    assert_eq!(created.resources[0].minimum_memory_in_mib, Some(2048));
    assert!(created.egress_network_connectors[0].ends_with(":INTERNET_EGRESS"));
    assert_eq!(created.tags["team"], "a");
    assert!(created.created_at.is_some() && created.updated_at.is_some());
    host.daemon.idle().await;
    let updated = service.call_as(caller, update("demo", "fail")).await.unwrap();
    assert_eq!((updated.state(), updated.image_version.as_str()), (State::Updating, "2.0"));
    assert_eq!(updated.latest_active_image_version.as_deref(), Some("1.0"));
    assert_eq!(updated.tags["team"], "a", "tags are the image's, not the version's");
    host.daemon.idle().await;
    let inactive = UpdateMicrovmImageVersionRequest {
        image_identifier: Some("demo".into()),
        image_version: Some("1".into()),
        status: Some(Status::Inactive.into()),
    };
    let version = service.call_as(caller, inactive).await.unwrap();
    assert_eq!((version.state(), version.status()), (VersionState::Successful, Status::Inactive));
    assert_eq!((version.image_version.as_str(), version.tags.len()), ("1.0", 1));
    let deleted = service.call_as(caller, of_version("demo", "1")).await.unwrap();
    assert_eq!((deleted.state(), deleted.image_version.as_str()), (VersionState::Deleting, "1.0"));
    assert_eq!(deleted.image_identifier, arn("demo"));
    host.daemon.idle().await;
    let again = service.call_as(caller, of_version("demo", "1.0")).await.unwrap();
    assert_eq!(again.state(), VersionState::Deleted);
    let deleted = service.call_as(caller, of_image("demo")).await.unwrap();
    assert_eq!((deleted.state(), deleted.image_identifier), (State::Deleting, arn("demo")));
    host.daemon.idle().await;
    let again = service.call_as(caller, of_image("demo")).await.unwrap();
    assert_eq!(again.state(), State::Deleted);
}

#[tokio::test]
async fn refusals_are_those_that_clients_know() {
    let host = host(Profile::Default, Limits::default()).await;
    let (service, caller) = (&host.service, &host.caller);
    service.call_as(caller, create("demo", "wait")).await.unwrap();
    let error = service.call_as(caller, create("demo", "ok")).await.unwrap_err();
    let exists = "A MicroVM image with the name 'demo' already exists in this account";
    assert_eq!(status(&error), (400, exists.into()));
    let error = service.call_as(caller, update("demo", "ok")).await.unwrap_err();
    assert_eq!(status(&error), (409, "MicroVM Image is already in state: CREATING".into()));
    let error = service.call_as(caller, of_image("demo")).await.unwrap_err();
    assert_eq!(
        status(&error),
        (400, format!("Cannot delete MicroVM image in its current state: {}", arn("demo")))
    );
    host.builder.go_on.notify_one();
    host.daemon.idle().await;
    let error = service.call_as(caller, of_version("demo", "1")).await.unwrap_err();
    assert_eq!(status(&error), (400, "This is the last version. Please delete the entire image".into()));
    for version in ["2", "one"] {
        let error = service.call_as(caller, of_version("demo", version)).await.unwrap_err();
        let sentence =
            format!("MicroVMImage not found for MicroVMImage: {}, Version: {version}", arn("demo"));
        assert_eq!(status(&error), (404, sentence));
    }
    let unknown = (404, format!("MicroVMImage not found for MicroVMImageID: {}", arn("never")));
    assert_eq!(status(&service.call_as(caller, of_image("never")).await.unwrap_err()), unknown);
    assert_eq!(status(&service.call_as(caller, update("never", "ok")).await.unwrap_err()), unknown);
    let error = service.call_as(caller, of_version("never", "one")).await.unwrap_err();
    let unknown = (404, format!("MicroVMImage not found for MicroVMImage: {}, Version: one", arn("never")));
    assert_eq!(status(&error), unknown);
    let mut other = create("other", "ok");
    other.build_role_arn = None;
    assert!(status(&service.call_as(caller, other).await.unwrap_err()).1.contains("buildRoleArn"));
    let mut other = create("other", "ok");
    other.cpu_configurations =
        vec![CpuConfiguration { architecture: Some(hearth_proto::microvms::v1::Architecture::X8664.into()) }];
    let error = service.call_as(caller, other).await.unwrap_err();
    assert!(error.to_string().contains("ARM_64"), "{error}");
    assert_eq!(error.exception().http_status, 400);
    let mut other = create("other", "ok");
    other.base_image_version = Some("999".into());
    let error = service.call_as(caller, other).await.unwrap_err();
    let sentence = format!("No managed MicroVM Image with arn {BASE} and version 999 is available");
    assert_eq!(status(&error), (400, sentence));
    assert_eq!(host.daemon.image("other"), None, "nothing is created");
}

#[tokio::test]
async fn the_same_request_with_the_same_token_is_done_once() {
    let host = host(Profile::Default, Limits::default()).await;
    let (service, caller) = (&host.service, &host.caller);
    let request = CreateMicrovmImageRequest { client_token: Some("t".into()), ..create("demo", "ok") };
    let (one, two) =
        tokio::join!(service.call_as(caller, request.clone()), service.call_as(caller, request.clone()));
    let one = one.unwrap();
    assert_eq!(one, two.unwrap());
    host.daemon.idle().await;
    assert_eq!(service.call_as(caller, request.clone()).await.unwrap(), one, "CREATING, as then");
    let other = CreateMicrovmImageRequest { description: Some("other".into()), ..request.clone() };
    let error = service.call_as(caller, other).await.unwrap_err();
    let reused = "The provided clientToken was used with different request parameters.";
    assert_eq!(status(&error), (400, reused.into()));
    let change = UpdateMicrovmImageRequest { client_token: Some("u".into()), ..update("demo", "ok") };
    let (one, two) =
        tokio::join!(service.call_as(caller, change.clone()), service.call_as(caller, change.clone()));
    assert_eq!((one.as_ref().unwrap().image_version.as_str(), two.unwrap()), ("2.0", one.clone().unwrap()));
    host.daemon.idle().await;
    assert_eq!(service.call_as(caller, change).await.unwrap(), one.unwrap());
    assert_eq!(host.daemon.image("demo").unwrap().newest_version, 2);
    // A token is forgotten together with its image, so that it does not replay the response for an image that is gone.
    service.call_as(caller, of_image("demo")).await.unwrap();
    host.daemon.idle().await;
    let anew = service.call_as(caller, request).await.unwrap();
    host.daemon.idle().await;
    assert_eq!(anew.image_version, "1.0");
    assert_eq!(host.daemon.image("demo").unwrap().state(), State::Created, "it is really built");
}

#[tokio::test]
async fn quotas_are_told_with_402() {
    let host =
        host(Profile::AwsStrict, Limits { images: Some(3), builds: Some(1), ..Limits::default() }).await;
    let (service, caller) = (&host.service, &host.caller);
    service.call_as(caller, create("one", "wait")).await.unwrap();
    let error = service.call_as(caller, create("two", "ok")).await.unwrap_err();
    assert_eq!(error.exception().name, "ServiceQuotaExceededException");
    let (code, message) = status(&error);
    assert!(code == 402 && message.contains("maximum number of concurrent builds"), "{message}");
    assert_eq!(error.quota().unwrap().code(), "L-72E0D058");
    host.builder.go_on.notify_one();
    host.daemon.idle().await;
}

#[tokio::test]
async fn names_are_arns_when_strict_and_others_images_are_not_touched() {
    let host = host(Profile::AwsStrict, Limits::default()).await;
    let bare = DeleteMicrovmImageRequest { image_identifier: Some("demo".into()) };
    let error = host.service.call_as(&host.caller, bare).await.unwrap_err();
    assert_eq!(status(&error), (400, "Invalid ARN format: demo".into()));
    let foreign =
        DeleteMicrovmImageRequest { image_identifier: Some(arn("demo").replace(ACCOUNT, "999999999999")) };
    let error = host.service.call_as(&host.caller, foreign).await.unwrap_err();
    assert_eq!(error.exception().http_status, 403);
    let nobody = Caller { policies: [].into(), ..host.caller.clone() };
    let error = host.service.call_as(&nobody, create("demo", "ok")).await.unwrap_err();
    assert_eq!(error.exception().http_status, 403);
}

#[tokio::test]
async fn who_takes_what_they_may_of_the_disk_builds_nothing_new_and_deletes_what_is_there() {
    let host = host(Profile::Default, Limits { disk_mib: Some(1), ..Limits::default() }).await;
    let (service, caller) = (&host.service, &host.caller);
    let repeated = CreateMicrovmImageRequest { client_token: Some("once".into()), ..create("demo", "ok") };
    let created = service.call_as(caller, repeated.clone()).await.unwrap();
    host.daemon.idle().await;
    // As the images and microVMs of the account were measured.
    let taken = service.parts().disk.usage().take(ACCOUNT, 1 << 20);
    let refused = [
        service.call_as(caller, create("other", "ok")).await.unwrap_err(),
        service.call_as(caller, update("demo", "ok")).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.exception().name, "ServiceQuotaExceededException", "{error}");
    }
    assert_eq!(service.call_as(caller, repeated).await.unwrap(), created, "what was answered before");
    service.call_as(caller, of_image("demo")).await.unwrap();
    host.daemon.idle().await;
    drop(taken);
    service.call_as(caller, create("other", "ok")).await.unwrap();
    host.daemon.idle().await;
}
