//! Builds that must fail, and why.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use hearth_host::network::Egress;
use hearth_image_builder::build::{BuildError, LogStream, Step};
use hearth_image_builder::failure::{FailureCode, StateReason};

use hearth_model::shape::MemoryClass;

use super::support::{Site, seconds};

#[tokio::test]
async fn a_failing_step_is_named_in_the_log_and_the_layers_before_it_are_kept() {
    let Some(site) = Site::new() else { return };
    let context = site.dockerfile(
        "failing",
        "FROM hearth/debian:13\nRUN echo before && echo to-stderr >&2\n\
         RUN --mount=type=cache,target=/c cat /c/* 2> /dev/null; echo kept > /c/kept; echo doomed && exit 7\nRUN echo never\n",
    );
    let mut request = site.request(&context, "failing");
    request.egress = Egress::None;
    request.cache = Some("failing".into());
    let (built, events) = site.build(&request).await;
    let error = built.unwrap_err();
    let reason = error.state_reason();
    // A mount makes BuildKit name the stage.
    assert!(
        reason.starts_with("The container image build failed. Step 3/4 of stage stage-0 (RUN --mount="),
        "{reason}"
    );
    assert!(reason.ends_with(" ended with exit status 7. Its last line: doomed"), "{reason}");
    assert_eq!(error.measured_reason(), "The container image build failed.");
    let log = events.lines(LogStream::Build);
    for line in ["before", "to-stderr", "doomed"] {
        assert!(log.iter().any(|found| found.ends_with(&format!(" {line}"))), "{line} in {log:?}");
    }
    assert!(!log.iter().any(|line| line.starts_with('#') && line.ends_with(" RUN echo never")));
    assert!(log.last().unwrap().ends_with(" ended with exit status 7."), "{log:?}");
    assert_eq!(events.finished(), [Step::Fetch, Step::StartBuilder]);

    // A second attempt takes the previous steps from the cache, and finds what the step has left in its own.
    let (built, events) = site.build(&request).await;
    assert!(built.is_err());
    let log = events.lines(LogStream::Build);
    assert!(log.iter().any(|line| line.ends_with(" CACHED")), "{log:?}");
    assert!(!log.iter().any(|line| line.ends_with(" to-stderr")), "{log:?}");
    assert!(events.said().iter().any(|line| line == "kept"), "{log:?}");
}

#[tokio::test]
async fn an_app_that_refuses_to_be_ready_fails_at_once_with_its_status() {
    let Some(site) = Site::of_full_run() else { return };
    let mut request = site.request(&site.metal.examples.join("counter"), "refusing");
    request.egress = Egress::None;
    request.environment.insert("HOOK_READY".into(), "503,404".into());
    let (built, events) = site.build(&request).await;
    assert_eq!(
        built.unwrap_err().state_reason(),
        "Ready hook check failed: the application returned a client error (HTTP 4xx) response"
    );
    let calls = events.lines(LogStream::Snapshot).iter().filter(|line| line.contains("/ready")).count();
    assert_eq!(calls, 2, "again after 503, not after 404");
}

#[tokio::test]
async fn an_app_that_fails_in_the_clone_fails_the_build_in_time() {
    let Some(site) = Site::of_full_run() else { return };
    let mut request = site.request(&site.metal.examples.join("counter"), "hanging");
    request.egress = Egress::None;
    request.hooks.validate = seconds(3);
    request.environment.insert("HOOK_VALIDATE".into(), "503,hang".into());
    let (built, events) = site.build(&request).await;
    assert_eq!(built.unwrap_err().state_reason(), "Validate hook invocation timed out after PT3S");
    assert!(events.finished().contains(&Step::Snapshot));
}

