//! Builds that must fail, and why.

use hearth_host::network::Egress;
use hearth_image_builder::build::{BuildError, LogStream, Step};
use hearth_image_builder::failure::{FailureCode, StateReason};

use super::support::{Site, seconds};

#[tokio::test]
async fn a_failing_step_fails_the_build_and_is_named_in_the_log() {
    let Some(site) = Site::new() else { return };
    let context = site.dockerfile(
        "failing",
        "FROM hearth/debian:13\nRUN echo before && echo to-stderr >&2\nRUN echo doomed && exit 7\nRUN echo never\n",
    );
    let request = site.request(&context, "failing");
    let (built, told) = site.build(&request).await;
    assert_eq!(built.unwrap_err().state_reason(), "The container image build failed.");
    let log = told.lines(LogStream::Build);
    for line in ["before", "to-stderr", "doomed"] {
        assert!(log.iter().any(|found| found == line), "{line} in {log:?}");
    }
    assert!(!log.iter().any(|line| line == "never"));
    let last = log.last().unwrap();
    assert!(last.contains("exit status") && last.contains("RUN echo doomed && exit 7"), "{last}");
    assert_eq!(told.finished(), [Step::Fetch, Step::StartBuilder]);
}

#[tokio::test]
async fn an_app_that_refuses_to_be_ready_fails_at_once_with_its_status() {
    let Some(site) = Site::new() else { return };
    let mut request = site.request(&site.metal.examples.join("counter"), "refusing");
    request.egress = Egress::None;
    request.environment.insert("HOOK_READY".into(), "503,404".into());
    let (built, told) = site.build(&request).await;
    assert_eq!(
        built.unwrap_err().state_reason(),
        "Ready hook check failed: the application returned a client error (HTTP 4xx) response"
    );
    let calls = told.lines(LogStream::Snapshot).iter().filter(|line| line.contains("/ready")).count();
    assert_eq!(calls, 2, "again after 503, not after 404");
}

#[tokio::test]
async fn an_app_that_fails_in_the_clone_fails_the_build_in_time() {
    let Some(site) = Site::new() else { return };
    let mut request = site.request(&site.metal.examples.join("counter"), "hanging");
    request.egress = Egress::None;
    request.hooks.validate = seconds(3);
    request.environment.insert("HOOK_VALIDATE".into(), "503,hang".into());
    let (built, told) = site.build(&request).await;
    assert_eq!(built.unwrap_err().state_reason(), "Validate hook invocation timed out after PT3S");
    assert!(told.finished().contains(&Step::Snapshot));
}

#[tokio::test]
async fn what_does_not_fit_the_root_disk_is_told_apart_from_other_failures() {
    let Some(site) = Site::new() else { return };
    // A file with a hole: it takes no time to make, and copies of it are as large as it says.
    let context =
        site.dockerfile("large", "FROM hearth/debian:13\nRUN fallocate -l 9G /large\nCMD [\"/bin/true\"]\n");
    let mut request = site.request(&context, "large");
    request.egress = Egress::None;
    let (built, _) = site.build(&request).await;
    let error = built.unwrap_err();
    let BuildError::Failed { reason: StateReason::Code(code) | StateReason::Detailed(code, _), .. } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*code, FailureCode::DiskStorageFull, "{error}");
}

#[tokio::test]
async fn an_app_that_ends_before_it_is_ready_fails_with_its_exit_code() {
    let Some(site) = Site::new() else { return };
    let context = site.dockerfile("ending", "FROM hearth/debian:13\nCMD echo last words; exit 3\n");
    let mut request = site.request(&context, "ending");
    request.egress = Egress::None;
    let (built, told) = site.build(&request).await;
    assert_eq!(built.unwrap_err().state_reason(), "Container Stopped with Exit Code: 3");
    assert_eq!(told.lines(LogStream::Snapshot), ["last words"]);
}
