//! `hearth image ls`, `get` and `rm`.

use clap::Args;
use hearth_proto::microvms::v1::{
    DeleteMicrovmImageRequest, GetMicrovmImageRequest, GetMicrovmImageResponse, ListMicrovmImagesRequest,
    ListMicrovmImagesResponse,
};

use super::super::Context;
use crate::error::Failure;
use crate::out::{Fields, Table, age, moment};
use crate::pages::{self, PAGE};

/// List images
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only those whose name contains this
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<usize>,
}

impl Ls {
    pub(super) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let items = pages::all(self.limit, async |next_token| {
            let name_filter = self.filter.clone();
            let request = ListMicrovmImagesRequest { max_results: Some(PAGE), next_token, name_filter };
            let mut microvms = client.microvms();
            let answer = client.call("list images", microvms.list_microvm_images(request)).await?;
            Ok((answer.items, answer.next_token))
        })
        .await?;
        let out = context.out;
        if out.json {
            return out.json(&ListMicrovmImagesResponse { items, next_token: None });
        }
        if out.quiet {
            return out.lines(items.iter().map(|item| &item.name));
        }
        let mut table = Table::new(["NAME", "STATE", "ACTIVE", "FAILED", "AGE"]);
        for item in items {
            let state = item.state().as_str_name().to_owned();
            let active = item.latest_active_image_version.unwrap_or_default();
            let failed = item.latest_failed_image_version.unwrap_or_default();
            table.row([item.name, state, active, failed, age(item.created_at.as_ref())]);
        }
        out.text(&table.text())
    }
}

pub(super) async fn get(context: &Context, name: &str) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    let request = GetMicrovmImageRequest { image_identifier: Some(client.image(name).await?) };
    let mut microvms = client.microvms();
    let image = client.call(format!("get the image {name}"), microvms.get_microvm_image(request)).await?;
    if out.json {
        out.json(&image)
    } else if out.quiet {
        out.line(&image.name)
    } else {
        out.text(&fields(&image))
    }
}

fn fields(image: &GetMicrovmImageResponse) -> String {
    let mut fields = Fields::default();
    fields.add("name", &*image.name);
    fields.add("arn", &*image.image_arn);
    fields.add("state", image.state().as_str_name());
    fields.maybe("active version", image.latest_active_image_version.as_deref());
    fields.maybe("failed version", image.latest_failed_image_version.as_deref());
    fields.add("created", moment(image.created_at.as_ref()));
    fields.add("updated", moment(image.updated_at.as_ref()));
    fields.add("tags", tags(&image.tags));
    fields.text()
}

pub(super) fn tags(tags: &std::collections::BTreeMap<String, String>) -> String {
    tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// Removes all of them, even if one fails.
pub(super) async fn remove(context: &Context, names: &[String]) -> Result<(), Failure> {
    let client = &context.client;
    let mut answers = Vec::new();
    let mut failed: Option<Failure> = None;
    for name in names {
        let request = DeleteMicrovmImageRequest { image_identifier: Some(client.image(name).await?) };
        let mut microvms = client.microvms();
        let answer = microvms.delete_microvm_image(request);
        match client.call(format!("delete the image {name}"), answer).await {
            Ok(answer) if context.out.json => answers.push(answer),
            Ok(_) => context.out.line(name)?,
            Err(failure) => {
                if failed.is_some() {
                    failure.report();
                } else {
                    failed = Some(failure);
                }
            }
        }
    }
    if context.out.json {
        context.out.json_list(&answers)?;
    }
    failed.map_or(Ok(()), Err)
}
