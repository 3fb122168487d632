//! Two accounts that do not trust each other: whatever one of them names of the other's, the answer is the one for a thing
//! that does not exist, and nothing changes. And keys with narrow policies: no operation without its permission.
//!
//! Things of the owner's have names with `owners-`; things that do not exist have the same names with `absent-`. A new
//! operation does not compile until it has its calls here.

mod calls;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use futures_util::StreamExt as _;
use hearth_image_builder::artifact::{ArtifactConfig, BucketConfig, RegistryConfig};
use hearth_proto::host::v1 as host_api;

use super::*;
use crate::logs::{Line, Source};
use crate::service::host::artifacts::key::Key;
use crate::service::host::artifacts::multipart::PartName;
use crate::service::host::artifacts::object::About;
use crate::service::host::artifacts::upload::Condition;
use crate::service::host::objects::{Data, PutObject, PutStep};
use crate::service::host::upload::ArtifactStream;
use crate::service::page::Paged;
use crate::service::pipeline::Response;

const OTHER: &str = "999999999999";
const BASE: &str = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";
/// An image and a log group that both accounts have.
const BOTH: &str = "demo";
const GROUP: &str = "/both";

/// Names of things.
struct Things {
    arn: String,
    microvm: String,
    role: String,
    group: String,
    key: String,
    /// Id of an upload in parts.
    upload: String,
    /// `nextToken` of a list of this account; none for what is no token.
    cursors_of: Option<&'static str>,
}

impl Things {
    fn new(prefix: &str, upload: String, cursors_of: Option<&'static str>) -> Self {
        Self {
            arn: arn(&format!("{prefix}-image")),
            microvm: format!("microvm-{prefix}-1"),
            role: format!("arn:aws:iam::{ACCOUNT}:role/{prefix}-role"),
            group: format!("/{prefix}-group"),
            key: format!("{prefix}-key"),
            upload,
            cursors_of,
        }
    }
}

/// What a call came to: the response as JSON, or exception and message.
type Outcome = Result<String, String>;

struct World {
    host: Host,
    owner: Caller,
    stranger: Caller,
    /// Of the owner, and of nobody.
    owners: Things,
    absent: Things,
}

fn everything(account: &str) -> Caller {
    caller(account, [Policy::everything()].into())
}

fn artifact(uri: &str) -> Option<proto::CodeArtifact> {
    Some(proto::CodeArtifact { artifact: Some(proto::code_artifact::Artifact::Uri(uri.into())) })
}

fn create(name: &str, role: &str, uri: &str) -> proto::CreateMicrovmImageRequest {
    proto::CreateMicrovmImageRequest {
        name: Some(name.into()),
        base_image_arn: Some(BASE.into()),
        build_role_arn: Some(role.into()),
        code_artifact: artifact(uri),
        ..Default::default()
    }
}

fn update(image: &str, role: &str, uri: &str) -> proto::UpdateMicrovmImageRequest {
    proto::UpdateMicrovmImageRequest {
        image_identifier: Some(image.into()),
        base_image_arn: Some(BASE.into()),
        build_role_arn: Some(role.into()),
        code_artifact: artifact(uri),
        ..Default::default()
    }
}

fn role_of(account: &str) -> String {
    format!("arn:aws:iam::{account}:role/build")
}

/// Sources of artifacts that are the owner's, and a registry of everybody's, so that registries are known at all.
fn sources() -> ArtifactConfig {
    let accounts = Some(vec![ACCOUNT.to_owned()]);
    let registry = |accounts| RegistryConfig { accounts, ..RegistryConfig::default() };
    ArtifactConfig {
        buckets: [(
            "owners-bucket".to_owned(),
            BucketConfig { folder: "/".into(), accounts: accounts.clone() },
        )]
        .into(),
        registries: [
            ("owners.example".to_owned(), registry(accounts.clone()).into()),
            ("all.example".to_owned(), registry(Some(vec!["*".to_owned()])).into()),
        ]
        .into(),
        allow_files: true,
        files_accounts: accounts,
        ..ArtifactConfig::default()
    }
}

