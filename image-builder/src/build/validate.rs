//! Runs a throw-away clone of the snapshot: calls `/validate`, and records the pages that a clone needs first.

use std::path::Path;

use hearth_host::agent::control::Control;
use hearth_host::microvm::Restore;
use hearth_model::hooks::ImageHook;
use hearth_proto::guest::v1 as proto;
use hearth_vmm_api::snapshot::folder::WORKING_SET;
use hearth_vmm_client::snapshot::write_working_set;
use tokio::task::spawn_blocking;

use super::error::BuildError;
use super::event::LogStream;
use super::identity::{Identity, random_id};
use super::request::BuildRequest;
use super::snapshot::{call, drain_logs, last_lines};
use super::stage::{Allotment, Host, Stage};
use super::workspace::Workspace;
use crate::failure::StateReason;
use crate::image::{Image, SNAPSHOT};

/// Runs a clone of `image`, which is not committed yet.
pub(super) async fn run(
    host: &Host,
    workspace: &Workspace,
    request: &BuildRequest,
    image: &Image,
    credentials: Option<proto::Credentials>,
) -> Result<(), BuildError> {
    let (shape, class) = (image.manifest().shape, image.manifest().memory);
    let allotment = Allotment::of_image("validate", shape, class);
    let mut stage = Stage::start(host, workspace, allotment).await?;
    let restore = image.restore(&workspace.path("validate.overlay"), None)?;
    let mut control = stage.restore(Restore { record: true, ..restore }).await?;
    stage.follow_logs(LogStream::Validate);
    let metadata = Some(request.platform.metadata());
    let who = Identity { microvm_id: &random_id(), metadata, credentials };
    control.identify(who.message(&stage)?).await?;
    if let Some(settings) = request.hooks.validate {
        let validated = call(&mut control, ImageHook::Validate, request.hooks.port, settings);
        let validated = tokio::select! {
            validated = validated => validated,
            _ = stage.microvm().exited() => {
                let words = stage.microvm().last_words();
                Err(BuildError::failed(StateReason::TerminatedDuringSnapshot, words))
            }
        };
        if validated.is_err() {
            last_lines(&stage).await;
        }
        validated?;
    }
    record(&stage, &mut control, &image.folder().join(SNAPSHOT)).await
}

async fn record(stage: &Stage, control: &mut Control, snapshot: &Path) -> Result<(), BuildError> {
    drain_logs(control).await?;
    let (client, to) = (stage.microvm().client().clone(), snapshot.join(WORKING_SET));
    let written = spawn_blocking(move || write_working_set(&client, &to)).await?;
    written.map_err(|error| BuildError::Platform(format!("writing the working set: {error}")))?;
    Ok(())
}
