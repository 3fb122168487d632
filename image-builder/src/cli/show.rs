//! `hearth-image-builder show`: prints an image's description.

use std::path::PathBuf;

use clap::Args;
use hearth_image_builder::image::Image;

/// Prints what an image is, as JSON
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Folder of the image
    #[arg(value_name = "FOLDER")]
    image: PathBuf,
}

impl Show {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let image = Image::open(&self.image)?;
        println!("{}", serde_json::to_string_pretty(image.manifest())?);
        Ok(())
    }
}
