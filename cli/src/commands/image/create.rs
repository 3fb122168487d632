//! `hearth image create` and `update`.

use clap::Args;
use hearth_model::arn::resource_name;
use hearth_proto::microvms::v1::{
    CreateMicrovmImageRequest, GetMicrovmImageVersionRequest, MicrovmImageDetails, UpdateMicrovmImageRequest,
};

use super::super::Context;
use super::options::VersionOptions;
use super::{before, watch};
use crate::error::Failure;
use crate::live::OutputStream;
use crate::parse;

/// Create an image and watch the build of its version 1.0
///
/// A folder or zip here is uploaded first; it needs a Dockerfile. The exit status is 1 when the build fails.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the image
    name: String,
    /// A folder or a zip with a Dockerfile, s3://BUCKET/KEY, or the name of a container image
    artifact: String,
    /// A tag; may be repeated
    #[arg(long = "tag", short, value_name = "KEY=VALUE", value_parser = parse::pair)]
    tags: Vec<(String, String)>,
    #[command(flatten)]
    options: VersionOptions,
}

/// Build the next version of an image and watch it
///
/// Nothing is taken over from the version before – memory, hooks, variables and all else must be given again –, unless --keep
/// says so. What is not given again is listed before the build.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name or ARN of the image
    image: String,
    /// A folder or a zip with a Dockerfile, s3://BUCKET/KEY, or the name of a container image
    artifact: String,
    /// Take over what is not given from the newest active version, or the newest if none is active; the base's version is the
    /// newest all the same
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    options: VersionOptions,
}

impl Create {
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.options.check(&self.artifact)
    }

    pub(super) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let given = self.options.given(context, String::new()).await?;
        let version = self.options.complete(context, (&self.name, &self.artifact), given).await?;
        let request = CreateMicrovmImageRequest {
            name: Some(self.name.clone()),
            base_image_arn: version.base_image_arn,
            base_image_version: version.base_image_version,
            build_role_arn: version.build_role_arn,
            code_artifact: version.code_artifact,
            description: version.description,
            resources: version.resources,
            cpu_configurations: version.cpu_configurations,
            hooks: version.hooks,
            environment_variables: version.environment_variables,
            egress_network_connectors: version.egress_network_connectors,
            additional_os_capabilities: version.additional_os_capabilities,
            logging: version.logging,
            tags: self.tags.into_iter().collect(),
            client_token: version.client_token,
            kms_key_identifier: version.kms_key_identifier,
        };
        let mut microvms = client.microvms();
        let answer = microvms.create_microvm_image(request);
        let image = client.call(format!("create the image {}", self.name), answer).await?;
        follow(context, image, self.options.detach).await
    }
}

impl Update {
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.options.check(&self.artifact)
    }

    pub(super) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let image = client.image(&self.image).await?;
        let before = before::version(client, &image, self.keep).await?;
        let mut given = self.options.given(context, image).await?;
        match &before {
            Some(before) if self.keep => before::keep(&mut given, before, self.options.has_hooks_port()),
            Some(before) if !context.out.quiet => before::warn(&self.image, &given, before)?,
            _ => {}
        }
        let request: UpdateMicrovmImageRequest =
            self.options.complete(context, (&self.image, &self.artifact), given).await?;
        let mut microvms = client.microvms();
        let answer = microvms.update_microvm_image(request);
        let image = client.call(format!("update the image {}", self.image), answer).await?;
        follow(context, image, self.options.detach).await
    }
}

/// Watches the build unless `detach` is set, and prints the result.
async fn follow(context: &Context, image: MicrovmImageDetails, detach: bool) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    if detach {
        return if out.json {
            out.json(&image)
        } else if out.quiet {
            out.line(&image.name)
        } else {
            let state = image.state().as_str_name();
            out.line(&format!("{} {} {state}; hearth image watch {0}", image.name, image.image_version))
        };
    }
    let follow = watch::Follow { arn: &image.image_arn, version: Some(&image.image_version) };
    follow.until_built(context, OutputStream::Stderr, false).await?;
    if out.json {
        let request = GetMicrovmImageVersionRequest {
            image_identifier: Some(image.image_arn.clone()),
            image_version: Some(image.image_version.clone()),
        };
        let mut microvms = client.microvms();
        let answer = microvms.get_microvm_image_version(request);
        return out.json(&client.call(format!("get {}", image.name), answer).await?);
    }
    let name = resource_name(&image.image_arn);
    if out.quiet {
        out.line(name)
    } else {
        out.line(&format!("{name} {} is ready; hearth run {name}", image.image_version))
    }
}