impl World {
    async fn new(profile: Profile) -> Self {
        let roles = "[rules.\"arn:aws:iam::*:role/*\".static]\naccess_key_id = \"AKIA\"\nsecret_access_key = \"hush\"\n";
        let config = ServiceConfig::new("us-east-1", profile);
        let host = furnished(config, toml::from_str(roles).unwrap(), sources()).await;
        fs::create_dir(host.bases.path().join("1")).unwrap();
        let (owner, stranger) = (everything(ACCOUNT), everything(OTHER));
        // The owner's.
        host.build("owners-image").await;
        host.microvm("owners-1", proto::MicrovmState::Running, &["ALL_INGRESS"]).await;
        let tags = [("owners-tag".to_owned(), "owners-value".to_owned())].into();
        let resource = Some(arn("owners-image"));
        host.service.call_as(&owner, proto::TagResourceRequest { resource, tags }).await.unwrap();
        let artifacts = host.service.parts().host.artifacts.clone();
        let key = Key::new("owners-key").unwrap();
        let upload = artifacts.begin_parts(ACCOUNT, &key, About::default()).await.unwrap();
        let world = Self {
            owners: Things::new("owners", upload.to_string(), Some(ACCOUNT)),
            absent: Things::new("absent", uuid::Uuid::nil().simple().to_string(), None),
            host,
            owner,
            stranger,
        };
        world.put(&world.owner, "owners-key", b"owners-data").await;
        world.log(ACCOUNT, "/owners-group");
        // What both have under one name.
        for account in [ACCOUNT, OTHER] {
            world.log(account, GROUP);
        }
        let request = create(BOTH, &role_of(OTHER), "s3://bucket/app.zip");
        world.host.service.call_as(&world.stranger, request).await.unwrap();
        world.host.daemon.idle().await;
        world
    }

    async fn put(&self, caller: &Caller, key: &str, data: &'static [u8]) {
        let data = Box::pin(futures_util::stream::iter([Ok(bytes::Bytes::from_static(data))]));
        let step =
            PutStep::Whole { about: About::default(), data, verify: None, condition: Condition::default() };
        self.host.service.call_as(caller, PutObject::new(key, step)).await.unwrap();
    }

    fn log(&self, account: &str, group: &str) {
        let writer = self.host.outside.logs.writer(account, group, "owners-stream").unwrap();
        let (timestamp, message) = (self.host.clock.now(), b"owners-line");
        writer.append(Line { timestamp, source: Source::Stdout, sequence: 0, message }).unwrap();
    }

    /// Everything that is stored: the tables, and the files of logs and of the bucket.
    fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        let mut stored = BTreeMap::new();
        for table in Table::ALL {
            let each = |key: Vec<u8>, value: Vec<u8>| {
                stored.insert(format!("{}/{}", table.name(), key.escape_ascii()), value);
                Ok(())
            };
            self.host.daemon.db.each(table, &[], each).unwrap();
        }
        files(self.host.outside.folder.path(), &mut stored);
        stored
    }

    async fn call<H: Handler>(&self, caller: &Caller, request: H) -> Outcome {
        let called = self.host.service.call_as(caller, request).await;
        let told = |error: ServiceError| format!("{}: {error}", error.exception().name);
        called.map(|response| response.json().to_string()).map_err(told)
    }

    /// The token for the next page of a list, as the account gets it for the same request.
    fn cursor<R: Paged>(&self, request: &R, things: &Things) -> String {
        let Some(account) = things.cursors_of else { return "no-token".repeat(8) };
        let page = self.host.service.page(&everything(account), request).unwrap();
        self.host.service.next_token(&page, b"owners-key").unwrap().unwrap()
    }

    /// A list with the token of another one.
    async fn list<R>(&self, caller: &Caller, mut request: R, things: &Things) -> Outcome
    where
        R: Paged + Handler,
    {
        let token = self.cursor(&request, things);
        *request.page_mut().1 = Some(token);
        self.call(caller, request).await
    }
}

