//! Scripted responses: AWS's operations here, the host's own in [`beside`].

mod beside;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use hearth_proto::host::v1 as host;
use hearth_proto::microvms::v1::build_state::Value as BuildState;
use hearth_proto::microvms::v1::microvm_image_version_state::Value as VersionState;
use hearth_proto::microvms::v1::microvm_service_server::MicrovmService;
use hearth_proto::microvms::v1::*;
use prost_types::Timestamp;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

pub(crate) const ALIVE: &str = "microvm-a1000000-0000-4000-8000-000000000001";
pub(crate) const ENDED: &str = "microvm-b2000000-0000-4000-8000-000000000002";
/// The microVM whose /run hook refuses.
pub(crate) const BROKEN: &str = "microvm-c3000000-0000-4000-8000-000000000003";
pub(crate) const IMAGE: &str = "arn:aws:lambda:eu-test-1:123456789012:microvm-image:demo";
/// Name of every microVM's endpoint.
pub(crate) const NAME: &str = "e.lambda-microvm.eu-test-1.example";
const BASE: &str = "arn:aws:lambda:eu-test-1:aws:microvm-image:al2023-1";

/// A daemon that records its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Daemon {
    pub(crate) seen: Arc<Mutex<Seen>>,
    /// Address of its endpoints.
    pub(crate) endpoint: Arc<Mutex<Option<host::EndpointStatus>>>,
    /// What a zip may have.
    pub(crate) limits: Arc<Mutex<Option<host::ArtifactLimits>>>,
    /// Whether callers may not see the host.
    pub(crate) discreet: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) run: Option<RunMicrovmRequest>,
    pub(crate) created: Option<CreateMicrovmImageRequest>,
    pub(crate) updated: Option<UpdateMicrovmImageRequest>,
    pub(crate) tagged: Option<TagResourceRequest>,
    pub(crate) ports: Vec<PortSpecification>,
    /// Requested validity in minutes of each token for ports.
    pub(crate) minutes: Vec<i32>,
    /// Ids and requested changes.
    pub(crate) changed: Vec<String>,
    /// Name and bytes of the uploaded artifact.
    pub(crate) artifact: Option<(String, Vec<u8>)>,
    pub(crate) read: Vec<host::ReadLogsRequest>,
    /// Authorization of the last request.
    pub(crate) authorization: Option<String>,
}

type Answer<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn ok<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

fn seconds_ago(seconds: u64) -> Option<Timestamp> {
    Some(Timestamp::from(SystemTime::now() - std::time::Duration::from_secs(seconds)))
}

fn at(seconds: i64, nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_790_000_000 + seconds, nanos })
}

fn not_found(kind: &str, id: &str) -> Status {
    let mut details = ErrorDetails::with_error_info("ResourceNotFoundException", "hearth.microvms.v1", []);
    details.set_resource_info(kind, id, "", "");
    Status::with_error_details(Code::NotFound, format!("Unable to find {kind} {id}"), details)
}

fn microvm(id: &str, state: MicrovmState, reason: Option<&str>) -> Microvm {
    Microvm {
        microvm_id: id.into(),
        state: state.into(),
        endpoint: NAME.into(),
        image_arn: IMAGE.into(),
        image_version: "1.0".into(),
        execution_role_arn: None,
        idle_policy: Some(IdlePolicy {
            max_idle_duration_seconds: Some(900),
            suspended_duration_seconds: Some(1800),
            auto_resume_enabled: Some(true),
        }),
        maximum_duration_in_seconds: 3600,
        started_at: at(0, 0),
        terminated_at: None,
        state_reason: reason.map(str::to_owned),
        ingress_network_connectors: vec![format!("arn:x:{}", "HTTP_INGRESS")],
        egress_network_connectors: vec![format!("arn:x:{}", "INTERNET_EGRESS")],
        ..Microvm::default()
    }
}

fn version(number: &str) -> MicrovmImageVersion {
    MicrovmImageVersion {
        image_arn: IMAGE.into(),
        image_version: number.into(),
        state: VersionState::Successful.into(),
        status: MicrovmImageVersionStatus::Active.into(),
        created_at: seconds_ago(300),
        base_image_arn: BASE.into(),
        base_image_version: Some("1".into()),
        resources: vec![Resources { minimum_memory_in_mib: Some(512) }],
        environment_variables: [("PASSWORD".to_owned(), "hidden".to_owned())].into(),
        ..MicrovmImageVersion::default()
    }
}

