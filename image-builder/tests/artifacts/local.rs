//! Buckets that are directories, and files.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use hearth_image_builder::artifact::{Artifact, ArtifactConfig, RegistryConfig};

use crate::{ACCOUNT, fetch_into, fetcher, reason, small_zip};

/// A directory for a bucket, with a file beside it that the bucket must not lead to.
fn bucket() -> (tempfile::TempDir, ArtifactConfig) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("bucket");
    std::fs::create_dir_all(directory.join("apps")).unwrap();
    std::fs::write(directory.join("apps/app.zip"), small_zip()).unwrap();
    std::fs::write(root.path().join("secret.zip"), small_zip()).unwrap();
    let config = ArtifactConfig {
        buckets: [("local".to_owned(), directory.into())].into(),
        ..ArtifactConfig::default()
    };
    (root, config)
}

async fn fetched(config: &ArtifactConfig, uri: &str) -> bool {
    let work = tempfile::tempdir().unwrap();
    matches!(fetch_into(config.clone(), uri, work.path()).await.0, Ok(Artifact::Zip { .. }))
}

#[tokio::test]
async fn a_directory_stands_for_a_bucket() {
    let (root, config) = bucket();
    assert!(fetched(&config, "s3://local/apps/app.zip").await);
    symlink("app.zip", root.path().join("bucket/apps/link.zip")).unwrap();
    assert!(fetched(&config, "s3://local/apps/link.zip").await, "links within the bucket are followed");
    assert_eq!(
        reason(config, "s3://local/apps/other.zip").await,
        "S3_NO_SUCH_KEY: The code artifact apps/other.zip does not exist."
    );
}

#[tokio::test]
async fn a_key_never_leads_out_of_its_bucket() {
    let (root, config) = bucket();
    let inside = root.path().join("bucket");
    symlink("../secret.zip", inside.join("relative")).unwrap();
    symlink(root.path().join("secret.zip"), inside.join("absolute")).unwrap();
    symlink("..", inside.join("up")).unwrap();
    symlink("/proc/self/root", inside.join("magic")).unwrap();
    let absolute = root.path().join("secret.zip");
    for key in [
        "../secret.zip",
        "apps/../../secret.zip",
        "relative",
        "absolute",
        "up/secret.zip",
        &format!("magic{}", absolute.display()),
        absolute.to_str().unwrap(),
    ] {
        let reason = reason(config.clone(), &format!("s3://local/{key}")).await;
        assert!(reason.starts_with("S3_NO_SUCH_KEY: "), "{key}: {reason}");
    }
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let (root, config) = bucket();
    let pipe = root.path().join("bucket/pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let of_pipe = reason(config.clone(), "s3://local/pipe").await;
    assert!(of_pipe.starts_with("S3_INVALID_OBJECT: "), "{of_pipe}");
    let of_directory = reason(config, "s3://local/apps").await;
    assert!(of_directory.starts_with("S3_NO_SUCH_KEY: "), "{of_directory}");
}

#[tokio::test]
async fn a_bucket_whose_directory_is_gone_does_not_exist() {
    let (root, config) = bucket();
    std::fs::remove_dir_all(root.path().join("bucket")).unwrap();
    let reason = reason(config, "s3://local/apps/app.zip").await;
    assert!(reason.starts_with("S3_NO_SUCH_BUCKET: "), "{reason}");
}

#[tokio::test]
async fn files_are_artifacts_where_that_is_allowed() {
    let (root, _) = bucket();
    let config = ArtifactConfig { allow_files: true, ..ArtifactConfig::default() };
    let uri = |path: &Path| format!("file://{}", path.display());
    assert!(fetched(&config, &uri(&root.path().join("secret.zip"))).await);
    let missing = reason(config.clone(), &uri(&root.path().join("missing.zip"))).await;
    assert!(missing.starts_with("S3_NO_SUCH_KEY: "), "{missing}");
    let endless = reason(config, "file:///dev/zero").await;
    assert!(endless.starts_with("S3_INVALID_OBJECT: "), "{endless}");
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_refused() {
    let (_root, mut config) = bucket();
    config.limits.max_zip_bytes = 10;
    assert_eq!(
        reason(config, "s3://local/apps/app.zip").await,
        "ARCHIVE_INVALID: The code artifact is larger than 10 bytes."
    );
}

#[tokio::test]
async fn a_source_of_other_accounts_is_not_read_whatever_was_accepted_before() {
    let (root, mut config) = bucket();
    config.allow_files = true;
    config.registries = [("127.0.0.1:1".to_owned(), RegistryConfig::default().into())].into();
    let file = format!("file://{}", root.path().join("secret.zip").display());
    let uris = ["s3://local/apps/app.zip", &file, "oci://127.0.0.1:1/app:1"];
    let accepted = fetcher(config.clone());
    let fetcher = fetcher(config.of_account("444455556666"));
    for (uri, what) in
        uris.into_iter().zip(["the bucket local", "files of this host", "the registry 127.0.0.1:1"])
    {
        let source = accepted.source(uri, ACCOUNT).unwrap();
        assert!(fetcher.source(uri, ACCOUNT).is_err(), "{uri}");
        let work = tempfile::tempdir().unwrap();
        let error = fetcher.fetch(&source, ACCOUNT, None, work.path(), &|_| {}).await.unwrap_err();
        let expected = format!("S3_ACCESS_DENIED: The account {ACCOUNT} may not use {what}.");
        assert_eq!(error.state_reason().to_string(), expected);
    }
}
