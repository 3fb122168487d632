//! `hearth-image-builder`: builds base images and images by hand, and tries images out.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hearth_image_builder::artifact::WorkerArguments;

#[derive(Debug, Parser)]
#[command(name = "hearth-image-builder", about = "Builds base images and images", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Base(cli::base::Options),
    #[command(hide = true)]
    FetchWorker(WorkerArguments),
    Build(cli::build::Build),
    Run(cli::run::Run),
    Show(cli::show::Show),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::FetchWorker(worker) => return worker.run(),
        Task::Base(options) => options.run().map_err(anyhow::Error::from),
        Task::Build(build) => build.run(),
        Task::Run(run) => run.run(),
        Task::Show(show) => show.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_full(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, except those that are part of its own message.
fn in_full(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
