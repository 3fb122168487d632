//! A throw-away microVM of an image, for trying it out by hand, and in tests.

use hearth_host::agent::Agent;
use hearth_host::agent::control::HookCall;
use hearth_host::microvm::Microvm;
use hearth_host::network::Egress;
use hearth_model::id::MicrovmId;
use hearth_proto::guest::v1 as proto;

use super::error::BuildError;
use super::event::{LogStream, Sink};
use super::identity::{self, Identity};
use super::pipeline::Builder;
use super::stage::{Allotment, Stage};
use super::workspace::Workspace;
use crate::image::Image;

/// A microVM of an image. Dropping it removes it without leftovers.
pub struct Trial {
    stage: Stage,
    id: MicrovmId,
    _workspace: Workspace,
}

impl Builder {
    /// Runs a throw-away microVM of `image`: restored, identified, with `/run` called where the image has it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn try_out(&self, image: &Image, payload: &str, sink: Sink) -> Result<Trial, BuildError> {
        let manifest = image.manifest();
        let egress = if manifest.network { Egress::Internet } else { Egress::None };
        let workspace = Workspace::create(&self.settings().work, "")?;
        let allotment = Allotment::of_image("run", manifest.shape, manifest.memory);
        let mut stage = Stage::start(&self.host(egress, "", sink), &workspace, allotment).await?;
        let restore = image.restore(&workspace.path("run.overlay"), None)?;
        let mut control = stage.restore(restore).await?;
        stage.follow_logs(LogStream::Snapshot);
        let id = identity::random_id();
        let who = Identity { microvm_id: &id, metadata: None, credentials: None };
        control.identify(who.message(&stage)?).await?;
        if let Some(settings) = manifest.hooks.run {
            let body = serde_json::json!({ "microvmId": id.as_str(), "runHookPayload": payload }).to_string();
            let (hook, port) = (proto::Hook::Run, manifest.hooks.port);
            let call = HookCall { hook, port, timeout: settings.timeout(), body: Some(body) };
            let result = control.call_hook(&call).await?;
            if !result.is_success() {
                return Err(BuildError::Platform(format!("the app's /run: {result:?}")));
            }
        }
        Ok(Trial { stage, id, _workspace: workspace })
    }
}

impl Trial {
    /// Id of the microVM.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Client of the guest's agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        self.stage.agent()
    }

    /// The monitor and its guest.
    #[must_use]
    pub fn microvm(&self) -> &Microvm {
        self.stage.microvm()
    }

    /// Waits until the app or the guest has ended. Returns a description for people.
    pub async fn exited(&self) -> String {
        let app = async {
            match self.agent().control().await {
                Ok(mut control) => control.wait_app().await,
                Err(error) => Err(error),
            }
        };
        tokio::select! {
            Ok(exit) = app => format!("Container Stopped with Exit Code: {}", exit.code),
            ended = self.microvm().exited() => match ended {
                Ok(reason) => format!("{:?} {}", reason.kind(), reason.message),
                Err(error) => error.to_string(),
            },
        }
    }
}
