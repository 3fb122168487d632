//! The walls around workers, seen from outside, and workers that do not do what they should.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_image_builder::artifact::{ArtifactConfig, ArtifactError, Fetcher, S3Config, WorkerConfig};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::{ACCOUNT, fetcher, small_zip, worker};

/// Whether the walls that only root can put up are there.
fn has_walls() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        hearth_testing::skip("without root, workers have no user, root, or network of their own");
    }
    root
}

/// A fetch from a store that takes the request and never answers.
struct Stuck {
    fetch: JoinHandle<Result<(), ArtifactError>>,
    /// The store's end of the worker's connection.
    connection: TcpStream,
    worker: u32,
    work: tempfile::TempDir,
}

impl Stuck {
    /// `bytes` is a limit by which the worker is found: no other test has the same.
    async fn start(bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = ArtifactConfig {
            s3: S3Config {
                endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
                allow_http: true,
                max_retries: 0,
                ..S3Config::default()
            },
            ..ArtifactConfig::default()
        };
        config.limits.max_zip_bytes = bytes;
        let work = tempfile::tempdir().unwrap();
        let folder = work.path().to_owned();
        let fetch = tokio::spawn(async move {
            let fetcher = fetcher(config);
            let source = fetcher.source("s3://artifacts/app.zip", ACCOUNT).unwrap();
            fetcher.fetch(&source, ACCOUNT, None, &folder, &|_| ()).await.map(drop)
        });
        let (mut connection, _) = listener.accept().await.unwrap();
        // It is inside, and at work.
        connection.read_u8().await.unwrap();
        Self { fetch, connection, worker: found(bytes), work }
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.worker).into()
    }

    /// A line of the worker's `/proc/PID/status` or `limits`, its fields joined by single spaces.
    fn line(&self, file: &str, key: &str) -> String {
        let text = fs::read_to_string(self.proc(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}"));
        line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The process id of this process's worker with this limit.
fn found(bytes: u64) -> u32 {
    let words = |path: &Path| fs::read(path.join("cmdline")).unwrap_or_default();
    let limit = format!("--jail-fsize\0{bytes}\0");
    let is_it = |path: &PathBuf| {
        let words = words(path);
        words.windows(limit.len()).any(|part| part == limit.as_bytes())
    };
    let process = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).find(is_it).unwrap();
    process.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_worker_has_nothing_but_its_file_and_its_connections() {
    if !has_walls() {
        return;
    }
    const BYTES: u64 = 1_234_567_001;
    let stuck = Stuck::start(BYTES).await;
    let id = (1_910_000_000 + stuck.worker).to_string();
    assert_eq!(stuck.line("status", "Uid"), [id.as_str(); 4].join(" "), "a user of its own");
    assert_eq!(stuck.line("status", "Gid"), [id.as_str(); 4].join(" "));
    assert_eq!(stuck.line("status", "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(stuck.line("status", set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (stuck.line("status", "NoNewPrivs").as_str(), stuck.line("status", "Seccomp").as_str()),
        ("1", "2")
    );
    for namespace in ["mnt", "net", "ipc", "uts"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}")).unwrap();
        assert_ne!(of(&stuck.worker.to_string()), of("self"), "{namespace}");
    }
    // No file of the host has a name there: neither the configuration, nor the store, nor a socket.
    assert_eq!(fs::read_dir(stuck.proc("root")).unwrap().count(), 0);
    assert!(fs::write(stuck.proc("root/file"), "").is_err());
    assert_eq!(fs::read_to_string(stuck.proc("mountinfo")).unwrap().lines().count(), 1);
    // Of its network there is nothing but a loopback that is down. (The first two lines are a table's head.)
    let interfaces = fs::read_to_string(stuck.proc("net/dev")).unwrap();
    assert_eq!(interfaces.lines().skip(2).filter(|line| !line.trim_start().starts_with("lo:")).count(), 0);
    let mut files = Vec::new();
    for entry in fs::read_dir(stuck.proc("fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned();
        if target.starts_with('/') && target != "/dev/null" {
            files.push(target);
        }
    }
    assert_eq!(files, [stuck.work.path().join("artifact.zip").to_str().unwrap()]);
    for (limit, value) in [
        ("Max file size", BYTES.to_string()),
        ("Max data size", ((256 << 20) + 10 * (32_u64 << 20)).to_string()),
        ("Max cpu time", "3600".to_owned()),
        ("Max processes", "32".to_owned()),
        ("Max core file size", "0".to_owned()),
    ] {
        let line = stuck.line("limits", limit);
        assert!(line.starts_with(&format!("{value} {value} ")), "{limit}: {line}");
    }
    stuck.fetch.abort();
}

#[tokio::test]
async fn a_worker_that_is_killed_fails_its_fetch_and_no_other() {
    let stuck = Stuck::start(1_234_567_002).await;
    kill_process(Pid::from_raw(stuck.worker.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let error = stuck.fetch.await.unwrap().unwrap_err();
    assert_eq!(error.state_reason().to_string(), ENDED);
    assert!(error.to_string().contains("signal: 9"), "{error}");
    assert!(!stuck.work.path().join("root").exists(), "its root is removed");
    local_zip(worker()).await.unwrap();
}

#[tokio::test]
async fn a_fetch_that_is_given_up_ends_its_worker() {
    let mut stuck = Stuck::start(1_234_567_003).await;
    stuck.fetch.abort();
    // The rest of its request, and then the end: nobody else has the connection.
    let mut rest = Vec::new();
    let ended = stuck.connection.read_to_end(&mut rest).await;
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

const ENDED: &str = "INTERNAL_PLATFORM_ERROR: The process that fetches and checks the code artifact ended before it was done.";

/// Fetches a zip of this host with such workers.
async fn local_zip(worker: WorkerConfig) -> Result<(), ArtifactError> {
    let folder = tempfile::tempdir().unwrap();
    let zip = folder.path().join("app.zip");
    fs::write(&zip, small_zip()).unwrap();
    let config = ArtifactConfig { allow_files: true, ..ArtifactConfig::default() };
    let fetcher = Fetcher::new(config).unwrap().with_worker(worker);
    let source = fetcher.source(&format!("file://{}", zip.display()), ACCOUNT).unwrap();
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    let fetched = fetcher.fetch(&source, ACCOUNT, None, &work, &|_| ()).await;
    assert!(!work.join("root").exists(), "its root is removed");
    fetched.map(drop)
}

/// Fetches with a worker that is this script: it has its socket as the descriptor `$3`.
async fn with_script(script: &str) -> ArtifactError {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("worker");
    fs::write(&program, format!("#!/bin/bash\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let worker = WorkerConfig { program, silence: Duration::from_millis(500), ..worker() };
    local_zip(worker).await.unwrap_err()
}

#[tokio::test]
async fn a_worker_that_says_nothing_is_ended() {
    let error = with_script("exec sleep 1000").await;
    assert_eq!(
        error.state_reason().to_string(),
        "INTERNAL_PLATFORM_ERROR: The fetch of the code artifact came to a stand."
    );
}

#[tokio::test]
async fn a_worker_that_lies_is_not_believed() {
    let digest = "0".repeat(64);
    for (script, reason, log) in [
        ("exit 3".to_owned(), ENDED, "exit status: 3"),
        ("echo its last words >&2; exit 3".to_owned(), ENDED, "its last words"),
        ("echo nonsense >&$3; sleep 1000".to_owned(), ENDED, "no report"),
        ("head -c 200000 /dev/zero >&$3; sleep 1000".to_owned(), ENDED, ""),
        (
            format!("echo '{{\"Done\":{{\"Image\":{{\"digest\":\"sha256:{digest}\"}}}}}}' >&$3; sleep 1000"),
            "INTERNAL_PLATFORM_ERROR: The platform failed.",
            "",
        ),
        (
            "echo '{\"Done\":{\"Zip\":{\"sha256\":\"../../x\",\"summary\":{\"files\":1,\"directories\":0,\"links\":0,\"unpacked_bytes\":1}}}}' >&$3; sleep 1000"
                .to_owned(),
            "INTERNAL_PLATFORM_ERROR: The platform failed.",
            "does not fit its task",
        ),
        (
            "printf '{\"Failed\":{\"code\":\"ArchiveInvalid\",\"detail\":\"a\\\\u001b[1m\\\\tb\",\"log\":\"x\"}}' >&$3; sleep 1000".to_owned(),
            "ARCHIVE_INVALID: a b",
            "x",
        ),
    ] {
        let error = with_script(&script).await;
        assert_eq!(error.state_reason().to_string(), reason, "{script}");
        assert!(error.to_string().contains(log), "{script}: {error}");
    }
}

/// Bytes of memory that are enough for a small zip, and not for the names of [`many_names`].
const LITTLE: u32 = 20 << 20;

#[tokio::test]
async fn a_zip_that_needs_more_memory_than_there_is_fails_its_build() {
    let folder = tempfile::tempdir().unwrap();
    let (real, program) = (worker().program, folder.path().join("worker"));
    // The worker's limit of memory is its fifth argument.
    let text = format!(
        "#!/bin/bash\nwords=(\"$@\")\nwords[4]={LITTLE}\nexec {} \"${{words[@]}}\"\n",
        real.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let with_little = WorkerConfig { program, ..worker() };
    let zip = folder.path().join("app.zip");
    for (bytes, worker, is_enough) in [
        (many_names(), &with_little, false),
        (many_names(), &worker(), true),
        (small_zip(), &with_little, true),
    ] {
        fs::write(&zip, bytes).unwrap();
        let config = ArtifactConfig { allow_files: true, ..ArtifactConfig::default() };
        let fetcher = Fetcher::new(config).unwrap().with_worker(worker.clone());
        let source = fetcher.source(&format!("file://{}", zip.display()), ACCOUNT).unwrap();
        let work = tempfile::tempdir().unwrap();
        let fetched = fetcher.fetch(&source, ACCOUNT, None, work.path(), &|_| ()).await;
        match fetched {
            Err(error) if !is_enough => {
                assert_eq!(error.state_reason().to_string(), ENDED);
                assert!(error.to_string().contains("memory allocation"), "{error}");
            }
            fetched => assert!(is_enough && fetched.is_ok(), "{fetched:?}"),
        }
    }
}

/// A zip whose directory is large: long names of empty files.
fn many_names() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    writer.start_file("Dockerfile", options).unwrap();
    let folders = format!("{}/", "n".repeat(250)).repeat(15);
    for number in 0..3000 {
        writer.start_file(format!("{folders}{number}"), options).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
