//! Public projects: repositories as others write them – Dockerfiles in several stages, with cache mounts, `COPY --link`, `.dockerignore`,
//! `USER`, `HEALTHCHECK` – become images and run.
//!
//! Each project of `tests/projects/` is uploaded, built, launched, asked at its endpoint, suspended, asked again, which resumes it, and
//! terminated. `cargo xtask test` makes the images that the Dockerfiles begin with and chooses the projects; a registry serves these images
//! under their public names, and the daemon's configuration has it as a mirror of Docker Hub. They are a suite of their own on the metal.
//!
//! * [`registry`] – that registry, on a network of its own

mod registry;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended};
use hearth_proto::microvms::v1::{
    GetMicrovmImageRequest, GetMicrovmImageVersionRequest, IdlePolicy, MicrovmImageState, Resources,
    code_artifact,
};
use serde::Deserialize;

use crate::support::Daemon;
use crate::support::api::request;
use crate::support::endpoint::Endpoint;
use crate::support::site::{Site, pack};
use crate::support::until_within;
use registry::Registry;

/// What is expected of each project.
const PROJECTS: &str = include_str!("../../../../tests/projects/projects.json");
/// Deadline of a project's test, on the emulated metal.
const LIMIT: Duration = Duration::from_secs(480);

/// An entry of `projects.json`. `cargo xtask` reads the fields that are not here.
#[derive(Deserialize)]
struct Project {
    name: String,
    memory_mib: i32,
    /// What is asked of the app: a path at its port 8080.
    path: String,
    /// What is in the first answer, and what in the one after a suspend.
    expected: [String; 2],
}

/// Takes a project through its life.
async fn lives(name: &str) {
    let Some(site) = Site::get() else { return };
    let ended = tokio::time::timeout(LIMIT, life(site, name)).await;
    ended.unwrap_or_else(|_| panic!("{name} has not ended after {} s", LIMIT.as_secs()));
}

async fn life(site: &'static Site, name: &str) {
    let projects: Vec<Project> = serde_json::from_str(PROJECTS).unwrap();
    let project = projects.into_iter().find(|project| project.name == name).unwrap();
    let registry = Registry::start(&site.folder);
    let daemon =
        Daemon::start_on(site, &format!("builder.registry_mirrors = [{:?}]", registry.mirror())).await;
    let begin = Instant::now();
    let time = || format!("{:.0} s", begin.elapsed().as_secs_f64());

    let inputs = PathBuf::from(std::env::var_os("HEARTH_IN").expect("the folder of inputs"));
    let built = build(&daemon, name, &inputs.join("public-projects").join(name), project.memory_mib).await;
    assert_eq!(built, Ok(()), "{name} is built");
    assert!(registry.was_asked_for("/v2/"), "the mirror was asked");
    say(&format!("{name}: built after {}", time()));

    let mut wanted = request(name);
    wanted.ingress_network_connectors =
        vec!["arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:HTTP_INGRESS".into()];
    wanted.idle_policy = Some(IdlePolicy {
        max_idle_duration_seconds: Some(28_800),
        suspended_duration_seconds: Some(3600),
        auto_resume_enabled: Some(true),
    });
    let launched = daemon.launch(wanted).await.unwrap();
    let id = launched.microvm_id.as_str();
    daemon.wait(id, Running).await;
    let endpoint = Endpoint::of(&daemon, &launched).await;
    let [first, second] = &project.expected;
    let (status, answer) = endpoint.get(&project.path).await;
    assert!(status == 200 && answer.contains(first), "{name} answered {status} {answer:?}, not {first:?}");

    daemon.suspend(id).await.unwrap();
    daemon.wait(id, Suspended).await;
    let (status, answer) = endpoint.get(&project.path).await;
    assert!(status == 200 && answer.contains(second), "{name} answered {status} {answer:?}, not {second:?}");
    assert_eq!(daemon.get(id).await.unwrap().state(), Running, "the request has resumed it");

    daemon.terminate(id).await.unwrap();
    daemon.ended(id).await;
    daemon.finish().await;
    // The disk of the metal is in its memory: the next project gets all of it.
    std::fs::remove_dir_all(site.data()).unwrap();
    say(&format!("{name}: ended after {}", time()));
}

/// Builds an image from a folder; an error is the build's reason to fail.
async fn build(daemon: &Daemon, name: &str, folder: &Path, memory_mib: i32) -> Result<(), String> {
    let uri = daemon.upload(&pack(folder)).await;
    let mut create = daemon.image_request(name).await;
    create.code_artifact.as_mut().unwrap().artifact = Some(code_artifact::Artifact::Uri(uri));
    create.resources = vec![Resources { minimum_memory_in_mib: Some(memory_mib) }];
    create.hooks = None;
    daemon.api().create_microvm_image(create).await.unwrap();
    let get = GetMicrovmImageRequest { image_identifier: Some(name.into()) };
    let state = until_within(LIMIT, &format!("the image {name} is built"), async || {
        let state = daemon.api().get_microvm_image(get.clone()).await.unwrap().into_inner().state();
        (state != MicrovmImageState::Creating).then_some(state)
    })
    .await;
    if state == MicrovmImageState::Created {
        return Ok(());
    }
    let version = GetMicrovmImageVersionRequest {
        image_identifier: Some(name.into()),
        image_version: Some("1.0".into()),
    };
    let version = daemon.api().get_microvm_image_version(version).await.unwrap().into_inner();
    Err(version.state_reason.unwrap_or_default())
}

/// Prints a line that is shown of a test that passes, too.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Others may own names like those of the host's bases at a mirror, too.
#[tokio::test]
async fn names_of_the_host() {
    let Some(site) = Site::get() else { return };
    let registry = Registry::start(&site.folder);
    let daemon =
        Daemon::start_on(site, &format!("builder.registry_mirrors = [{:?}]", registry.mirror())).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM hearth/debian:99\n").unwrap();
    let reason = build(&daemon, "foreign", folder.path(), 512).await.unwrap_err();
    assert!(reason.contains("this host has no such container base"), "{reason}");
    assert!(!registry.was_asked_for("/v2/hearth/"), "a mirror was asked for a name of the host");
    daemon.finish().await;
}

#[tokio::test]
async fn nginx() {
    lives("nginx").await;
}

#[tokio::test]
async fn pages() {
    lives("pages").await;
}

#[tokio::test]
async fn python() {
    lives("python").await;
}

#[tokio::test]
async fn node() {
    lives("node").await;
}

#[tokio::test]
async fn postgres() {
    lives("postgres").await;
}

#[tokio::test]
async fn go() {
    lives("go").await;
}

#[tokio::test]
async fn java() {
    lives("java").await;
}

#[tokio::test]
async fn php() {
    lives("php").await;
}

#[tokio::test]
async fn rust() {
    lives("rust").await;
}

#[tokio::test]
async fn browser() {
    lives("browser").await;
}
