//! Tests of the process that reads, as far as they need no `hearth-vmm`: the end-to-end tests have it find damage.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

const BUILD: &str = "images/111122223333/uid/1/b-1";

/// A host with one image, and a process that is this shell script.
fn host(script: &str) -> (tempfile::TempDir, Object, Worker) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    fs::create_dir_all(data.join(BUILD).join("snapshot")).unwrap();
    fs::write(data.join(BUILD).join("disk"), "disk").unwrap();
    let program = data.join("program");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let object = Objects::new(data, Intervals::of_images(LOOK)).list().swap_remove(0);
    let worker = Worker { program, run: data.join("run/scrub"), jail: JailConfig::disabled(), rate: 0 };
    (folder, object, worker)
}

async fn read(host: &(tempfile::TempDir, Object, Worker)) -> Outcome {
    host.2.read(&host.1, &Metrics::new()).await
}

/// Waits until a file has a line, and returns it.
async fn line(path: &Path) -> String {
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test]
async fn a_process_that_ends_without_a_word_says_nothing_about_the_object() {
    let host = host("exit 7");
    let Outcome::Unknown(why) = read(&host).await else { panic!("it is not known how the object is") };
    assert!(why.contains("exit status: 7"), "{why}");
    assert!(!host.1.sums().exists() && host.0.path().join("run/scrub").read_dir().unwrap().next().is_none());
}

#[tokio::test]
async fn an_object_that_is_removed_is_read_no_further() {
    let host = host("echo $$ > \"$(dirname $0)/pid\"; exec sleep 1000");
    let removed = async {
        line(&host.0.path().join("pid")).await;
        fs::remove_dir_all(host.0.path().join(BUILD)).unwrap();
    };
    assert_eq!(tokio::join!(read(&host), removed).0, Outcome::Gone);
    assert_eq!(read(&host).await, Outcome::Gone);
}

#[tokio::test]
async fn a_reading_that_is_given_up_ends_its_process() {
    let host = host("echo $$ > \"$(dirname $0)/pid\"; exec sleep 1000");
    let pid = tokio::select! {
        _ = read(&host) => panic!("it sleeps"),
        pid = line_of_pid(&host) => pid,
    };
    while Path::new("/proc").join(&pid).exists() {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn line_of_pid(host: &(tempfile::TempDir, Object, Worker)) -> String {
    line(&host.0.path().join("pid")).await
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    assert!(ScrubConfig::default().problems().is_empty());
    assert!(ScrubConfig { interval_days: 0, ..ScrubConfig::default() }.problems().is_empty());
    let bad = ScrubConfig { interval_days: 366, mib_per_second: 0 };
    let keys: Vec<_> = bad.problems().into_iter().map(|problem| problem.to_string()).collect();
    assert!(keys.len() == 2 && keys[0].contains("scrub.interval_days"), "{keys:?}");
}
