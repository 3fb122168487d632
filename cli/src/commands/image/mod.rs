//! `hearth image`: images, their versions and builds.
//!
//! * [`create`] – create and update; [`options`] – options of both; [`hooks`] – options of hooks; [`before`] – what an update takes over
//! * [`list`] – ls, get, rm
//! * [`versions`] – versions; [`builds`] – builds
//! * [`watch`] – a build under way

mod before;
mod builds;
mod create;
mod hooks;
mod list;
mod options;
mod versions;
mod watch;

use clap::Subcommand;

use super::Context;
use crate::error::Failure;

/// Images: create, update, look at and delete them
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    Create(Box<create::Create>),
    Update(Box<create::Update>),
    /// List images
    Ls(list::Ls),
    /// Show an image
    Get {
        /// Name or ARN
        image: String,
    },
    /// Delete images with all their versions; running microVMs go on
    Rm {
        /// Names or ARNs
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// List the versions of an image, newest first
    Versions {
        /// Name or ARN
        image: String,
    },
    /// A version of an image
    #[command(subcommand)]
    Version(versions::Version),
    /// List the builds of a version
    Builds {
        /// Name or ARN
        image: String,
        /// The version; the newest unless given
        version: Option<String>,
    },
    /// A build of a version
    #[command(subcommand)]
    Build(builds::Build),
    Watch(watch::Watch),
}

impl Image {
    /// Checks the command line as far as possible without a request.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.check(),
            Self::Update(update) => update.check(),
            _ => Ok(()),
        }
    }

    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.execute(context).await,
            Self::Update(update) => update.execute(context).await,
            Self::Ls(ls) => ls.execute(context).await,
            Self::Get { image } => list::get(context, &image).await,
            Self::Rm { images } => list::remove(context, &images).await,
            Self::Versions { image } => versions::list(context, &image).await,
            Self::Version(version) => version.execute(context).await,
            Self::Builds { image, version } => builds::list(context, &image, version).await,
            Self::Build(build) => build.execute(context).await,
            Self::Watch(watch) => watch.execute(context).await,
        }
    }
}
