//! Bits that flip on the disk: every file of a real image and of a real suspended microVM is covered, and the scrub finds
//! the damage, names it and refuses launches until it is gone.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use hearth_proto::host::v1::WatchEventsRequest;
use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended};
use hearth_vmm_api::scrub::files_of;
use rustix::fs::{SeekFrom, seek};
use tonic::Code;

use crate::support::api::request;
use crate::support::{Daemon, until};

const METRICS: &str = "127.0.0.1:19464";

/// Flips a bit of a byte; a second call flips it back.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    file.sync_all().unwrap();
}

/// A byte of each kind of content that a file has.
fn places(name: &str, path: &Path) -> Vec<u64> {
    let file = File::open(path).unwrap();
    let data = |from| seek(&file, SeekFrom::Data(from)).ok();
    let number = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    };
    let places = match name.rsplit('/').next().unwrap() {
        "state" => vec![Some(33)],
        "memory" => vec![data(0), data(64 << 20)],
        "working-set" => vec![Some(65), Some(number(48) + 5)],
        // The header, the map and the data; a guest may have written nothing.
        "disk0" => vec![Some(13), data(4096).filter(|at| *at < number(20)), data(number(20))],
        "disk" => vec![data(0).map(|at| at + 1030), data(8 << 20)],
        "sums" => vec![Some(30)],
        _ => vec![Some(1)],
    };
    places.into_iter().flatten().collect()
}

/// What `hearth-vmm verify` says of a folder, and whether it is whole.
fn verify(daemon: &Daemon, folder: &Path) -> (bool, String) {
    let output = Command::new(&daemon.site.vmm).arg("verify").arg(folder).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// Flips a bit of each kind of content of each file in a folder, which has to be found by the file's name.
fn every_flip_is_found(daemon: &Daemon, folder: &Path, without_sums: &[&str]) {
    let (whole, said) = verify(daemon, folder);
    assert!(whole, "{said}");
    for name in files_of(folder).unwrap().into_keys() {
        let path = folder.join(&name);
        let mut places = places(&name, &path);
        if without_sums.contains(&name.as_str()) {
            places.retain(|at| *at < 1 << 20); // header and map
        }
        for at in places {
            flip(&path, at);
            let (whole, said) = verify(daemon, folder);
            flip(&path, at);
            let named = said.lines().any(|line| {
                line.contains(&format!("{}: {name}: ", folder.display())) && line.starts_with("hearth-vmm")
            });
            assert!(!whole && named, "byte {at} of {name}: {said}");
        }
    }
    assert!(verify(daemon, folder).0);
}

fn metric(name: &str) -> f64 {
    let mut stream = TcpStream::connect(METRICS).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().trim().parse().unwrap()
}

/// What the scrub keeps of an object; none before it has read it.
fn kept(path: &Path) -> Option<serde_json::Value> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

#[tokio::test]
async fn a_bit_that_flips_is_found_in_every_file_and_launches_are_refused_until_it_is_whole() {
    let configuration = format!("metrics.listen = \"{METRICS}\"\nscrub.mib_per_second = 100000");
    let Some(mut daemon) = Daemon::start_with(&configuration).await else { return };
    let microvm = daemon.run().await.microvm_id;
    daemon.suspend(&microvm).await.unwrap();
    daemon.wait(&microvm, Suspended).await;
    let data = fs::canonicalize(daemon.site.data()).unwrap();
    let states = fs::read_dir(data.join("microvms").join(&microvm)).unwrap();
    let state = states.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let image = fs::canonicalize(state.join("base")).unwrap().parent().unwrap().to_owned();
    let mut record = data.join("scrub").join(image.strip_prefix(&data).unwrap()).into_os_string();
    record.push(".json");
    let record = PathBuf::from(record);
    let checked = until("the image is read", async || kept(&record)).await;
    assert_eq!((&checked["damage"], &checked["uncovered"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(metric("hearth_scrub_read_bytes_total") > 1e6 && metric("hearth_scrub_last_seconds") > 1.7e9);
    every_flip_is_found(&daemon, &image, &[]);
    every_flip_is_found(&daemon, &state, &["disk0"]);

    // The disk damages the root disk, and the suspended state, which is old enough to be read. Both are due.
    let (disk, memory) = (image.join("disk"), state.join("memory"));
    let (in_disk, in_memory) = (places("disk", &disk)[0], places("memory", &memory)[0]);
    let mut events = daemon.host().watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    flip(&disk, in_disk);
    flip(&memory, in_memory);
    let old = SystemTime::now() - Duration::from_secs(7200);
    File::open(&state).unwrap().set_modified(old).unwrap();
    fs::write(&record, "{}").unwrap();
    let refused = until("launches are refused", async || match daemon.launch(request("counter")).await {
        Err(refused) => Some(refused),
        Ok(early) => {
            daemon.terminate(&early.microvm_id).await.unwrap();
            daemon.ended(&early.microvm_id).await;
            None
        }
    })
    .await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(
        refused.message().starts_with("Version 1.0") && refused.message().contains("is damaged"),
        "{refused}"
    );
    let (mut kinds, mut reasons) = (Vec::new(), Vec::new());
    while kinds.len() < 2 {
        let event = events.message().await.unwrap().unwrap();
        if event.to_state == "DAMAGED" {
            kinds.push(event.kind);
            reasons.push(event.reason.unwrap());
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["microvm", "version"]);
    assert!(
        reasons.iter().any(|reason| reason.starts_with("disk: ") && reason.contains("bytes at")),
        "{reasons:?}"
    );
    let log = daemon.log_text();
    assert!(["file=\"disk\"", "file=\"memory\""].iter().all(|file| log.contains(file)), "{log}");
    assert!(metric("hearth_scrub_errors_total") >= 2.0);

    // The next daemon knows of it, reads it again, and forgets it once the image is whole.
    daemon.kill();
    daemon.restart(None).await;
    assert!(daemon.launch(request("counter")).await.is_err());
    daemon.kill();
    flip(&disk, in_disk);
    flip(&memory, in_memory);
    daemon.restart(None).await;
    let again = until("launches are accepted", async || daemon.launch(request("counter")).await.ok()).await;
    daemon.wait(&again.microvm_id, Running).await;
    until("the record says so", async || {
        kept(&record).filter(|kept| kept["damage"].as_array().is_some_and(Vec::is_empty))
    })
    .await;
    assert!(daemon.log_text().contains("what was damaged is whole again"));
    daemon.finish().await;
}
