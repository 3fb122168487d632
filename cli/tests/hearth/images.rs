//! Images, from the command line.

use std::io::{Cursor, Read as _};
use std::os::unix::fs::PermissionsExt as _;

use crate::daemon::IMAGE;
use crate::support::Host;
use hearth_proto::host::v1::ArtifactLimits;
use hearth_proto::microvms::v1::code_artifact::Artifact;
use serde_json::json;

/// A folder with an app, in the daemon's folder.
fn folder(host: &Host) -> String {
    let folder = host.folder.path().join("app");
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    std::fs::write(folder.join("bin/run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(folder.join("bin/run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // More bytes than fit into one message, which cannot be compressed.
    let mut noise: u64 = 1;
    let bytes = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.to_be_bytes()[0]
    });
    std::fs::write(folder.join("data"), bytes.take(700_000).collect::<Vec<u8>>()).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_folder_is_uploaded_as_a_zip_and_its_build_is_watched() {
    let host = Host::start();
    let done = host.run(&format!("image create demo {}", folder(&host))).await;
    assert_eq!(done.status, 0, "{}", done.err);
    assert_eq!(done.out, "demo 1.0 is ready; hearth run demo\n");
    assert_eq!(
        done.err,
        "[   0.0 s] build the container image …\n           build | #1 FROM scratch\n\
         [   2.0 s] ✓ build the container image (2.0 s)\n\
         [   2.1 s] ✓ SUCCESSFUL: memory 5.0 MiB, code 1.5 KiB, disk 12 B\n"
    );
    let mut seen = host.daemon.seen.lock().unwrap();
    let (name, bytes) = seen.artifact.take().unwrap();
    assert_eq!(name, "demo.zip");
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut names: Vec<_> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["Dockerfile", "bin/", "bin/run", "data"]);
    assert_eq!(zip.by_name("bin/run").unwrap().unix_mode().unwrap() & 0o777, 0o755);
    let mut data = Vec::new();
    zip.by_name("data").unwrap().read_to_end(&mut data).unwrap();
    assert_eq!(data.len(), 700_000);

    let created = seen.created.take().unwrap();
    assert_eq!(
        created.base_image_arn.as_deref(),
        Some("arn:aws:lambda:eu-test-1:aws:microvm-image:al2023-1")
    );
    assert_eq!(created.build_role_arn.as_deref(), Some("arn:aws:iam::123456789012:role/hearth-build"));
    let uri = created.code_artifact.unwrap().artifact.unwrap();
    assert_eq!(uri, Artifact::Uri("s3://hearth/uploaded.zip".into()));
    assert_eq!((created.resources.len(), created.hooks, created.description), (0, None, None));
}

#[tokio::test]
async fn every_member_of_a_version_can_be_said() {
    let host = Host::start();
    std::fs::write(host.folder.path().join("env"), "A=1\nB=2\n").unwrap();
    let words = format!(
        "image create demo s3://b/k --detach --memory 512 --env A=3 --env-file {}/env --tag k=v --description d \
         --base other:4 --build-role r --egress none --all-capabilities --architecture ARM_64 --ready=120 --run \
         --hooks-port 8000 --no-logs --client-token t",
        host.folder.path().display()
    );
    assert_eq!(host.out(&words).await, "demo 1.0 CREATING; hearth image watch demo\n");
    let seen = host.daemon.seen.lock().unwrap().created.take().unwrap();
    assert_eq!(seen.resources[0].minimum_memory_in_mib, Some(512));
    assert_eq!(seen.environment_variables, [("A".into(), "3".into()), ("B".into(), "2".into())].into());
    assert_eq!(seen.tags, [("k".into(), "v".into())].into());
    assert_eq!(seen.base_image_version.as_deref(), Some("4"));
    assert!(seen.base_image_arn.unwrap().ends_with(":aws:microvm-image:other"));
    assert!(seen.build_role_arn.unwrap().ends_with(":role/r"));
    assert!(seen.egress_network_connectors[0].ends_with(":NO_EGRESS"));
    assert_eq!((seen.additional_os_capabilities, seen.cpu_configurations.len()), (vec![1], 1));
    let hooks = seen.hooks.unwrap();
    assert_eq!(hooks.port, Some(8000));
    assert_eq!(hooks.microvm_image_hooks.unwrap().ready_timeout_in_seconds, Some(120));
    assert!(seen.logging.is_some());
    assert_eq!((seen.description.as_deref(), seen.client_token.as_deref()), (Some("d"), Some("t")));
}