fn build(state: BuildState) -> GetMicrovmImageBuildResponse {
    GetMicrovmImageBuildResponse {
        image_arn: IMAGE.into(),
        image_version: "1.0".into(),
        build_id: "0b000000-0000-4000-8000-000000000000".into(),
        build_state: state.into(),
        architecture: Architecture::Arm64.into(),
        chipset: Chipset::Graviton.into(),
        chipset_generation: "3".into(),
        state_reason: (state == BuildState::Failed)
            .then(|| "The command returned a non-zero code: 7.".into()),
        created_at: at(0, 0),
        snapshot_build: (state == BuildState::Successful).then_some(SnapshotBuild {
            memory_snapshot_size_in_bytes: Some(5 << 20),
            code_install_size_in_bytes: Some(1536),
            disk_snapshot_size_in_bytes: Some(12),
        }),
    }
}

impl Daemon {
    fn note<T>(&self, request: Request<T>) -> T {
        let value = request.metadata().get("authorization");
        let value = value.map(|value| value.to_str().unwrap().to_owned());
        self.seen.lock().unwrap().authorization = value;
        request.into_inner()
    }

    fn change(&self, what: &str, id: Option<String>) -> Result<(), Status> {
        let id = id.unwrap_or_default();
        self.seen.lock().unwrap().changed.push(format!("{what} {id}"));
        if id == ALIVE { Ok(()) } else { Err(not_found("microvm", &id)) }
    }
}

#[tonic::async_trait]
impl MicrovmService for Daemon {
    async fn run_microvm(&self, request: Request<RunMicrovmRequest>) -> Answer<Microvm> {
        let request = self.note(request);
        let name = request.image_identifier.clone().unwrap_or_default();
        self.seen.lock().unwrap().run = Some(request);
        match name.rsplit(':').next() {
            Some("demo") => ok(microvm(ALIVE, MicrovmState::Pending, None)),
            Some("broken") => ok(microvm(BROKEN, MicrovmState::Pending, None)),
            _ => Err(not_found("microvm-image", &name)),
        }
    }

    async fn get_microvm(&self, request: Request<GetMicrovmRequest>) -> Answer<Microvm> {
        let id = self.note(request).microvm_identifier.unwrap_or_default();
        match id.as_str() {
            ALIVE if self.seen.lock().unwrap().changed.iter().any(|change| change.starts_with("suspend")) => {
                ok(microvm(ALIVE, MicrovmState::Suspended, None))
            }
            ALIVE => ok(microvm(ALIVE, MicrovmState::Running, None)),
            ENDED => ok(microvm(ENDED, MicrovmState::Terminated, Some("Success."))),
            BROKEN => {
                let reason = "Run lifecycle hook returned HTTP status 500.";
                ok(microvm(BROKEN, MicrovmState::Terminated, Some(reason)))
            }
            _ => Err(not_found("microvm", &id)),
        }
    }

    /// Returns one microVM per page.
    async fn list_microvms(&self, request: Request<ListMicrovmsRequest>) -> Answer<ListMicrovmsResponse> {
        let page: usize = self.note(request).next_token.map_or(0, |token| token.parse().unwrap());
        let item = |id: &str, state: MicrovmState, seconds| MicrovmItem {
            microvm_id: id.into(),
            state: state.into(),
            image_arn: IMAGE.into(),
            image_version: "1.0".into(),
            started_at: seconds_ago(seconds),
        };
        let items = match page {
            0 => vec![item(ALIVE, MicrovmState::Running, 300)],
            1 => Vec::new(),
            _ => vec![item(ENDED, MicrovmState::Terminated, 10_000)],
        };
        ok(ListMicrovmsResponse { items, next_token: (page < 2).then(|| (page + 1).to_string()) })
    }

    async fn suspend_microvm(
        &self,
        request: Request<SuspendMicrovmRequest>,
    ) -> Answer<SuspendMicrovmResponse> {
        self.change("suspend", self.note(request).microvm_identifier)?;
        ok(SuspendMicrovmResponse {})
    }

