//! Tests of writing, and of what survives a restart.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::*;

#[tokio::test(start_paused = true)]
async fn the_last_number_survives_and_what_comes_again_is_dropped() {
    let home = Home::new();
    let now = home.clock.now();
    let writer = home.open().writer(ACCOUNT, GROUP, "s").unwrap();
    assert_eq!(writer.last_sequence(), 0);
    for sequence in 1..=3 {
        writer.append(line(sequence, "a line", now)).unwrap();
    }
    writer.append(line(0, "the platform's", now)).unwrap();
    drop(writer);

    let writer = home.open().writer(ACCOUNT, GROUP, "s").unwrap();
    assert_eq!(writer.last_sequence(), 3);
    let length = fs::metadata(&home.segments("s")[0]).unwrap().size();
    writer.append(line(2, "a line", now)).unwrap();
    writer.append(line(3, "a line", now)).unwrap();
    assert_eq!(fs::metadata(&home.segments("s")[0]).unwrap().size(), length);
    writer.append(line(4, "a line", now)).unwrap();
    assert_eq!(writer.last_sequence(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_was_written_by_half_is_cut_off_and_taken_again() {
    let home = Home::new();
    let now = home.clock.now();
    let writer = home.open().writer(ACCOUNT, GROUP, "s").unwrap();
    writer.append(line(1, "whole", now)).unwrap();
    let whole = fs::metadata(&home.segments("s")[0]).unwrap().size();
    writer.append(line(2, "half", now)).unwrap();
    drop(writer);
    let bytes = fs::read(&home.segments("s")[0]).unwrap();

    for end in usize::try_from(whole).unwrap()..bytes.len() {
        fs::write(&home.segments("s")[0], &bytes[..end]).unwrap();
        let writer = home.open().writer(ACCOUNT, GROUP, "s").unwrap();
        assert_eq!(writer.last_sequence(), 1, "cut at {end}");
        assert_eq!(fs::metadata(&home.segments("s")[0]).unwrap().size(), whole);
        writer.append(line(2, "half", now)).unwrap();
        assert_eq!(fs::read(&home.segments("s")[0]).unwrap().len(), bytes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_was_only_created_does_not_stand_in_the_way() {
    let home = Home::new();
    let writer = home.open().writer(ACCOUNT, GROUP, "s").unwrap();
    writer.append(line(7, "a line", home.clock.now())).unwrap();
    drop(writer);
    let next = home.segments("s")[0].with_file_name(format!("{:016x}.log", u64::MAX / 2));
    for begun in [&b""[..], b"hear", b"hearthlg\x01\0\0\0"] {
        fs::write(&next, begun).unwrap();
        assert_eq!(home.open().writer(ACCOUNT, GROUP, "s").unwrap().last_sequence(), 7);
        assert!(!next.exists());
    }
}

#[tokio::test(start_paused = true)]
async fn microvms_that_share_a_stream_number_their_lines_apart() {
    let home = Home::new();
    let now = home.clock.now();
    let message = "x".repeat(100_000);
    let logs = home.open();
    let [one, other] = ["microvm-1", "microvm-2"].map(|id| logs.writer_of(ACCOUNT, GROUP, "s", id).unwrap());
    one.append(line(90, "a line", now)).unwrap();
    for sequence in 1..=20 {
        other.append(line(sequence, &message, now)).unwrap();
    }
    assert!(home.segments("s").len() > 2, "the first line is in an earlier segment");
    drop((one, other, logs));

    let logs = home.open();
    let last = |id| logs.writer_of(ACCOUNT, GROUP, "s", id).unwrap().last_sequence();
    assert_eq!((last("microvm-1"), last("microvm-2"), last("microvm-3")), (90, 20, 0));
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_cannot_be_read_is_left_and_the_next_one_begun() {
    let home = Home::new();
    let now = home.clock.now();
    home.open().writer(ACCOUNT, GROUP, "s").unwrap().append(line(1, "a line", now)).unwrap();
    let damaged = home.segments("s").remove(0);
    fs::write(&damaged, b"something else").unwrap();

    let writer = home.open().writer(ACCOUNT, GROUP, "s").unwrap();
    writer.append(line(5, "a line", now)).unwrap();
    assert_eq!(home.segments("s").len(), 2);
    assert_eq!(fs::read(damaged).unwrap(), b"something else");
}

#[tokio::test(start_paused = true)]
async fn a_writer_goes_on_when_its_folder_was_removed() {
    let home = Home::new();
    let now = home.clock.now();
    let long = format!("{}{}", "y".repeat(300), "z");
    let writer = home.open().writer(ACCOUNT, GROUP, &long).unwrap();
    writer.append(line(1, "gone", now)).unwrap();
    fs::remove_dir_all(home.folder.path().join(ACCOUNT)).unwrap();
    writer.append(line(2, "there", now)).unwrap();
    assert_eq!(home.segments(&long).len(), 1);
    drop(writer);
    assert_eq!(home.open().writer(ACCOUNT, GROUP, &long).unwrap().last_sequence(), 2);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_written_the_error_says_so_and_the_writer_recovers() {
    let home = Home::new();
    let now = home.clock.now();
    let writer = home.open().writer(ACCOUNT, GROUP, "s").unwrap();
    let folder = home.folder.path().join(ACCOUNT);
    fs::remove_dir_all(&folder).unwrap();
    fs::File::create(&folder).unwrap().write_all(b"no folder").unwrap();
    let error = writer.append(line(1, "a line", now)).unwrap_err().to_string();
    assert!(error.contains("log stream s") && error.contains("Not a directory"), "{error}");
    assert_eq!(writer.last_sequence(), 0);
    fs::remove_file(&folder).unwrap();
    writer.append(line(1, "a line", now)).unwrap();
    assert_eq!(writer.last_sequence(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_files_are_open_than_allowed() {
    let home = Home::new();
    let now = home.clock.now();
    let logs = home.with(LogsConfig { max_open_files: 3, ..LogsConfig::default() });
    let writers: Vec<_> =
        (0..20).map(|index| logs.writer(ACCOUNT, GROUP, &format!("s{index}")).unwrap()).collect();
    for sequence in 1..=5 {
        for writer in &writers {
            writer.append(line(sequence, "a line", now)).unwrap();
            assert!(logs.shared.handles.count() <= 3);
        }
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    assert_eq!(open.filter(|path| path.starts_with(home.folder.path())).count(), 3);
    assert!(writers.iter().all(|writer| writer.last_sequence() == 5));
}

/// Limits the size of files: a write beyond it is done partially and then fails, as on a full disk.
fn limit_files(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_left_of_a_line_and_it_is_taken_again_when_there_is_room() {
    const ALONE: &str = "HEARTH_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // The limit applies to the whole process and must not affect other tests.
        let (_, module) = module_path!().split_once("::").unwrap();
        let test = format!(
            "{module}::on_a_full_disk_nothing_is_left_of_a_line_and_it_is_taken_again_when_there_is_room"
        );
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let status = alone.args(["--exact", test.as_str(), "--nocapture"]).env(ALONE, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let home = Home::new();
    let logs = home.open();
    let writer = logs.writer(ACCOUNT, GROUP, "s").unwrap();
    let message = "x".repeat(30_000);
    // Without a handler, the signal of a file that is too large ends the process.
    let _too_large = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).unwrap();
    let append = |sequence| writer.append(line(sequence, &message, home.clock.now()));
    limit_files(Some(100_000));
    let written = (1..=10).take_while(|&sequence| append(sequence).is_ok()).count();
    assert_eq!(written, 3);
    let size = fs::metadata(&home.segments("s")[0]).unwrap().size();
    assert!(size < 91_000, "{size} bytes: there is half a line");
    let error = append(4).unwrap_err().to_string();
    assert!(error.contains("File too large") && error.contains("taken again"), "{error}");
    // After a failure at the first line of a stream, no segment is left either.
    let other = logs.writer(ACCOUNT, GROUP, "t").unwrap();
    limit_files(Some(1000));
    other.append(line(1, &message, home.clock.now())).unwrap_err();
    assert!(home.segments("t").is_empty());

    limit_files(None);
    assert_eq!((writer.last_sequence(), other.last_sequence()), (3, 0));
    (1..=10).for_each(|sequence| append(sequence).unwrap());
    other.append(line(1, &message, home.clock.now())).unwrap();
    let page = logs.read(ACCOUNT, GROUP, Query { limit: 100, ..Query::default() }).await.unwrap();
    assert_eq!(page.events.len(), 11);
    assert!(page.events.iter().all(|event| event.message.len() == 30_000));
}
