//! `hearth image versions` and `version`.

use clap::{Args, Subcommand};
use hearth_model::arn::resource_name;
use hearth_proto::microvms::v1::code_artifact::Artifact;
use hearth_proto::microvms::v1::logging::Logging as Destination;
use hearth_proto::microvms::v1::{
    DeleteMicrovmImageVersionRequest, GetMicrovmImageVersionRequest, ListMicrovmImageVersionsRequest,
    ListMicrovmImageVersionsResponse, MicrovmImageVersion, MicrovmImageVersionStatus,
    UpdateMicrovmImageVersionRequest,
};

use super::super::Context;
use super::super::get::connectors;
use super::hooks::describe;
use super::list::tags;
use crate::connect::Client;
use crate::error::Failure;
use crate::out::{Fields, Table, age, moment};
use crate::pages::{self, PAGE};

/// A version of an image
#[derive(Debug, Subcommand)]
pub(crate) enum Version {
    /// Show a version
    Get(VersionSelector),
    /// Let microVMs be run of a version
    Activate(VersionSelector),
    /// Let no more microVMs be run of a version
    Deactivate(VersionSelector),
    /// Delete a version; not the last one of an image
    Rm(VersionSelector),
}

/// Which version.
#[derive(Debug, Args)]
pub(crate) struct VersionSelector {
    /// Name or ARN of the image
    image: String,
    /// The version, like 1.0
    version: String,
}

impl Client {
    /// The versions of an image by its ARN, newest first.
    pub(super) async fn versions(
        &self,
        arn: &str,
        limit: Option<usize>,
    ) -> Result<Vec<MicrovmImageVersion>, Failure> {
        pages::all(limit, async |next_token| {
            let request = ListMicrovmImageVersionsRequest {
                image_identifier: Some(arn.to_owned()),
                max_results: Some(PAGE),
                next_token,
            };
            let mut microvms = self.microvms();
            let answer = microvms.list_microvm_image_versions(request);
            let answer = self.call(format!("list the versions of {}", resource_name(arn)), answer).await?;
            Ok((answer.items, answer.next_token))
        })
        .await
    }
}

pub(super) async fn list(context: &Context, image: &str) -> Result<(), Failure> {
    let arn = context.client.image(image).await?;
    let items = context.client.versions(&arn, None).await?;
    let out = context.out;
    if out.json {
        return out.json(&ListMicrovmImageVersionsResponse { items, next_token: None });
    }
    if out.quiet {
        return out.lines(items.iter().map(|item| &item.image_version));
    }
    let mut table = Table::new(["VERSION", "STATE", "STATUS", "MEMORY", "BASE", "AGE", "REASON"]);
    for item in items {
        let memory = item.resources.first().and_then(|resources| resources.minimum_memory_in_mib);
        table.row([
            item.image_version.clone(),
            item.state().as_str_name().to_owned(),
            item.status().as_str_name().to_owned(),
            memory.map(|mib| format!("{mib} MiB")).unwrap_or_default(),
            base(&item),
            age(item.created_at.as_ref()),
            item.state_reason.clone().unwrap_or_default(),
        ]);
    }
    out.text(&table.text())
}

fn base(version: &MicrovmImageVersion) -> String {
    let name = resource_name(&version.base_image_arn);
    match &version.base_image_version {
        Some(version) => format!("{name}:{version}"),
        None => name.to_owned(),
    }
}

impl Version {
    pub(super) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let (client, out) = (&context.client, context.out);
        let (Self::Get(which) | Self::Activate(which) | Self::Deactivate(which) | Self::Rm(which)) = &self;
        let image_identifier = Some(client.image(&which.image).await?);
        let image_version = Some(which.version.clone());
        let name = format!("{} {}", which.image, which.version);
        let mut microvms = client.microvms();
        let status = match self {
            Self::Get(_) => {
                let request = GetMicrovmImageVersionRequest { image_identifier, image_version };
                let answer = microvms.get_microvm_image_version(request);
                let version = client.call(format!("get {name}"), answer).await?;
                return if out.json {
                    out.json(&version)
                } else if out.quiet {
                    out.line(&version.image_version)
                } else {
                    out.text(&fields(&version))
                };
            }
            Self::Rm(_) => {
                let request = DeleteMicrovmImageVersionRequest { image_identifier, image_version };
                let answer = microvms.delete_microvm_image_version(request);
                let answer = client.call(format!("delete {name}"), answer).await?;
                return if out.json { out.json(&answer) } else { out.line(&answer.image_version) };
            }
            Self::Activate(_) => MicrovmImageVersionStatus::Active,
            Self::Deactivate(_) => MicrovmImageVersionStatus::Inactive,
        };
        let request =
            UpdateMicrovmImageVersionRequest { image_identifier, image_version, status: Some(status.into()) };
        let what = if status == MicrovmImageVersionStatus::Active { "activate" } else { "deactivate" };
        let answer = microvms.update_microvm_image_version(request);
        let version = client.call(format!("{what} {name}"), answer).await?;
        if out.json { out.json(&version) } else { out.line(&version.image_version) }
    }
}

fn fields(version: &MicrovmImageVersion) -> String {
    let mut fields = Fields::default();
    fields.add("image", &*version.image_arn);
    fields.add("version", &*version.image_version);
    fields.add("state", version.state().as_str_name());
    fields.maybe("state reason", version.state_reason.as_deref());
    fields.add("status", version.status().as_str_name());
    fields.maybe("description", version.description.as_deref());
    fields.add("created", moment(version.created_at.as_ref()));
    fields.add("updated", moment(version.updated_at.as_ref()));
    if let Some(Artifact::Uri(uri)) = version.code_artifact.as_ref().and_then(|code| code.artifact.as_ref()) {
        fields.add("artifact", &**uri);
    }
    fields.add("base", base(version));
    fields.add("build role", &*version.build_role_arn);
    let memory = version.resources.first().and_then(|resources| resources.minimum_memory_in_mib);
    fields.maybe("memory", memory.map(|mib| format!("{mib} MiB")));
    let cpus: Vec<_> =
        version.cpu_configurations.iter().map(|cpu| cpu.architecture().as_str_name()).collect();
    fields.add("architecture", cpus.join(", "));
    let capabilities: Vec<_> =
        version.additional_os_capabilities().map(|capability| capability.as_str_name()).collect();
    fields.add("capabilities", capabilities.join(", "));
    fields.maybe("hooks", version.hooks.as_ref().map(describe));
    // Values may be secret, so only names are printed; --json prints both.
    fields.add("variables", version.environment_variables.keys().cloned().collect::<Vec<_>>().join(", "));
    fields.add("egress", connectors(&version.egress_network_connectors));
    match version.logging.as_ref().and_then(|logging| logging.logging.as_ref()) {
        Some(Destination::Disabled(_)) => fields.add("logging", "disabled"),
        Some(Destination::CloudWatch(logs)) => {
            let places = logs.log_group.iter().chain(&logs.log_stream).cloned();
            fields.add("logging", places.collect::<Vec<_>>().join(" "));
        }
        None => {}
    }
    fields.add("tags", tags(&version.tags));
    fields.text()
}
