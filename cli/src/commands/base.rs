//! `hearth base`: the base images of the host.

use clap::Subcommand;
use hearth_model::arn::resource_name;
use hearth_proto::microvms::v1::{
    ListManagedMicrovmImageVersionsRequest, ListManagedMicrovmImageVersionsResponse,
    ListManagedMicrovmImagesRequest, ListManagedMicrovmImagesResponse, ManagedMicrovmImageSummary,
};

use super::Context;
use crate::connect::Client;
use crate::error::Failure;
use crate::out::{Table, age};
use crate::pages::{self, PAGE};

/// Base images of the host
#[derive(Debug, Subcommand)]
pub(crate) enum Base {
    /// List base images
    Ls,
    /// List the versions of a base image, newest first
    Versions {
        /// Name or ARN of the base image; the newest unless given
        base: Option<String>,
    },
}

impl Client {
    pub(crate) async fn bases(&self) -> Result<Vec<ManagedMicrovmImageSummary>, Failure> {
        pages::all(None, async |next_token| {
            let request = ListManagedMicrovmImagesRequest { max_results: Some(PAGE), next_token };
            let mut microvms = self.microvms();
            let answer = self.call("list base images", microvms.list_managed_microvm_images(request)).await?;
            Ok((answer.items, answer.next_token))
        })
        .await
    }

    /// The ARN of a base image: the named one, or the newest.
    pub(crate) async fn base_or_newest(&self, name: Option<&str>) -> Result<String, Failure> {
        if let Some(name) = name {
            return self.base(name).await;
        }
        let made = |base: &ManagedMicrovmImageSummary| {
            base.created_at.map(|moment| (moment.seconds, moment.nanos)).unwrap_or_default()
        };
        let newest = self.bases().await?.into_iter().max_by_key(made);
        newest.map(|base| base.image_arn).ok_or_else(|| {
            Failure::failed(
                "the host has no base image; make one there with `hearth-image-builder base build`",
            )
        })
    }
}

impl Base {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Ls => list(context).await,
            Self::Versions { base } => versions(context, base.as_deref()).await,
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let items = context.client.bases().await?;
    let out = context.out;
    if out.json {
        return out.json(&ListManagedMicrovmImagesResponse { items, next_token: None });
    }
    if out.quiet {
        return out.lines(items.iter().map(|item| resource_name(&item.image_arn)));
    }
    let mut table = Table::new(["NAME", "CREATED", "UPDATED"]);
    for item in items {
        let name = resource_name(&item.image_arn).to_owned();
        table.row([name, age(item.created_at.as_ref()), age(item.updated_at.as_ref())]);
    }
    out.text(&table.text())
}

async fn versions(context: &Context, base: Option<&str>) -> Result<(), Failure> {
    let client = &context.client;
    let arn = client.base_or_newest(base).await?;
    let items = pages::all(None, async |next_token| {
        let request = ListManagedMicrovmImageVersionsRequest {
            image_identifier: Some(arn.clone()),
            max_results: Some(PAGE),
            next_token,
        };
        let mut microvms = client.microvms();
        let answer = microvms.list_managed_microvm_image_versions(request);
        let answer = client.call(format!("list the versions of {}", resource_name(&arn)), answer).await?;
        Ok((answer.items, answer.next_token))
    })
    .await?;
    let out = context.out;
    if out.json {
        return out.json(&ListManagedMicrovmImageVersionsResponse { items, next_token: None });
    }
    if out.quiet {
        return out.lines(items.iter().map(|item| &item.image_version));
    }
    let mut table = Table::new(["NAME", "VERSION", "CREATED", "UPDATED"]);
    for item in items {
        let (created, updated) = (age(item.created_at.as_ref()), age(item.updated_at.as_ref()));
        table.row([resource_name(&item.image_arn).to_owned(), item.image_version, created, updated]);
    }
    out.text(&table.text())
}