/// Adds the contents of all files below a folder.
fn files(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
}

/// What stands for the owner's names becomes what stands for nothing's.
fn as_absent(outcome: &Outcome) -> Outcome {
    let rename = |text: &String| text.replace("owners-", "absent-");
    outcome.as_ref().map(rename).map_err(rename)
}

#[tokio::test]
async fn what_is_anothers_answers_as_if_it_were_not_there_and_does_not_change() {
    for profile in [Profile::Default, Profile::AwsStrict] {
        let world = World::new(profile).await;
        for operation in Operation::ALL {
            let before = world.stored();
            let foreign = world.perform(operation, &world.stranger, &world.owners).await;
            let unchanged = world.stored() == before;
            assert!(unchanged, "{operation} has changed something: {foreign:?}");
            let absent = world.perform(operation, &world.stranger, &world.absent).await;
            assert!(!foreign.is_empty());
            for (foreign, absent) in foreign.iter().zip(&absent) {
                // Nothing of the owner's but the name that the call itself had.
                assert_eq!(as_absent(foreign), *absent, "{operation}");
            }
        }
    }
}

/// The same calls find the owner's things when the owner makes them: the matrix is about things that are there.
#[tokio::test]
async fn the_owner_finds_what_the_stranger_does_not() {
    let world = World::new(Profile::Default).await;
    let changing = |operation: &Operation| {
        use Operation as Op;
        matches!(operation, Op::DeleteMicrovmImage | Op::DeleteMicrovmImageVersion | Op::DeleteArtifact)
    };
    for operation in Operation::ALL.into_iter().filter(|operation| !changing(operation)) {
        let own = world.perform(operation, &world.owner, &world.owners).await;
        let foreign = world.perform(operation, &world.stranger, &world.owners).await;
        match operation {
            // No grant for either; what streams tell has tests of its own.
            Operation::BackUpStore | Operation::WatchEvents | Operation::TailLogs => {}
            _ => assert_ne!(own, foreign, "{operation}"),
        }
    }
}

#[tokio::test]
async fn a_cursor_is_good_for_its_account_only() {
    let world = World::new(Profile::Default).await;
    let list = || proto::ListMicrovmImagesRequest::default();
    let wrong = world.list(&world.stranger, list(), &world.owners).await.unwrap_err();
    assert_eq!(wrong, world.list(&world.stranger, list(), &world.absent).await.unwrap_err());
    let own = Things { cursors_of: Some(OTHER), ..Things::new("own", String::new(), None) };
    world.list(&world.stranger, list(), &own).await.unwrap();
}

