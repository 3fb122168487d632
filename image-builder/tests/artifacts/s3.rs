//! Artifacts in an object store.

use std::time::SystemTime;

use hearth_host::roles::{Secret, StaticKeys};
use hearth_image_builder::artifact::{Artifact, ArtifactConfig, Fetcher, Progress, S3Config};
use hearth_image_builder::failure::FailureCode;
use sha2::{Digest, Sha256};

use crate::servers::{object_store, scripted};
use crate::{ACCOUNT, fetch_into, fetcher, reason, small_zip, tar_of};

fn keys(secret: &str) -> StaticKeys {
    StaticKeys {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: Secret::new(secret),
        session_token: None,
    }
}

fn config(endpoint: String, secret: &str) -> ArtifactConfig {
    ArtifactConfig {
        s3: S3Config {
            endpoint: Some(endpoint),
            allow_http: true,
            credentials: Some(keys(secret)),
            max_retries: 0,
            ..S3Config::default()
        },
        ..ArtifactConfig::default()
    }
}

/// A store with a bucket that has a zip. Returns its folder and its URL.
async fn store() -> (tempfile::TempDir, String) {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("artifacts/apps")).unwrap();
    std::fs::write(root.path().join("artifacts/apps/my app.zip"), small_zip()).unwrap();
    let endpoint = object_store(root.path(), "AKIDEXAMPLE", "right").await;
    (root, endpoint)
}

#[tokio::test]
async fn a_zip_is_fetched_checked_hashed_and_its_progress_told() {
    let (_root, endpoint) = store().await;
    let work = tempfile::tempdir().unwrap();
    let (fetched, told) =
        fetch_into(config(endpoint, "right"), "s3://artifacts/apps/my app.zip", work.path()).await;
    let artifact = fetched.unwrap();
    let Artifact::Zip { path, summary, sha256 } = &artifact else { panic!("no zip") };
    let expected = small_zip();
    assert_eq!(std::fs::read(path).unwrap(), expected);
    assert_eq!(summary.files, 2);
    assert_eq!(*sha256, format!("{:x}", Sha256::digest(&expected)));
    let all = expected.len() as u64;
    assert!(told.contains(&Progress::Fetching { bytes: all, total: Some(all) }), "{told:?}");
    assert_eq!(told.last(), Some(&Progress::Checking));
    let tar = tar_of(&fetcher(ArtifactConfig::default()), &artifact, work.path()).await.unwrap();
    assert_eq!(tar::Archive::new(tar.as_slice()).entries().unwrap().count(), 2);
}

#[tokio::test]
async fn the_build_roles_credentials_go_before_the_configurations() {
    let (_root, endpoint) = store().await;
    let work = tempfile::tempdir().unwrap();
    let fetcher = fetcher(config(endpoint, "wrong"));
    let source = fetcher.source("s3://artifacts/apps/my app.zip", ACCOUNT).unwrap();
    let role = keys("right").at(SystemTime::now());
    fetcher.fetch(&source, ACCOUNT, Some(&role), work.path(), &|_| {}).await.unwrap();
}

#[tokio::test]
async fn the_configurations_keys_are_for_its_accounts_only() {
    let (_root, endpoint) = store().await;
    let mut config = config(endpoint, "right");
    config.s3.accounts = Some(vec![ACCOUNT.to_owned()]);
    let fetcher = fetcher(config);
    for (account, own) in [(ACCOUNT, true), ("444455556666", false)] {
        let work = tempfile::tempdir().unwrap();
        let source = fetcher.source("s3://artifacts/apps/my app.zip", account).unwrap();
        let fetched = fetcher.fetch(&source, account, None, work.path(), &|_| {}).await;
        let reason = fetched.map_err(|error| error.state_reason().to_string());
        assert_eq!(reason.is_ok(), own, "{reason:?}");
        assert!(own || reason.unwrap_err().starts_with("S3_ACCESS_DENIED: "));
    }
}

#[tokio::test]
async fn wrong_keys_and_none_are_denied() {
    let (_root, endpoint) = store().await;
    let uri = "s3://artifacts/apps/my app.zip";
    let expected =
        "S3_ACCESS_DENIED: The build role may not read the code artifact s3://artifacts/apps/my app.zip.";
    assert_eq!(reason(config(endpoint.clone(), "wrong"), uri).await, expected);
    let mut without = config(endpoint.clone(), "");
    without.s3.credentials = None;
    assert_eq!(reason(without, uri).await, expected);
    let mut unknown = config(endpoint, "right");
    unknown.s3.credentials.as_mut().unwrap().access_key_id = "AKIDOTHER".to_owned();
    assert_eq!(reason(unknown, uri).await, expected);
}

#[tokio::test]
async fn an_object_or_a_bucket_that_is_not_there_is_named() {
    let (_root, endpoint) = store().await;
    assert_eq!(
        reason(config(endpoint.clone(), "right"), "s3://artifacts/other.zip").await,
        "S3_NO_SUCH_KEY: The code artifact s3://artifacts/other.zip does not exist."
    );
    let odd = reason(config(endpoint, "right"), "s3://artifacts/../artifacts/apps/my app.zip").await;
    assert!(odd.starts_with("S3_NO_SUCH_KEY: "), "{odd}");
    let body = "<Error><Code>NoSuchBucket</Code><BucketName>gone</BucketName></Error>";
    assert_eq!(
        reason(config(scripted(404, &[], body).await, "right"), "s3://gone/app.zip").await,
        "S3_NO_SUCH_BUCKET: The bucket gone of the code artifact does not exist."
    );
}