#[tokio::test]
async fn an_update_says_what_will_be_gone_or_keeps_it() {
    let host = Host::start();
    let done = host.run("image update demo s3://b/k -d").await;
    assert_eq!(done.status, 0, "{}", done.err);
    assert_eq!(
        done.err,
        "warning: demo 1.0 has what the next version will not have, since it is not given again; --keep takes it over:\n  \
         memory     512 MiB (it becomes 2048 MiB)\n  variables  PASSWORD\n"
    );
    let updated = || host.daemon.seen.lock().unwrap().updated.take().unwrap();
    let request = updated();
    assert_eq!(request.image_identifier.as_deref(), Some(IMAGE));
    assert_eq!((request.resources.len(), request.environment_variables.len()), (0, 0));
    assert!(
        request.base_image_arn.is_some() && request.build_role_arn.unwrap().ends_with(":role/hearth-build")
    );

    host.out("image update demo s3://b/k -d --keep --env A=1").await;
    let request = updated();
    assert_eq!(request.resources[0].minimum_memory_in_mib, Some(512));
    let variables = [("A".to_owned(), "1".to_owned()), ("PASSWORD".to_owned(), "hidden".to_owned())];
    assert_eq!(request.environment_variables, variables.into());
    assert_eq!(request.base_image_version, None, "the newest");
    // What is given again, and who wants no words, is not warned.
    host.out("image update demo s3://b/k -d --memory 1024 --env PASSWORD=other").await;
    host.out("image update demo s3://b/k -d -q").await;

    // Who may not see the version before can update, but not keep.
    host.out("image update hidden s3://b/k -d").await;
    let (status, text) = host.error("image update hidden s3://b/k -d --keep").await;
    assert!(status == 1 && text.contains("cannot get the image hidden: not allowed"), "{text}");
}

#[tokio::test]
async fn what_dockerignore_names_is_not_sent_and_what_cannot_be_sent_is_said() {
    let host = Host::start();
    let folder = folder(&host);
    let path = |name: &str| std::path::Path::new(&folder).join(name);
    std::fs::create_dir_all(path(".venv/bin")).unwrap();
    std::os::unix::fs::symlink("/usr/bin/python3", path(".venv/bin/python")).unwrap();
    std::os::unix::fs::symlink("/usr/bin/python3", path("python")).unwrap();
    std::fs::write(path(".dockerignore"), ".venv\ndata\n").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("app.sock")).unwrap();
    let done = host.run(&format!("image create demo {folder} --detach")).await;
    assert_eq!((done.status, done.err.as_str()), (0, "not sent: app.sock is a socket\n"));
    let (_, bytes) = host.daemon.seen.lock().unwrap().artifact.take().unwrap();
    let zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut names: Vec<_> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
    names.sort();
    assert_eq!(names, [".dockerignore", "Dockerfile", "bin/", "bin/run", "python"]);
}

#[tokio::test]
async fn what_the_host_would_refuse_is_not_sent() {
    let host = Host::start();
    let folder = folder(&host);
    let most = ArtifactLimits {
        max_entries: 4,
        max_unpacked_bytes: 1 << 20,
        max_directory_bytes: 1 << 20,
        max_zip_bytes: 1 << 20,
    };
    for (limits, words) in [
        (
            ArtifactLimits { max_entries: 3, ..most },
            "has 4 files, folders and links that .dockerignore does not leave out",
        ),
        (ArtifactLimits { max_unpacked_bytes: 1000, ..most }, "bytes in files"),
        (ArtifactLimits { max_zip_bytes: 1000, ..most }, "and the host accepts 1000 B"),
    ] {
        *host.daemon.limits.lock().unwrap() = Some(limits);
        let (status, text) = host.error(&format!("image create demo {folder}")).await;
        assert!(status == 1 && text.contains(words), "{text}");
        assert_eq!(host.daemon.seen.lock().unwrap().artifact, None);
    }
    *host.daemon.limits.lock().unwrap() = Some(most);
    assert_eq!(host.run(&format!("image create demo {folder} -d")).await.status, 0);
}

