//! `hearth-image-builder`: builds base images and images by hand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hearth_image_builder::base;

#[derive(Debug, Parser)]
#[command(name = "hearth-image-builder", about = "Builds base images and images", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Base(base::cli::Options),
}

fn main() -> ExitCode {
    let Task::Base(options) = Arguments::parse().task;
    match options.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