#[tokio::test]
async fn what_does_not_fit_the_disk_is_told_apart_from_other_failures() {
    let Some(site) = Site::of_full_run() else { return };
    // More than the builder's scratch disk has, allocated at once.
    let context =
        site.dockerfile("large", "FROM hearth/debian:13\nRUN fallocate -l 64G /large\nCMD [\"/bin/true\"]\n");
    let mut request = site.request(&context, "large");
    request.egress = Egress::None;
    let (built, _) = site.build(&request).await;
    let error = built.unwrap_err();
    let BuildError::Failed { reason: StateReason::Explained(FailureCode::DiskStorageFull, step), .. } =
        &error
    else {
        panic!("{error}")
    };
    assert!(step.contains("RUN fallocate -l 64G /large"), "{error}");
}

#[tokio::test]
async fn a_step_may_take_the_memory_of_the_class_and_says_so_when_it_takes_more() {
    let Some(mut site) = Site::alone() else { return };
    site.limits.memory_mib = 768;
    // A process that somebody kills has the same exit status, and says nothing of memory.
    let context = site.dockerfile(
        "memory",
        "FROM hearth/python:3.13\n\
         RUN python3 -c 'import os; os.kill(os.getpid(), 9)'; test $? = 137\n\
         RUN python3 -c 'x = [b\"x\" * (1 << 20) for _ in range(1100)]'; code=$?; echo python3 ended with $code; exit $code\n\
         RUN exit 9\n",
    );
    let mut request = site.request(&context, "memory");
    request.egress = Egress::None;
    let (built, _) = site.build(&request).await;
    let reason = built.unwrap_err().state_reason();
    assert!(reason.starts_with("The container image build failed. Step 3/4 (RUN python3 -c "), "{reason}");
    let what = "was killed (python3): out of memory; the builder has 768 MiB. Use a larger memory class (minimumMemoryInMiB: 1024 \
                has 1024 MiB), or have the step use less. Its last lines: ";
    // The step writes the two to two pipes, which are read in any order.
    let said = reason.split_once(what).unwrap_or_else(|| panic!("{reason}")).1;
    assert!(
        matches!(said, "Killed | python3 ended with 137" | "python3 ended with 137 | Killed"),
        "{reason}"
    );

    if !hearth_testing::full() {
        return;
    }
    request.memory = MemoryClass::try_from(2048).unwrap();
    let (built, _) = site.build(&request).await;
    let reason = built.unwrap_err().state_reason();
    assert_eq!(reason, "The container image build failed. Step 4/4 (RUN exit 9) ended with exit status 9.");
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named_with_its_registry() {
    let Some(site) = Site::new() else { return };
    let cases = [
        (
            "elsewhere",
            "r.invalid/team/app:1",
            "the build has no network (its egress connector is NO_EGRESS), so r.invalid is not reached.",
        ),
        (
            "unknown",
            "hearth/debian:99",
            "this host has no such container base. It has hearth/debian:13, hearth/python:3.13.",
        ),
    ];
    // Both fail at the same place.
    for (name, from, why) in cases.into_iter().skip(usize::from(!hearth_testing::full())) {
        let context = site.dockerfile(name, &format!("FROM {from}\n"));
        let mut request = site.request(&context, name);
        request.egress = Egress::None;
        let (built, events) = site.build(&request).await;
        let what = format!("Line 1 (FROM {from}): the image {from} cannot be pulled: {why}");
        assert_eq!(events.lines(LogStream::Build).last().unwrap(), &what);
        let reason = built.unwrap_err().state_reason();
        assert!(reason.starts_with(&format!("The container image build failed. {what}")), "{reason}");
    }
}

#[tokio::test]
async fn an_app_that_ends_before_it_is_ready_fails_with_its_exit_code() {
    let Some(site) = Site::of_full_run() else { return };
    let context = site.dockerfile("ending", "FROM hearth/debian:13\nCMD echo last words; exit 3\n");
    let mut request = site.request(&context, "ending");
    request.egress = Egress::None;
    let (built, events) = site.build(&request).await;
    assert_eq!(built.unwrap_err().state_reason(), "Container Stopped with Exit Code: 3");
    assert_eq!(events.lines(LogStream::Snapshot), ["last words"]);
}

/// Builds an image whose app cannot be executed; checks that reason and log say why.
async fn not_started(site: &Site, context: &Path, name: &str, why: &str) {
    let mut request = site.request(context, name);
    request.egress = Egress::None;
    let (built, events) = site.build(&request).await;
    let error = built.unwrap_err();
    let expected = format!("The app could not be started: {why}");
    assert!(error.state_reason().starts_with(&expected), "{}", error.state_reason());
    assert_eq!(events.lines(LogStream::Snapshot), [error.state_reason()]);
}

#[tokio::test]
async fn a_script_without_an_interpreter_is_the_apps_failure_and_links_of_the_context_are_content() {
    let Some(site) = Site::of_full_run() else { return };
    let context = site.dockerfile(
        "script",
        "FROM hearth/debian:13\nCOPY . /srv\n\
         RUN test \"$(readlink /srv/python)\" = /usr/bin/python3 && test \"$(readlink /srv/a/up)\" = ../../no/where \\\n\
         && test ! -e /srv/.venv && test -e /srv/.dockerignore\nCMD [\"/srv/app\"]\n",
    );
    for folder in ["a", ".venv"] {
        fs::create_dir(context.join(folder)).unwrap();
    }
    fs::write(context.join(".dockerignore"), ".venv\n").unwrap();
    fs::write(context.join("app"), "echo hi\nsleep 1000\n").unwrap();
    fs::set_permissions(context.join("app"), fs::Permissions::from_mode(0o755)).unwrap();
    for (link, target) in
        [("python", "/usr/bin/python3"), ("a/up", "../../no/where"), (".venv/python", "/usr/bin/python3")]
    {
        symlink(target, context.join(link)).unwrap();
    }
    not_started(&site, &context, "script", "Exec format error: /srv/app is a script without \"#!\"").await;
}

#[tokio::test]
async fn a_program_for_another_processor_is_the_apps_failure() {
    let Some(site) = Site::new() else { return };
    let context = site.dockerfile("foreign", "FROM scratch\nCOPY app /app\nCMD [\"/app\"]\n");
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    program.extend([2, 0, 62, 0]); // an executable for x86-64
    program.resize(64, 0);
    fs::write(context.join("app"), program).unwrap();
    fs::set_permissions(context.join("app"), fs::Permissions::from_mode(0o755)).unwrap();
    not_started(
        &site,
        &context,
        "foreign",
        "Exec format error: /app is built for x86-64, microVMs are arm64",
    )
    .await;
}

#[tokio::test]
async fn a_step_writes_a_gigabyte_into_the_smallest_disk() {
    let Some(site) = Site::of_full_run() else { return };
    // The part of it that is not deleted becomes part of a layer and of the root disk.
    let context = site.dockerfile(
        "gigabyte",
        "FROM hearth/debian:13\n\
         RUN <<EOF\n\
         yes | head -c 1G > /large && stat -c %s /large && truncate -s 64M /large\n\
         EOF\n\
         RUN --mount=type=bind,source=.,target=/context grep -q FROM /context/Dockerfile\n\
         CMD stat -c 'kept %s' /large && df --output=size -B1 / && exec sleep infinity\n",
    );
    let mut request = site.request(&context, "gigabyte");
    request.egress = Egress::None;
    request.hooks.ready = None;
    let (built, events) = site.build(&request).await;
    let image = built.unwrap();
    assert!(events.lines(LogStream::Build).iter().any(|line| line.ends_with(" 1073741824")));
    let app = events.lines(LogStream::Snapshot);
    assert!(app.iter().any(|line| line == "kept 67108864"), "{app:?}");
    // The file system's own structures take some of the 8 GiB.
    let size: u64 = app.last().unwrap().trim().parse().unwrap();
    assert!((7 << 30..8 << 30).contains(&size), "{app:?}");
    assert!(image.manifest().sizes.code_install_size_in_bytes > 64 << 20);
}