#[tokio::test]
async fn answers_that_only_aws_gives_have_their_codes() {
    let malformed = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; \
                     the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message><Region>eu-west-1</Region></Error>";
    /// Status, headers and body of a response, and the resulting `stateReason`.
    type Case = (u16, &'static [(&'static str, &'static str)], &'static str, &'static str);
    let cases: [Case; 6] = [
        (
            301,
            &[("x-amz-bucket-region", "eu-west-1")],
            "<Error><Code>PermanentRedirect</Code></Error>",
            "S3_CROSS_REGION_ACCESS_DENIED: The bucket artifacts is in another region.",
        ),
        (400, &[], malformed, "S3_CROSS_REGION_ACCESS_DENIED: The bucket artifacts is in another region."),
        (
            403,
            &[],
            "<Error><Code>InvalidObjectState</Code><StorageClass>GLACIER</StorageClass></Error>",
            "S3_INVALID_OBJECT: The code artifact s3://artifacts/app.zip cannot be read as it is stored.",
        ),
        (
            403,
            &[],
            "<Error><Code>AccessDenied</Code></Error>",
            "S3_ACCESS_DENIED: The build role may not read the code artifact s3://artifacts/app.zip.",
        ),
        (
            500,
            &[],
            "<Error><Code>InternalError</Code></Error>",
            "INTERNAL_PLATFORM_ERROR: The code artifact could not be fetched.",
        ),
        (
            404,
            &[],
            "not XML at all",
            "S3_NO_SUCH_KEY: The code artifact s3://artifacts/app.zip does not exist.",
        ),
    ];
    for (status, headers, body, expected) in cases {
        let config = config(scripted(status, headers, body).await, "right");
        assert_eq!(reason(config, "s3://artifacts/app.zip").await, expected, "{status} {body}");
    }
}

#[tokio::test]
async fn an_object_beyond_the_limit_is_refused_before_it_is_fetched() {
    let (_root, endpoint) = store().await;
    let mut config = config(endpoint, "right");
    config.limits.max_zip_bytes = 10;
    let work = tempfile::tempdir().unwrap();
    let (fetched, told) = fetch_into(config, "s3://artifacts/apps/my app.zip", work.path()).await;
    let reason = fetched.unwrap_err().state_reason();
    assert_eq!(reason.code(), Some(FailureCode::ArchiveInvalid));
    assert_eq!(reason.to_string(), "ARCHIVE_INVALID: The code artifact is larger than 10 bytes.");
    assert_eq!(told, []);
}

#[tokio::test]
async fn a_store_that_is_not_there_is_no_fault_of_the_artifact() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let expected = "INTERNAL_PLATFORM_ERROR: The code artifact could not be fetched.";
    assert_eq!(reason(config(format!("http://{nobody}"), "right"), "s3://artifacts/app.zip").await, expected);
}

#[tokio::test]
async fn a_fetch_that_is_dropped_ends_its_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // Sends a part of an object, and then waits until the client closes the connection.
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 10_000];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            assert!(stream.read(&mut request).await.unwrap() > 0);
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\netag: \"x\"\r\n\
                    last-modified: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n0123456789";
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.read(&mut request).await.is_ok_and(|count| count > 0) {}
    });
    let work = tempfile::tempdir().unwrap();
    let fetcher = fetcher(config(endpoint, "right"));
    let source = fetcher.source("s3://artifacts/app.zip", ACCOUNT).unwrap();
    let (begun, begins) = tokio::sync::mpsc::unbounded_channel();
    let on_progress = move |progress| begun.send(progress).unwrap();
    {
        let mut begins = begins;
        let fetch = fetcher.fetch(&source, ACCOUNT, None, work.path(), &on_progress);
        tokio::select! {
            fetched = fetch => panic!("{fetched:?}"),
            progress = begins.recv() => {
                assert_eq!(progress, Some(Progress::Fetching { bytes: 10, total: Some(1_000_000) }));
            }
        }
    }
    server.await.unwrap();
}

#[tokio::test]
async fn what_is_fetched_but_is_no_zip_is_refused() {
    let (root, endpoint) = store().await;
    std::fs::write(root.path().join("artifacts/text.zip"), "no zip").unwrap();
    let reason = reason(config(endpoint, "right"), "s3://artifacts/text.zip").await;
    assert!(reason.starts_with("ARCHIVE_INVALID: The archive cannot be read: "), "{reason}");
}

#[test]
fn an_endpoint_without_tls_must_be_meant() {
    let mut config = config("http://127.0.0.1:1".to_owned(), "right");
    config.s3.allow_http = false;
    let error = Fetcher::new(config).unwrap_err().to_string();
    assert!(error.contains("allow_http"), "{error}");
}
