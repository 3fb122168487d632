//! Artifacts fetched from real servers on the loopback interface: an S3-compatible object store that checks signatures, Debian's
//! `docker-registry`, directories and files. Responses that no real server can be made to give come from a scripted one.

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

use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Mutex;

use hearth_image_builder::artifact::{Artifact, ArtifactConfig, ArtifactError, Fetcher, Progress};

/// Account of the fetches.
const ACCOUNT: &str = "000000000000";

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
    let fetcher = Fetcher::new(config).unwrap();
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