    async fn resume_microvm(&self, request: Request<ResumeMicrovmRequest>) -> Answer<ResumeMicrovmResponse> {
        self.change("resume", self.note(request).microvm_identifier)?;
        ok(ResumeMicrovmResponse {})
    }

    async fn terminate_microvm(
        &self,
        request: Request<TerminateMicrovmRequest>,
    ) -> Answer<TerminateMicrovmResponse> {
        self.change("terminate", self.note(request).microvm_identifier)?;
        ok(TerminateMicrovmResponse {})
    }

    async fn create_microvm_auth_token(
        &self,
        request: Request<CreateMicrovmAuthTokenRequest>,
    ) -> Answer<CreateMicrovmAuthTokenResponse> {
        let request = request.into_inner();
        let mut seen = self.seen.lock().unwrap();
        seen.ports = request.allowed_ports;
        seen.minutes.push(request.expiration_in_minutes.unwrap());
        ok(CreateMicrovmAuthTokenResponse { auth_token: [("X-aws-proxy-auth".into(), "t0".into())].into() })
    }

    async fn create_microvm_shell_auth_token(
        &self,
        _: Request<CreateMicrovmShellAuthTokenRequest>,
    ) -> Answer<CreateMicrovmShellAuthTokenResponse> {
        ok(CreateMicrovmShellAuthTokenResponse {
            auth_token: [("X-aws-proxy-auth".into(), "s0".into())].into(),
        })
    }

    async fn create_microvm_image(
        &self,
        request: Request<CreateMicrovmImageRequest>,
    ) -> Answer<MicrovmImageDetails> {
        let request = self.note(request);
        let name = request.name.clone().unwrap_or_default();
        self.seen.lock().unwrap().created = Some(request);
        ok(MicrovmImageDetails {
            image_arn: IMAGE.replace("demo", &name),
            name,
            state: MicrovmImageState::Creating.into(),
            image_version: "1.0".into(),
            ..MicrovmImageDetails::default()
        })
    }

    async fn update_microvm_image(
        &self,
        request: Request<UpdateMicrovmImageRequest>,
    ) -> Answer<MicrovmImageDetails> {
        self.seen.lock().unwrap().updated = Some(self.note(request));
        ok(MicrovmImageDetails {
            image_arn: IMAGE.into(),
            name: "demo".into(),
            state: MicrovmImageState::Updating.into(),
            image_version: "2.0".into(),
            ..MicrovmImageDetails::default()
        })
    }

    async fn get_microvm_image(
        &self,
        request: Request<GetMicrovmImageRequest>,
    ) -> Answer<GetMicrovmImageResponse> {
        let name = request.into_inner().image_identifier.unwrap_or_default();
        if name.ends_with(":hidden") {
            return Err(Status::permission_denied("not allowed"));
        }
        ok(GetMicrovmImageResponse {
            image_arn: IMAGE.into(),
            name: "demo".into(),
            state: MicrovmImageState::Created.into(),
            latest_active_image_version: Some("1.0".into()),
            tags: [("team".into(), "a".into())].into(),
            ..GetMicrovmImageResponse::default()
        })
    }

    async fn list_microvm_images(
        &self,
        _: Request<ListMicrovmImagesRequest>,
    ) -> Answer<ListMicrovmImagesResponse> {
        let item = |name: &str, state: MicrovmImageState, active: Option<&str>| MicrovmImageSummary {
            image_arn: IMAGE.replace("demo", name),
            name: name.into(),
            state: state.into(),
            latest_active_image_version: active.map(str::to_owned),
            latest_failed_image_version: None,
            created_at: seconds_ago(4 * 86_400),
        };
        let items = vec![
            item("demo", MicrovmImageState::Created, Some("1.0")),
            item("a-longer-name", MicrovmImageState::CreateFailed, None),
        ];
        ok(ListMicrovmImagesResponse { items, next_token: None })
    }

