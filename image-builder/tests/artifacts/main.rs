//! Artifacts fetched from real servers on the loopback interface: an S3-compatible object store that checks signatures, Debian's
//! `docker-registry`, directories and files. Responses that no real server can be made to give come from a scripted one.
//!
//! Each fetch is done by a worker, the program `hearth-image-builder`. As root it has all of its walls, as they are on a host.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod local;
mod registry;
mod s3;
mod servers;
mod walls;
mod web;

use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::sync::Mutex;

use hearth_image_builder::artifact::{
    Artifact, ArtifactConfig, ArtifactError, Fetcher, Progress, WorkerConfig,
};
use hearth_vmm_jail::{JailConfig, Wall};

/// Account of the fetches.
const ACCOUNT: &str = "000000000000";

/// How workers are started: with all walls that this user can put up.
fn worker() -> WorkerConfig {
    let mut jail = JailConfig::default();
    if !rustix::process::geteuid().is_root() {
        // The tests of the walls themselves say so (`walls.rs`).
        jail.off = [Wall::Network, Wall::Ipc, Wall::Root, Wall::Privileges].into();
    }
    WorkerConfig {
        program: env!("CARGO_BIN_EXE_hearth-image-builder").into(),
        jail,
        ..WorkerConfig::default()
    }
}

fn fetcher(config: ArtifactConfig) -> Fetcher {
    Fetcher::new(config).unwrap().with_worker(worker())
}

/// The tar that an artifact becomes for a builder microVM.
async fn tar_of(fetcher: &Fetcher, artifact: &Artifact, work: &Path) -> Result<Vec<u8>, ArtifactError> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    fetcher.send(artifact, work, writer.into()).await?;
    Ok(reading.join().unwrap())
}

/// A zip from which an image could be built.
fn small_zip() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in [("Dockerfile", "FROM scratch\nCOPY app /\n"), ("app", "an app")] {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Result of a fetch, and its reported progress.
async fn fetch_into(
    config: ArtifactConfig,
    uri: &str,
    work: &Path,
) -> (Result<Artifact, ArtifactError>, Vec<Progress>) {
    let fetcher = fetcher(config);
    let source = fetcher.source(uri, ACCOUNT).unwrap();
    let told = Mutex::new(Vec::new());
    let fetched =
        fetcher.fetch(&source, ACCOUNT, None, work, &|progress| told.lock().unwrap().push(progress)).await;
    (fetched, told.into_inner().unwrap())
}

/// The `stateReason` of a fetch that fails.
async fn reason(config: ArtifactConfig, uri: &str) -> String {
    let work = tempfile::tempdir().unwrap();
    let (fetched, _) = fetch_into(config, uri, work.path()).await;
    fetched.expect_err(uri).state_reason().to_string()
}
