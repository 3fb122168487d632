//! `hearth ps`: the account's microVMs.

use clap::Args;
use hearth_model::arn::resource_name;
use hearth_proto::microvms::v1::{ListMicrovmsResponse, MicrovmState};

use super::Context;
use crate::error::Failure;
use crate::names::with_version;
use crate::out::{Table, age};

/// List microVMs, newest first
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Those that have been terminated, too: they are kept for a day
    #[arg(long, short)]
    all: bool,
    /// Only those of an image: NAME, NAME:VERSION or ARN
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Only those in a state; may be repeated
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Vec<MicrovmState>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<usize>,
}

fn state(text: &str) -> Result<MicrovmState, String> {
    let found = MicrovmState::from_str_name(&text.to_uppercase());
    found.filter(|state| *state != MicrovmState::Unspecified).ok_or_else(|| {
        "states are PENDING, RUNNING, SUSPENDING, SUSPENDED, TERMINATING and TERMINATED".to_owned()
    })
}

impl Ps {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let image = match &self.image {
            Some(image) => {
                let (name, version) = with_version(image);
                Some((client.image(name).await?, version.map(str::to_owned)))
            }
            None => None,
        };
        let mut items = client.all_microvms(image, None).await?;
        items.retain(|item| {
            if self.state.is_empty() {
                self.all || item.state() != MicrovmState::Terminated
            } else {
                self.state.contains(&item.state())
            }
        });
        items.truncate(self.limit.unwrap_or(usize::MAX));
        let out = context.out;
        if out.json {
            return out.json(&ListMicrovmsResponse { items, next_token: None });
        }
        if out.quiet {
            return out.lines(items.iter().map(|item| &item.microvm_id));
        }
        let mut table = Table::new(["ID", "IMAGE", "VERSION", "STATE", "AGE"]);
        for item in items {
            let state = item.state().as_str_name().to_owned();
            let image = resource_name(&item.image_arn).to_owned();
            table.row([item.microvm_id, image, item.image_version, state, age(item.started_at.as_ref())]);
        }
        out.text(&table.text())
    }
}
