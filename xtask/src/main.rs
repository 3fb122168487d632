//! `cargo xtask`: the project's own tasks. Each task sets up everything it needs by itself, in one cache folder outside the
//! checkout (`HEARTH_CACHE`, else `~/.cache/hearth`).

#![forbid(unsafe_code)]

mod access;
mod aws_cli;
mod aws_model;
mod base;
mod bench;
mod cache;
mod command;
mod daemon;
mod demo;
mod file_system;
mod first_run;
mod fuzz;
mod golden;
mod guest_root;
mod images;
mod kernel;
mod lock;
mod metal;
mod mirrors;
mod modules;
mod packages;
mod parts;
mod private_apt;
mod progress;
mod projects;
mod python;
mod rocksdb;
mod test;
mod toolchain;
mod tools;
mod unpacked;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use cache::Cache;

/// Exit status of `metal` when the metal itself failed, as with other programs that run programs.
const METAL_FAILED: u8 = 125;

#[derive(Parser, Debug)]
#[command(name = "cargo xtask", about = "Builds, tests and measures Hearth")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    Metal(metal::options::Options),
    Kernel(kernel::Options),
    Base(base::Options),
    Test(test::Options),
    Soak(test::soak::Options),
    Demo(demo::Options),
    Bench(bench::Options),
    Golden(golden::Options),
    AwsModel(aws_model::Options),
}

fn main() -> ExitCode {
    progress::start();
    let arguments = Arguments::parse();
    let failed = match arguments.task {
        Task::Metal(_) => METAL_FAILED,
        _ => 1,
    };
    match run(arguments.task) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(failed)
        }
    }
}

fn run(task: Task) -> Result<u8> {
    let cache = Cache::open()?;
    match task {
        Task::Metal(options) => options.run(&cache),
        Task::Kernel(options) => options.run(&cache),
        Task::Base(options) => options.run(&cache),
        Task::Test(options) => options.run(&cache),
        Task::Soak(options) => options.run(&cache),
        Task::Demo(options) => options.run(&cache),
        Task::Bench(options) => options.run(&cache),
        Task::Golden(options) => options.run(&cache),
        Task::AwsModel(options) => options.run(&cache),
    }
}