#[tokio::test]
async fn sources_of_artifacts_are_refused_to_other_accounts() {
    for profile in [Profile::Default, Profile::AwsStrict] {
        let world = World::new(profile).await;
        let not_s3 =
            "ValidationException: CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>";
        let refused = |what: &str| {
            format!(
                "ValidationException: CodeArtifact URI names the {what}, which this installation does not allow for the \
                 account {OTHER}"
            )
        };
        let bucket = refused("bucket owners-bucket");
        let registry = match profile {
            Profile::Default => refused("registry owners.example"),
            Profile::AwsStrict => not_s3.to_owned(),
        };
        let before = world.stored();
        for (uri, why) in [
            ("s3://owners-bucket/app.zip", bucket.as_str()),
            ("oci://owners.example/app:1", &registry),
            ("file:///owners.zip", not_s3),
        ] {
            let role = role_of(OTHER);
            let created = world.call(&world.stranger, create("new", &role, uri)).await;
            let arn = format!("arn:aws:lambda:us-east-1:{OTHER}:microvm-image:{BOTH}");
            let updated = world.call(&world.stranger, update(&arn, &role, uri)).await;
            assert_eq!([created, updated], [Err(why.to_owned()), Err(why.to_owned())], "{uri}");
        }
        assert!(world.stored() == before);
        let own = create("new", &role_of(ACCOUNT), "s3://owners-bucket/app.zip");
        world.call(&world.owner, own).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_token_is_its_accounts() {
    let world = World::new(Profile::Default).await;
    let request = |account: &str| proto::CreateMicrovmImageRequest {
        client_token: Some("the-same-token".into()),
        ..create("new", &role_of(account), "s3://bucket/app.zip")
    };
    let first = world.host.service.call_as(&world.owner, request(ACCOUNT)).await.unwrap();
    let second = world.host.service.call_as(&world.stranger, request(OTHER)).await.unwrap();
    assert_eq!(first.image_arn, arn("new"));
    assert_eq!(second.image_arn, arn("new").replace(ACCOUNT, OTHER));
    world.host.daemon.idle().await;
}

#[tokio::test]
async fn a_key_in_the_bucket_means_the_callers_artifact() {
    let world = World::new(Profile::Default).await;
    world.put(&world.stranger, "owners-key", b"strangers-data").await;
    let artifacts = &world.host.service.parts().host.artifacts;
    let key = Key::new("owners-key").unwrap();
    for (account, bytes) in [(ACCOUNT, 11), (OTHER, 14)] {
        assert_eq!(artifacts.get(account, &key).await.unwrap().bytes, bytes);
    }
}

#[tokio::test]
async fn events_of_others_are_not_seen() {
    let world = World::new(Profile::Default).await;
    for resource in [None, Some(arn("owners-image")), Some("microvm-owners-1".to_owned())] {
        let request = host_api::WatchEventsRequest { resource: resource.clone() };
        let mut events =
            Box::pin(world.host.service.call_as(&world.stranger, request).await.unwrap().messages());
        let resource = resource.unwrap_or_else(|| "any".to_owned());
        for (account, kind) in [(ACCOUNT, "owners"), (OTHER, "own")] {
            let event =
                host_api::Event { resource: resource.clone(), kind: kind.into(), ..Default::default() };
            world.host.service.parts().host.events.publish(account, event);
        }
        assert_eq!(events.next().await.unwrap().unwrap().kind, "own");
    }
}

#[tokio::test]
async fn lines_of_others_are_not_followed() {
    let world = World::new(Profile::Default).await;
    for group in ["/owners-group", GROUP] {
        let request =
            host_api::TailLogsRequest { log_group: Some(group.into()), last: Some(0), ..Default::default() };
        let mut lines =
            Box::pin(world.host.service.call_as(&world.stranger, request).await.unwrap().messages());
        for (account, message) in [(ACCOUNT, &b"owners"[..]), (OTHER, b"own")] {
            let writer = world.host.outside.logs.writer(account, group, "another-stream").unwrap();
            let timestamp = world.host.clock.now();
            writer.append(Line { timestamp, source: Source::Stdout, sequence: 0, message }).unwrap();
        }
        assert_eq!(lines.next().await.unwrap().unwrap().message, "own", "{group}");
    }
}

#[tokio::test]
async fn the_host_is_told_to_those_with_a_grant_and_others_get_what_clients_need() {
    let world = World::new(Profile::Default).await;
    let status = async |policies: &[Policy]| {
        let caller = caller(OTHER, policies.into());
        world.host.service.call_as(&caller, host_api::GetHostStatusRequest {}).await.unwrap()
    };
    let whole = status(&[Policy::everything(), Policy::host()]).await;
    assert_eq!((whole.version.as_str(), whole.cpus, whole.microvms["RUNNING"]), ("9.9.9", 64, 7));
    let host_api::HostStatus { region, account, profile, endpoint, account_status, artifact_limits, .. } =
        whole.clone();
    let none = host_api::HostStatus::default();
    let shared =
        host_api::HostStatus { region, account, profile, endpoint, account_status, artifact_limits, ..none };
    assert_eq!(shared.artifact_limits.as_ref().map(|limits| limits.max_entries), Some(250_000));
    assert_eq!(shared.account, OTHER);
    assert!(shared.endpoint.as_ref().is_some_and(|endpoint| !endpoint.certificate_authority_pem.is_empty()));
    assert_eq!(shared.account_status, Some(host_api::AccountStatus::default()), "no microVM, and no limits");
    let only = |action: &str| Policy { actions: vec![action.to_owned()], ..Policy::everything() };
    for policies in [&[][..], &[Policy::everything()], &[only("Get*"), only("RunMicrovm")]] {
        assert_eq!(status(policies).await, shared, "{policies:?}");
    }
    assert_eq!(status(&[only("GetHostStatus")]).await, whole);
    // A role that was assumed does not have more than its maker.
    let role = crate::access::AssumedRole {
        role_arn: role_of(OTHER),
        session_name: "s".into(),
        access_key_id: "ASIA".into(),
        maker: "key".into(),
        policies: [Policy::host()].into(),
    };
    let session = Caller { role: Some(Arc::new(role)), ..everything(OTHER) };
    let told = world.host.service.call_as(&session, host_api::GetHostStatusRequest {}).await.unwrap();
    assert_eq!(told, shared);
}

/// A policy that names these operations.
fn named(operations: impl Iterator<Item = Operation>) -> Policy {
    Policy {
        actions: operations.map(|operation| operation.name().to_owned()).collect(),
        ..Policy::everything()
    }
}

/// Whether an operation was refused for want of its permission.
fn denied(operation: Operation, outcome: &Outcome) -> bool {
    let of = format!("is not authorized to perform: lambda:{operation} on resource");
    outcome.as_ref().is_err_and(|text| text.starts_with("AccessDenied") && text.contains(&of))
}

#[tokio::test]
async fn no_operation_is_done_without_its_permission() {
    let world = World::new(Profile::Default).await;
    for operation in Operation::ALL {
        let others = named(Operation::ALL.into_iter().filter(|other| *other != operation));
        let other_images = Policy { images: vec!["other-*".into()], ..Policy::everything() };
        let before = world.stored();
        for policies in [vec![others], vec![other_images], vec![]] {
            let narrow = caller(ACCOUNT, policies.into());
            for outcome in world.perform(operation, &narrow, &world.owners).await {
                // Every known caller may call GetHostStatus, and sees what it may.
                let expected = operation != Operation::GetHostStatus;
                assert_eq!(denied(operation, &outcome), expected, "{operation}: {outcome:?}");
            }
        }
        assert!(world.stored() == before, "{operation}");
    }
}

#[tokio::test]
async fn every_operation_is_done_with_its_permission_alone() {
    let world = World::new(Profile::Default).await;
    for operation in Operation::ALL {
        let narrow = caller(ACCOUNT, [named([operation].into_iter())].into());
        for outcome in world.perform(operation, &narrow, &world.owners).await {
            assert!(!denied(operation, &outcome), "{operation}: {outcome:?}");
        }
    }
    world.host.daemon.idle().await;
}

/// An upload names nothing before its first message: it is the account's own whatever it is called.
#[tokio::test]
async fn an_upload_needs_the_permission_before_its_data() {
    let world = World::new(Profile::Default).await;
    let reader = Policy { actions: vec!["Get*".into(), "List*".into()], ..Policy::everything() };
    let part = |part| Ok(host_api::PutArtifactRequest { part: Some(part) });
    use host_api::put_artifact_request::Part;
    let messages = [part(Part::Key("owners-key".into())), part(Part::Data(b"taken".to_vec()))];
    let upload = ArtifactStream::receive(futures_util::stream::iter(messages)).await;
    let before = world.stored();
    let outcome = world.call(&caller(ACCOUNT, [reader].into()), upload).await;
    assert!(outcome.unwrap_err().starts_with("AccessDeniedException"));
    assert!(world.stored() == before);
}