    async fn delete_microvm_image(
        &self,
        request: Request<DeleteMicrovmImageRequest>,
    ) -> Answer<DeleteMicrovmImageResponse> {
        let image_identifier = request.into_inner().image_identifier.unwrap_or_default();
        ok(DeleteMicrovmImageResponse { image_identifier, state: MicrovmImageState::Deleting.into() })
    }

    async fn get_microvm_image_version(
        &self,
        request: Request<GetMicrovmImageVersionRequest>,
    ) -> Answer<MicrovmImageVersion> {
        ok(version(&request.into_inner().image_version.unwrap_or_default()))
    }

    async fn list_microvm_image_versions(
        &self,
        _: Request<ListMicrovmImageVersionsRequest>,
    ) -> Answer<ListMicrovmImageVersionsResponse> {
        ok(ListMicrovmImageVersionsResponse { items: vec![version("2.0"), version("1.0")], next_token: None })
    }

    async fn update_microvm_image_version(
        &self,
        request: Request<UpdateMicrovmImageVersionRequest>,
    ) -> Answer<MicrovmImageVersion> {
        let request = request.into_inner();
        let status = request.status();
        let number = request.image_version.unwrap_or_default();
        ok(MicrovmImageVersion { status: status.into(), ..version(&number) })
    }

    async fn delete_microvm_image_version(
        &self,
        request: Request<DeleteMicrovmImageVersionRequest>,
    ) -> Answer<DeleteMicrovmImageVersionResponse> {
        let request = request.into_inner();
        ok(DeleteMicrovmImageVersionResponse {
            image_identifier: request.image_identifier.unwrap_or_default(),
            image_version: request.image_version.unwrap_or_default(),
            state: VersionState::Deleting.into(),
        })
    }

    async fn get_microvm_image_build(
        &self,
        _: Request<GetMicrovmImageBuildRequest>,
    ) -> Answer<GetMicrovmImageBuildResponse> {
        ok(build(BuildState::Successful))
    }

    async fn list_microvm_image_builds(
        &self,
        request: Request<ListMicrovmImageBuildsRequest>,
    ) -> Answer<ListMicrovmImageBuildsResponse> {
        let item = MicrovmImageBuildSummary {
            image_arn: IMAGE.into(),
            image_version: request.into_inner().image_version.unwrap_or_default(),
            build_id: "b0".into(),
            build_state: BuildState::Successful.into(),
            architecture: Architecture::Arm64.into(),
            chipset: Chipset::Graviton.into(),
            chipset_generation: "3".into(),
            state_reason: None,
            created_at: seconds_ago(60),
        };
        ok(ListMicrovmImageBuildsResponse { items: vec![item], next_token: None })
    }

    async fn list_managed_microvm_images(
        &self,
        _: Request<ListManagedMicrovmImagesRequest>,
    ) -> Answer<ListManagedMicrovmImagesResponse> {
        let item = |name: &str, seconds| ManagedMicrovmImageSummary {
            image_arn: BASE.replace("al2023-1", name),
            created_at: at(seconds, 0),
            updated_at: None,
        };
        ok(ListManagedMicrovmImagesResponse {
            items: vec![item("older", 0), item("al2023-1", 1)],
            next_token: None,
        })
    }

    async fn list_managed_microvm_image_versions(
        &self,
        _: Request<ListManagedMicrovmImageVersionsRequest>,
    ) -> Answer<ListManagedMicrovmImageVersionsResponse> {
        let item = ManagedMicrovmImageVersion {
            image_arn: BASE.into(),
            image_version: "1".into(),
            created_at: seconds_ago(60),
            ..ManagedMicrovmImageVersion::default()
        };
        ok(ListManagedMicrovmImageVersionsResponse { items: vec![item], next_token: None })
    }

    async fn list_tags(&self, _: Request<ListTagsRequest>) -> Answer<ListTagsResponse> {
        ok(ListTagsResponse { tags: [("team".into(), "a".into())].into() })
    }

    async fn tag_resource(&self, request: Request<TagResourceRequest>) -> Answer<TagResourceResponse> {
        self.seen.lock().unwrap().tagged = Some(request.into_inner());
        ok(TagResourceResponse {})
    }

    async fn untag_resource(&self, _: Request<UntagResourceRequest>) -> Answer<UntagResourceResponse> {
        ok(UntagResourceResponse {})
    }
}
