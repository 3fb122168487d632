//! Options of an image's version.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hearth_model::arn::resource_name;
use hearth_proto::microvms::v1::code_artifact::Artifact as Source;
use hearth_proto::microvms::v1::{
    Architecture, Capability, CodeArtifact, CpuConfiguration, Resources, UpdateMicrovmImageRequest,
};

use super::super::Context;
use super::super::run::LoggingOptions;
use super::hooks::HookOptions;
use crate::error::Failure;
use crate::names::with_version;
use crate::parse;
use crate::upload::Artifact;

#[derive(Debug, Args)]
pub(super) struct VersionOptions {
    /// Memory in MiB: 512, 1024, 2048 (the default), 4096 or 8192
    #[arg(long, value_name = "MIB")]
    memory: Option<i32>,
    /// A variable for the app; may be repeated
    #[arg(long = "env", short, value_name = "NAME=VALUE", value_parser = parse::pair)]
    environment: Vec<(String, String)>,
    /// A file with variables for the app, NAME=VALUE on each line; --env comes before it
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Base image: NAME, NAME:VERSION or ARN; the newest unless given
    #[arg(long, value_name = "BASE")]
    base: Option<String>,
    /// Version of the base image; the newest unless given
    #[arg(long, value_name = "VERSION")]
    base_version: Option<String>,
    /// Role with whose credentials the artifact is fetched: a name or an ARN; hearth-build unless given
    #[arg(long, value_name = "ROLE")]
    build_role: Option<String>,
    /// What build and app may reach: internet (the default), none, or an ARN
    #[arg(long, value_name = "CONNECTOR")]
    egress: Option<String>,
    /// All capabilities for the app (additionalOsCapabilities: ALL)
    #[arg(long)]
    all_capabilities: bool,
    /// Processor architecture
    #[arg(long, value_enum)]
    architecture: Option<ArchitectureName>,
    #[command(flatten)]
    hooks: HookOptions,
    #[command(flatten)]
    logging: LoggingOptions,
    /// The same request with the same token gives the same answer
    #[arg(long, value_name = "TOKEN")]
    client_token: Option<String>,
    /// Do not watch the build
    #[arg(long, short)]
    pub(super) detach: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ArchitectureName {
    #[value(name = "ARM_64", alias = "arm64", alias = "aarch64")]
    Arm64,
    #[value(name = "X86_64", alias = "amd64")]
    X8664,
}

impl VersionOptions {
    /// The request with what the options say, and nothing else: no defaults, and no artifact.
    pub(super) async fn given(
        &self,
        context: &Context,
        image_identifier: String,
    ) -> Result<UpdateMicrovmImageRequest, Failure> {
        let client = &context.client;
        let environment_variables = self.environment()?;
        let (base, base_version) = self.base.as_deref().map(with_version).unzip();
        let base_image_version = self.base_version.clone().or(base_version.flatten().map(str::to_owned));
        let base_image_arn = match base {
            Some(base) => Some(client.base(base).await?),
            None => None,
        };
        let build_role_arn = match &self.build_role {
            Some(role) => Some(client.role(role).await?),
            None => None,
        };
        let egress: Vec<_> = self.egress.iter().cloned().collect();
        let egress_network_connectors = client.connectors(&egress).await?;
        let architecture = self.architecture.map(|name| match name {
            ArchitectureName::Arm64 => Architecture::Arm64,
            ArchitectureName::X8664 => Architecture::X8664,
        });
        let cpu = |name: Architecture| CpuConfiguration { architecture: Some(name.into()) };
        let capabilities = if self.all_capabilities { vec![Capability::All.into()] } else { Vec::new() };
        let resources = self.memory.map(|mib| Resources { minimum_memory_in_mib: Some(mib) });
        Ok(UpdateMicrovmImageRequest {
            image_identifier: Some(image_identifier),
            base_image_arn,
            base_image_version,
            build_role_arn,
            code_artifact: None,
            description: self.description.clone(),
            resources: resources.into_iter().collect(),
            cpu_configurations: architecture.map(cpu).into_iter().collect(),
            hooks: self.hooks.hooks(),
            environment_variables,
            egress_network_connectors,
            additional_os_capabilities: capabilities,
            logging: self.logging.logging(),
            client_token: self.client_token.clone(),
            kms_key_identifier: None,
        })
    }

    /// The request that is sent: with the defaults of what is still missing, and with the artifact, which is uploaded if necessary.
    pub(super) async fn complete(
        &self,
        context: &Context,
        (image, artifact): (&str, &str),
        given: UpdateMicrovmImageRequest,
    ) -> Result<UpdateMicrovmImageRequest, Failure> {
        let client = &context.client;
        let base_image_arn = match given.base_image_arn {
            Some(base) => base,
            None => client.base_or_newest(None).await?,
        };
        let build_role_arn = match given.build_role_arn {
            Some(role) => role,
            None => client.build_role(None).await?,
        };
        let uri = Artifact::find(artifact)?.uri(client, resource_name(image), context.out.quiet).await?;
        Ok(UpdateMicrovmImageRequest {
            base_image_arn: Some(base_image_arn),
            build_role_arn: Some(build_role_arn),
            code_artifact: Some(CodeArtifact { artifact: Some(Source::Uri(uri)) }),
            ..given
        })
    }

    /// Whether the port of hooks is given.
    pub(super) fn has_hooks_port(&self) -> bool {
        self.hooks.has_port()
    }

    /// Checks the options as far as possible without a request.
    pub(super) fn check(&self, artifact: &str) -> Result<(), Failure> {
        self.environment()?;
        Artifact::find(artifact).map(|_| ())
    }

    fn environment(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut variables = BTreeMap::new();
        for path in &self.env_file {
            let wrong = |why: String| Failure::usage(format!("cannot use {}: {why}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            variables.extend(parse::env_file(&text).map_err(wrong)?);
        }
        variables.extend(self.environment.iter().cloned());
        Ok(variables)
    }
}
