//! Builds the two examples, and restores microVMs from their snapshots.

use std::fs;

use hearth_host::agent::exec::Event;
use hearth_host::shell::{self, Streams};
use hearth_image_builder::build::{LogStream, Step};
use hearth_image_builder::image::MANIFEST;
use hearth_model::hooks::Hooks;

use super::support::{RecordedEvents, Site, ask, seconds};

/// Most bytes on disk of a minimal app's memory, in the class of 512 MiB without burst (the goal of docs/performance.md).
const MINIMAL: u64 = 40 << 20;

#[tokio::test]
async fn a_static_binary_becomes_an_image_and_microvms_go_on_where_it_was() {
    let Some(site) = Site::new() else { return };
    let mut request = site.request(&site.metal.examples.join("counter"), "counter");
    request.hooks = Hooks { validate: seconds(60), run: seconds(60), ..request.hooks };
    request.environment.insert("GREETING".into(), "hello".into());
    // `/ready` is called again after 503.
    request.environment.insert("HOOK_READY".into(), "503,503,200".into());
    let (built, events) = site.build(&request).await;
    let image = built.unwrap();
    let manifest = image.manifest();
    let all = [
        Step::Fetch,
        Step::StartBuilder,
        Step::Build,
        Step::RootDisk,
        Step::Start,
        Step::Ready,
        Step::Snapshot,
        Step::Validate,
        Step::Commit,
    ];
    assert_eq!(events.finished(), all);
    assert_eq!(manifest.app.arguments, ["/counter"]);
    assert_eq!((manifest.shape.memory_mib, manifest.shape.vcpus, manifest.disk_bytes >> 30), (512, 1, 8));
    let sizes = manifest.sizes;
    println!("sizes: {sizes:?}");
    assert!(sizes.memory_snapshot_size_in_bytes <= MINIMAL, "{sizes:?}");
    assert!(sizes.code_install_size_in_bytes > 0 && sizes.disk_snapshot_size_in_bytes > 0, "{sizes:?}");
    assert!(image.folder().join("snapshot/working-set").is_file());
    let app = events.lines(LogStream::Snapshot);
    assert_eq!(app.first().map(String::as_str), Some("counter: starting"));
    assert_eq!(app.iter().filter(|line| line.contains("/ready")).count(), 3, "{app:?}");
    assert!(events.lines(LogStream::Validate).iter().any(|line| line.contains("/validate")));
    assert!(events.lines(LogStream::Build).iter().any(|line| line.contains("COPY counter")), "live log");

    // Two microVMs at once: both continue from the snapshot, neither sees the other.
    let unread = RecordedEvents::default();
    let (one, other) =
        (site.try_out(&image, "payload \"one\"", &unread).await, site.try_out(&image, "two", &unread).await);
    for expected in ["request 1 of", "request 2 of"] {
        assert!(ask(&one, "GET /").await.1.starts_with(expected));
    }
    assert!(ask(&other, "GET /").await.1.starts_with("request 1 of"));
    // This connection over loopback was opened before the snapshot.
    assert_eq!(ask(&one, "GET /loopback").await, (200, "round 1 over the same connection\n".into()));
    let run: serde_json::Value = serde_json::from_str(&ask(&one, "GET /run").await.1).unwrap();
    assert_eq!(run["runHookPayload"], "payload \"one\"");
    assert_eq!(run["microvmId"], one.id());
    let environment = ask(&other, "GET /environment").await.1;
    for line in
        ["GREETING=hello", "AWS_LAMBDA_MICROVM_IMAGE_NAME=counter", "AWS_REGION=eu-west-1", "HOME=/root"]
    {
        assert!(environment.lines().any(|found| found == line), "{line} in {environment}");
    }
    // An image does not change after its build.
    assert!(fs::metadata(image.folder().join(MANIFEST)).unwrap().len() > 0);
}

#[tokio::test]
async fn a_python_application_becomes_an_image_and_keeps_its_notes() {
    let Some(site) = Site::new() else { return };
    let mut request = site.request(&site.metal.examples.join("notes"), "notes");
    request.environment.insert("PATH".into(), "/srv/notes/bin:/usr/local/bin:/usr/bin:/bin".into());
    let (built, events) = site.build(&request).await;
    let image = built.unwrap();
    let app = &image.manifest().app;
    println!("sizes: {:?}", image.manifest().sizes);
    assert_eq!(app.arguments, ["python3", "app.py"]);
    assert_eq!((app.user.as_str(), app.working_directory.as_str()), ("notes", "/srv/notes"));
    assert!(app.environment.iter().any(|entry| entry == "NOTES_FILE=/var/lib/notes/notes.txt"));
    assert!(app.container.contains_key("ExposedPorts"), "{:?}", app.container);
    let lines = events.lines(LogStream::Snapshot);
    assert!(lines.iter().any(|line| line.starts_with("notes: listening")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.ends_with("as user 0")), "USER was not heeded: {lines:?}");

    let trial = site.try_out(&image, "", &RecordedEvents::default()).await;
    assert!(
        ask(&trial, "GET /").await.1.contains("<title>Notes from a microVM</title>"),
        "made by the first stage"
    );
    assert_eq!(ask(&trial, "POST /notes").await.0, 201);
    assert_eq!(ask(&trial, "GET /count").await.1, "1\n");

    // Debian's profile sets PATH anew, for root with more folders; a login shell, which is root's, has the image's in front.
    for streams in [Streams::Pipes, Streams::Terminal] {
        let (mut stdin, mut events) = trial.agent().exec(shell::program(&[], streams)).await.unwrap();
        stdin.write(b"echo \"PATH is $PATH\"; exit 4\n").await.unwrap();
        let mut shown = Vec::new();
        let exit = loop {
            match events.next().await.unwrap() {
                Event::Stdout(bytes) | Event::Stderr(bytes) => shown.extend(bytes),
                Event::Exited(exit) => break exit,
            }
        };
        let shown = String::from_utf8(shown).unwrap();
        assert!(
            shown.contains(
                "PATH is /srv/notes/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
            ),
            "{shown}"
        );
        assert_eq!(exit.code, 4, "{shown}");
    }
}
