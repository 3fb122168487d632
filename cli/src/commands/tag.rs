//! `hearth tag`: tags of images.

use clap::Subcommand;
use hearth_proto::microvms::v1::{ListTagsRequest, TagResourceRequest, UntagResourceRequest};

use super::Context;
use crate::error::Failure;
use crate::out::Table;
use crate::parse;

/// Tags of images
#[derive(Debug, Subcommand)]
pub(crate) enum Tag {
    /// List an image's tags
    Ls {
        /// Name or ARN of the image
        image: String,
    },
    /// Add tags to an image, or replace their values
    Add {
        /// Name or ARN of the image
        image: String,
        /// KEY=VALUE
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse::pair)]
        tags: Vec<(String, String)>,
    },
    /// Remove tags from an image
    Rm {
        /// Name or ARN of the image
        image: String,
        /// Keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

impl Tag {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let (Self::Ls { image } | Self::Add { image, .. } | Self::Rm { image, .. }) = &self;
        let resource = Some(client.image(image).await?);
        let mut microvms = client.microvms();
        match self {
            Self::Ls { image } => {
                let answer = microvms.list_tags(ListTagsRequest { resource });
                let answer = client.call(format!("list the tags of {image}"), answer).await?;
                if context.out.json {
                    return context.out.json(&answer);
                }
                if context.out.quiet {
                    return context.out.lines(answer.tags.into_keys());
                }
                let mut table = Table::new(["KEY", "VALUE"]);
                answer.tags.into_iter().for_each(|(key, value)| table.row([key, value]));
                context.out.text(&table.text())
            }
            Self::Add { image, tags } => {
                let request = TagResourceRequest { resource, tags: tags.into_iter().collect() };
                let answer = client.call(format!("tag {image}"), microvms.tag_resource(request)).await?;
                if context.out.json { context.out.json(&answer) } else { Ok(()) }
            }
            Self::Rm { image, keys } => {
                let request = UntagResourceRequest { resource, tag_keys: keys };
                let answer = microvms.untag_resource(request);
                let answer = client.call(format!("remove tags of {image}"), answer).await?;
                if context.out.json { context.out.json(&answer) } else { Ok(()) }
            }
        }
    }
}
