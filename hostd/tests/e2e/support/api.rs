//! Requests, and waiting for their effects.

use std::collections::BTreeMap;

use hearth_proto::host::v1::{GetHostStatusRequest, PutArtifactRequest, put_artifact_request::Part};
use hearth_proto::microvms::v1::{
    CodeArtifact, CreateMicrovmImageRequest, GetMicrovmImageRequest, GetMicrovmImageResponse,
    GetMicrovmRequest, HookState, Hooks, ListManagedMicrovmImagesRequest, ListMicrovmsRequest, Microvm,
    MicrovmHooks, MicrovmImageHooks, MicrovmImageState, MicrovmState, Resources, ResumeMicrovmRequest,
    RunMicrovmRequest, SuspendMicrovmRequest, TerminateMicrovmRequest, code_artifact,
};
use tonic::{Code, Status};

use super::{Daemon, until};

/// The image that all tests share.
pub(crate) const COUNTER: &str = "counter";
/// A role of the account that the Unix socket has.
const BUILD_ROLE: &str = "arn:aws:iam::000000000000:role/build";

impl Daemon {
    /// The name of the shared image, which the first test that calls this builds. The second call of its `/suspend`
    /// fails.
    pub(crate) async fn counter(&self) -> String {
        let request = GetMicrovmImageRequest { image_identifier: Some(COUNTER.into()) };
        match self.api().get_microvm_image(request).await {
            Ok(image) => assert_eq!(image.get_ref().state(), MicrovmImageState::Created),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                let mut create = self.image_request(COUNTER).await;
                create.environment_variables =
                    BTreeMap::from([("HOOK_SUSPEND".into(), "200,500,200".into())]);
                self.api().create_microvm_image(create).await.unwrap();
                self.wait_for_image(COUNTER, MicrovmImageState::Created).await;
            }
        }
        COUNTER.into()
    }

    /// A request for an image of the example `counter` in the smallest class, with all hooks.
    pub(crate) async fn image_request(&self, name: &str) -> CreateMicrovmImageRequest {
        let bases = ListManagedMicrovmImagesRequest::default();
        let bases = self.api().list_managed_microvm_images(bases).await.unwrap().into_inner();
        let base = bases.items.into_iter().next().unwrap().image_arn;
        let uri = self.upload(&self.site.counter()).await;
        CreateMicrovmImageRequest {
            name: Some(name.into()),
            base_image_arn: Some(base),
            build_role_arn: Some(BUILD_ROLE.into()),
            code_artifact: Some(CodeArtifact { artifact: Some(code_artifact::Artifact::Uri(uri)) }),
            resources: vec![Resources { minimum_memory_in_mib: Some(512) }],
            hooks: Some(all_hooks()),
            ..Default::default()
        }
    }

    /// Stores a zip in the local bucket and returns its URI.
    pub(crate) async fn upload(&self, zip: &[u8]) -> String {
        let mut parts = vec![PutArtifactRequest { part: Some(Part::Name("counter.zip".into())) }];
        parts.extend(
            zip.chunks(1 << 20).map(|data| PutArtifactRequest { part: Some(Part::Data(data.to_vec())) }),
        );
        let answer = self.host().put_artifact(tokio_stream::iter(parts)).await.unwrap().into_inner();
        assert_eq!(answer.bytes, i64::try_from(zip.len()).unwrap());
        answer.uri
    }

    /// Waits until an image is in a lasting state, which must be this one.
    pub(crate) async fn wait_for_image(
        &self,
        name: &str,
        state: MicrovmImageState,
    ) -> GetMicrovmImageResponse {
        use MicrovmImageState::{Creating, Deleting, Updating};
        let image = until(&format!("the image {name} is {}", state.as_str_name()), async || {
            let request = GetMicrovmImageRequest { image_identifier: Some(name.into()) };
            let image = self.api().get_microvm_image(request).await.unwrap().into_inner();
            (!matches!(image.state(), Creating | Updating | Deleting)).then_some(image)
        })
        .await;
        assert_eq!(image.state(), state, "{image:?}");
        image
    }

    /// Launches a microVM of the shared image and waits until it runs.
    pub(crate) async fn run(&self) -> Microvm {
        let launched = self.launch(request(&self.counter().await)).await.unwrap();
        self.wait(&launched.microvm_id, MicrovmState::Running).await
    }

    /// Sends the request to launch a microVM.
    pub(crate) async fn launch(&self, request: RunMicrovmRequest) -> Result<Microvm, Status> {
        Ok(self.api().run_microvm(request).await?.into_inner())
    }

    /// A microVM.
    pub(crate) async fn get(&self, id: &str) -> Result<Microvm, Status> {
        let request = GetMicrovmRequest { microvm_identifier: Some(id.into()) };
        Ok(self.api().get_microvm(request).await?.into_inner())
    }

    /// Waits until a microVM is in a lasting state, which must be this one.
    pub(crate) async fn wait(&self, id: &str, state: MicrovmState) -> Microvm {
        let microvm = self.settled(id).await;
        assert_eq!(microvm.state(), state, "{microvm:?}");
        microvm
    }

    /// Waits until a microVM is in a lasting state.
    pub(crate) async fn settled(&self, id: &str) -> Microvm {
        self.try_settled(id).await.unwrap()
    }

    /// Like [`Self::settled`], for a daemon that may die meanwhile.
    pub(crate) async fn try_settled(&self, id: &str) -> Result<Microvm, Status> {
        use MicrovmState::{Pending, Suspending, Terminating};
        until(&format!("{id} is in a state that lasts"), async || match self.get(id).await {
            Ok(microvm) if matches!(microvm.state(), Pending | Suspending | Terminating) => None,
            settled_or_dead => Some(settled_or_dead),
        })
        .await
    }

    /// Waits until a microVM is TERMINATED.
    pub(crate) async fn ended(&self, id: &str) -> Microvm {
        until(&format!("{id} has ended"), async || {
            let microvm = self.get(id).await.unwrap();
            (microvm.state() == MicrovmState::Terminated).then_some(microvm)
        })
        .await
    }

    pub(crate) async fn suspend(&self, id: &str) -> Result<(), Status> {
        let request = SuspendMicrovmRequest { microvm_identifier: Some(id.into()) };
        self.api().suspend_microvm(request).await.map(drop)
    }

    pub(crate) async fn resume(&self, id: &str) -> Result<(), Status> {
        let request = ResumeMicrovmRequest { microvm_identifier: Some(id.into()) };
        self.api().resume_microvm(request).await.map(drop)
    }

    pub(crate) async fn terminate(&self, id: &str) -> Result<(), Status> {
        let request = TerminateMicrovmRequest { microvm_identifier: Some(id.into()) };
        self.api().terminate_microvm(request).await.map(drop)
    }

    /// All microVMs, page by page.
    pub(crate) async fn list(&self) -> Vec<(String, MicrovmState)> {
        let (mut found, mut next_token) = (Vec::new(), None);
        loop {
            let request =
                ListMicrovmsRequest { max_results: Some(3), next_token, ..ListMicrovmsRequest::default() };
            let page = self.api().list_microvms(request).await.unwrap().into_inner();
            found.extend(page.items.iter().map(|item| (item.microvm_id.clone(), item.state())));
            next_token = page.next_token;
            if next_token.is_none() {
                return found;
            }
        }
    }

    /// Terminates all microVMs and waits until that is done.
    pub(crate) async fn end_all(&self) {
        for (id, state) in self.list().await {
            if state != MicrovmState::Terminated {
                self.terminate(&id).await.unwrap();
                self.ended(&id).await;
            }
        }
    }

    /// Reserved baseline memory in MiB.
    pub(crate) async fn reserved(&self) -> i64 {
        let status = self.host().get_host_status(GetHostStatusRequest {}).await.unwrap().into_inner();
        status.reserved_mib
    }
}

/// A request for a microVM of an image, with the defaults.
pub(crate) fn request(image: &str) -> RunMicrovmRequest {
    RunMicrovmRequest { image_identifier: Some(image.into()), ..RunMicrovmRequest::default() }
}

/// All hooks, with the longest timeouts: the emulated metal is slow.
fn all_hooks() -> Hooks {
    let on = Some(HookState::Enabled.into());
    let seconds = Some(60);
    Hooks {
        port: Some(8080),
        microvm_hooks: Some(MicrovmHooks {
            run: on,
            run_timeout_in_seconds: seconds,
            resume: on,
            resume_timeout_in_seconds: seconds,
            suspend: on,
            suspend_timeout_in_seconds: seconds,
            terminate: on,
            terminate_timeout_in_seconds: seconds,
        }),
        microvm_image_hooks: Some(MicrovmImageHooks {
            ready: on,
            ready_timeout_in_seconds: Some(120),
            validate: None,
            validate_timeout_in_seconds: None,
        }),
    }
}