#[tokio::test]
async fn a_build_that_fails_gives_its_reason_and_what_to_do() {
    let host = Host::start();
    let done = host.run("image create failing s3://b/k").await;
    assert_eq!((done.status, done.out.as_str()), (1, ""));
    let lines: Vec<_> = done.err.lines().collect();
    assert_eq!(lines[2], "[   2.0 s] ✗ FAILED");
    assert_eq!(
        lines[3],
        "error: the build of failing 1.0 failed: The command returned a non-zero code: 7; see its log with \
         `hearth logs --image failing`, then try again with `hearth image update failing …`"
    );
    let done = host.run("image watch failing --json").await;
    assert_eq!(done.status, 1);
    let events: Vec<serde_json::Value> =
        done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["stepStarted"], "build the container image");
    assert_eq!(events.last().unwrap()["ended"]["buildState"], "FAILED");
}

#[tokio::test]
async fn what_cannot_be_built_from_is_refused_before_anybody_is_asked() {
    let host = Host::start();
    let empty = host.folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (status, text) = host.error(&format!("image create demo {}", empty.display())).await;
    assert_eq!((status, text), (2, format!("error: the folder {} has no Dockerfile", empty.display())));
    let (status, text) = host.error("image create demo ./absent").await;
    assert_eq!(status, 2);
    assert!(text.contains("cannot read ./absent: No such file"), "{text}");
    assert!(host.daemon.seen.lock().unwrap().created.is_none());
}

#[tokio::test]
async fn images_versions_and_builds_are_listed() {
    let host = Host::start();
    assert_eq!(
        host.out("image ls").await,
        "NAME           STATE          ACTIVE  FAILED  AGE\n\
         demo           CREATED        1.0             4d\n\
         a-longer-name  CREATE_FAILED                  4d\n"
    );
    assert_eq!(host.out("image ls -q -n 1").await, "demo\n");
    assert_eq!(
        host.out("image versions demo").await,
        "VERSION  STATE       STATUS  MEMORY   BASE        AGE  REASON\n\
         2.0      SUCCESSFUL  ACTIVE  512 MiB  al2023-1:1  5m\n\
         1.0      SUCCESSFUL  ACTIVE  512 MiB  al2023-1:1  5m\n"
    );
    assert_eq!(host.out("image builds demo -q").await, "b0\n");
    assert_eq!(host.json("image builds demo").await["items"][0]["imageVersion"], "2.0");
    let text = host.out("image build get demo 1.0 b0").await;
    assert!(text.contains("\nprocessor        ARM_64 GRAVITON 3\n"), "{text}");
    let text = host.out("image version get demo 1.0").await;
    assert!(text.contains("variables  PASSWORD\n") && !text.contains("hidden"), "{text}");
    let version = host.json("image version deactivate demo 1.0").await;
    assert_eq!((&version["status"], &version["imageVersion"]), (&json!("INACTIVE"), &json!("1.0")));
    assert_eq!(host.json("image version rm demo 1.0").await["state"], "DELETING");
    assert_eq!(host.json("image get demo").await["tags"], json!({"team": "a"}));
    assert_eq!(host.out("image rm demo other").await, "demo\nother\n");
}

#[tokio::test]
async fn bases_and_tags() {
    let host = Host::start();
    assert_eq!(host.out("base ls -q").await, "older\nal2023-1\n");
    assert_eq!(
        host.out("base versions").await,
        "NAME      VERSION  CREATED  UPDATED\nal2023-1  1        60s\n"
    );
    assert_eq!(host.out("tag ls demo").await, "KEY   VALUE\nteam  a\n");
    assert_eq!(host.out("tag add demo a=b=c d=").await, "");
    let tagged = host.daemon.seen.lock().unwrap().tagged.take().unwrap();
    assert_eq!(tagged.resource.as_deref(), Some(IMAGE));
    assert_eq!(tagged.tags, [("a".into(), "b=c".into()), ("d".into(), String::new())].into());
    assert_eq!(host.json("tag rm demo a").await, json!({}));
}
