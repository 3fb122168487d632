//! `hearth image builds` and `build`.

use clap::Subcommand;
use hearth_model::arn::resource_name;
use hearth_proto::microvms::v1::{
    GetMicrovmImageBuildRequest, GetMicrovmImageBuildResponse, ListMicrovmImageBuildsRequest,
    ListMicrovmImageBuildsResponse,
};

use super::super::Context;
use crate::error::Failure;
use crate::out::{Fields, Table, age, bytes, moment};
use crate::pages::{self, PAGE};

/// A build of a version
#[derive(Debug, Subcommand)]
pub(crate) enum Build {
    /// Show a build, with the sizes of what it made
    Get {
        /// Name or ARN of the image
        image: String,
        /// The version, like 1.0
        version: String,
        /// Id of the build
        id: String,
    },
}

pub(super) async fn list(context: &Context, image: &str, version: Option<String>) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    let arn = client.image(image).await?;
    let version = match version {
        Some(version) => version,
        None => {
            let newest = client.versions(&arn, Some(1)).await?.into_iter().next();
            newest.map(|version| version.image_version).ok_or_else(|| {
                Failure::failed(format!(
                    "the image {image} has no version; build one with `hearth image update`"
                ))
            })?
        }
    };
    let items = pages::all(None, async |next_token| {
        let request = ListMicrovmImageBuildsRequest {
            image_identifier: Some(arn.clone()),
            image_version: Some(version.clone()),
            max_results: Some(PAGE),
            next_token,
            ..ListMicrovmImageBuildsRequest::default()
        };
        let mut microvms = client.microvms();
        let answer = microvms.list_microvm_image_builds(request);
        let answer = client.call(format!("list the builds of {image} {version}"), answer).await?;
        Ok((answer.items, answer.next_token))
    })
    .await?;
    if out.json {
        return out.json(&ListMicrovmImageBuildsResponse { items, next_token: None });
    }
    if out.quiet {
        return out.lines(items.iter().map(|item| &item.build_id));
    }
    let mut table = Table::new(["BUILD", "VERSION", "STATE", "PROCESSOR", "AGE", "REASON"]);
    for item in items {
        let state = item.build_state().as_str_name().to_owned();
        let processor = format!("{} {}", item.chipset().as_str_name(), item.chipset_generation);
        let (age, reason) = (age(item.created_at.as_ref()), item.state_reason.unwrap_or_default());
        table.row([item.build_id, item.image_version, state, processor, age, reason]);
    }
    out.text(&table.text())
}

impl Build {
    pub(super) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let Self::Get { image, version, id } = self;
        let (client, out) = (&context.client, context.out);
        let request = GetMicrovmImageBuildRequest {
            image_identifier: Some(client.image(&image).await?),
            image_version: Some(version.clone()),
            build_id: Some(id.clone()),
        };
        let mut microvms = client.microvms();
        let answer = microvms.get_microvm_image_build(request);
        let build = client.call(format!("get build {id} of {image} {version}"), answer).await?;
        if out.json {
            out.json(&build)
        } else if out.quiet {
            out.line(&build.build_id)
        } else {
            out.text(&fields(&build))
        }
    }
}

fn fields(build: &GetMicrovmImageBuildResponse) -> String {
    let mut fields = Fields::default();
    fields.add("build", &*build.build_id);
    fields.add("image", format!("{} {}", resource_name(&build.image_arn), build.image_version));
    fields.add("state", build.build_state().as_str_name());
    fields.maybe("state reason", build.state_reason.as_deref());
    let chipset = build.chipset().as_str_name();
    let architecture = build.architecture().as_str_name();
    fields.add("processor", format!("{architecture} {chipset} {}", build.chipset_generation));
    fields.add("created", moment(build.created_at.as_ref()));
    if let Some(sizes) = &build.snapshot_build {
        fields.maybe("memory snapshot", sizes.memory_snapshot_size_in_bytes.map(bytes));
        fields.maybe("installed code", sizes.code_install_size_in_bytes.map(bytes));
        fields.maybe("disk snapshot", sizes.disk_snapshot_size_in_bytes.map(bytes));
    }
    fields.text()
}
