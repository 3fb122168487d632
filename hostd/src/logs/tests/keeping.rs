//! Tests of lists, limits and removal.

use std::fs;
use std::time::Duration;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The streams of a group by name.
async fn streams(logs: &Logs, group: &str, prefix: &str) -> Vec<StreamInfo> {
    let order = StreamOrder::default();
    let found = logs.list_streams(ACCOUNT, group, prefix, order, None, 50).await.unwrap();
    found.into_iter().map(|(_, stream)| stream).collect()
}

#[tokio::test(start_paused = true)]
async fn groups_and_streams_are_listed_by_name_with_sizes_and_times() {
    let home = Home::new();
    let logs = home.open();
    let now = home.clock.now();
    let early = now - Duration::from_secs(60);
    let long = "l".repeat(400);
    for group in ["/b", "/a/2", "/a/1", &long] {
        logs.writer(ACCOUNT, group, "s").unwrap();
    }
    for stream in ["2026/11/21[1.0]microvm-b", "2026/11/21[1.0]microvm-a", "x"] {
        let writer = logs.writer(ACCOUNT, "/b", stream).unwrap();
        writer.append(line(1, "first", early)).unwrap();
        writer.append(line(2, "last", now)).unwrap();
    }
    let groups = async |prefix: &str, after: Option<&str>, limit| {
        let groups = logs.list_groups(ACCOUNT, prefix, "", after, limit).await.unwrap();
        groups.into_iter().map(|group| (group.name, group.stored_bytes > 0)).collect::<Vec<_>>()
    };
    let named =
        |names: &[&str]| names.iter().map(|&name| (name.to_owned(), name == "/b")).collect::<Vec<_>>();
    assert_eq!(groups("", None, 50).await, named(&["/a/1", "/a/2", "/b", &long]));
    assert_eq!(groups("/", None, 2).await, named(&["/a/1", "/a/2"]));
    assert_eq!(groups("/", Some("/a/2"), 2).await, named(&["/b"]));
    assert_eq!(logs.list_groups("000000000002", "", "", None, 50).await.unwrap(), []);

    let found = streams(&logs, "/b", "2026/").await;
    let names: Vec<_> = found.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["2026/11/21[1.0]microvm-a", "2026/11/21[1.0]microvm-b"]);
    assert_eq!((found[0].first_event, found[0].last_event), (Some(early), Some(now)));
    assert!(found[0].stored_bytes > 0);
    let empty = &streams(&logs, &long, "").await[0];
    assert_eq!((empty.stored_bytes, empty.first_event, empty.last_event), (0, None, None));
    assert!(matches!(
        logs.list_streams(ACCOUNT, "/c", "", StreamOrder::default(), None, 50).await,
        Err(LogError::NoGroup(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn streams_are_listed_in_each_order_page_by_page() {
    let home = Home::new();
    let logs = home.open();
    logs.writer(ACCOUNT, GROUP, "empty").unwrap();
    for (age, name) in [(10, "b"), (30, "a"), (20, "c")] {
        let writer = logs.writer(ACCOUNT, GROUP, name).unwrap();
        writer.append(line(0, name, home.clock.now() - Duration::from_secs(age))).unwrap();
    }
    for (by_last_event, descending, expected) in [
        (false, false, ["a", "b", "c", "empty"]),
        (false, true, ["empty", "c", "b", "a"]),
        (true, false, ["empty", "a", "c", "b"]),
        (true, true, ["b", "c", "a", "empty"]),
    ] {
        let order = StreamOrder { by_last_event, descending };
        for limit in 1..5 {
            let (mut names, mut after) = (Vec::new(), None);
            loop {
                let page = logs.list_streams(ACCOUNT, GROUP, "", order, after, limit).await.unwrap();
                let Some((last, _)) = page.last() else { break };
                after = StreamKey::from_bytes(&last.to_bytes());
                names.extend(page.into_iter().map(|(_, stream)| stream.name));
            }
            assert_eq!(names, expected, "{order:?}, {limit} a page");
        }
    }
    assert_eq!(StreamKey::from_bytes(b"short"), None);
    let groups = logs.list_groups(ACCOUNT, "", "microvms/w", None, 50).await.unwrap();
    assert_eq!(groups.len(), 1);
    assert!(groups[0].created.is_some());
    assert!(logs.list_groups(ACCOUNT, "", "Microvms", None, 50).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn old_lines_go_and_what_is_written_stays() {
    let home = Home::new();
    let logs = home.open();
    let ended = logs.writer(ACCOUNT, GROUP, "ended").unwrap();
    ended.append(line(1, "old", home.clock.now())).unwrap();
    drop(ended);
    let writer = logs.writer(ACCOUNT, GROUP, "written").unwrap();
    writer.append(line(1, "old", home.clock.now())).unwrap();
    tokio::time::advance(13 * DAY).await;
    assert_eq!(logs.sweep().removed_segments, 0);
    writer.append(line(2, "young", home.clock.now())).unwrap();
    assert_eq!(home.segments("written").len(), 2, "a segment spans a day");
    tokio::time::advance(2 * DAY).await;

    let swept = logs.sweep();
    assert_eq!((swept.removed_segments, swept.stored_bytes), (2, logs.stored_bytes()));
    assert_eq!((home.segments("ended").len(), home.segments("written").len()), (0, 1));
    let left = streams(&logs, GROUP, "").await;
    assert_eq!(left.len(), 1, "the stream without lines is gone");

    tokio::time::advance(30 * DAY).await;
    assert_eq!(logs.sweep().removed_segments, 0, "it is still being written");
    drop(writer);
    assert_eq!(logs.sweep().removed_segments, 1);
    assert_eq!(logs.list_groups(ACCOUNT, "", "", None, 50).await.unwrap(), []);
    assert_eq!(logs.stored_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_a_group_and_the_host_keep_to_their_sizes() {
    let home = Home::new();
    let config = LogsConfig {
        segment_bytes: 512 << 10,
        max_stream_bytes: 2 << 20,
        max_group_bytes: 4 << 20,
        max_bytes: 6 << 20,
        ..LogsConfig::default()
    };
    let logs = home.with(config);
    let filling = "x".repeat(100 << 10);
    let fill = |group: &str, stream: &str, lines: u64| {
        let writer = logs.writer(ACCOUNT, group, stream).unwrap();
        let from = writer.last_sequence();
        for sequence in from + 1..=from + lines {
            writer.append(line(sequence, &filling, home.clock.now())).unwrap();
        }
    };
    fill(GROUP, "s", 100);
    let size: u64 = home.segments("s").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(size <= 2 << 20 && size > 1 << 20, "{size} bytes, without a sweep");

    tokio::time::advance(DAY / 2).await;
    for stream in ["t", "u"] {
        fill(GROUP, stream, 19);
    }
    let swept = logs.sweep();
    assert!(swept.stored_bytes <= 4 << 20 && swept.removed_segments > 0, "{swept:?}");
    assert!(home.segments("s").len() < 4 && home.segments("u").len() == 4, "the oldest go");

    tokio::time::advance(DAY / 2).await;
    for group in ["/b", "/c"] {
        fill(group, "s", 19);
    }
    assert!(logs.sweep().stored_bytes <= 6 << 20);
    let sizes = logs.list_groups(ACCOUNT, "", "", None, 50).await.unwrap();
    assert!(sizes[0].stored_bytes < 5 << 19 && sizes[1].stored_bytes > 19 * (100 << 10), "{sizes:?}");
    // Sequence numbers are known although their lines were removed.
    assert_eq!(logs.writer(ACCOUNT, "/c", "s").unwrap().last_sequence(), 19);
}

#[tokio::test(start_paused = true)]
async fn logs_go_from_the_account_that_has_most() {
    const OTHERS: [&str; 2] = ["000000000002", "000000000003"];
    let home = Home::new();
    let config = LogsConfig { segment_bytes: 512 << 10, max_bytes: 6 << 20, ..LogsConfig::default() };
    let logs = home.with(config);
    let filling = "x".repeat(100 << 10);
    let fill = |account: &str, stream: &str, lines: u64| {
        let writer = logs.writer(account, GROUP, stream).unwrap();
        for sequence in 1..=lines {
            writer.append(line(sequence, &filling, home.clock.now())).unwrap();
        }
    };
    let stored = async |account: &str| {
        let groups = logs.list_groups(account, "", "", None, 50).await.unwrap();
        groups.iter().map(|group| group.stored_bytes).sum::<u64>()
    };
    fill(ACCOUNT, "oldest", 15);
    tokio::time::advance(DAY / 4).await;
    fill(OTHERS[0], "old", 20);
    let quiet = (stored(ACCOUNT).await, stored(OTHERS[0]).await);
    tokio::time::advance(DAY / 4).await;
    // One floods the logs with streams and groups of any number.
    for number in 0..10 {
        fill(OTHERS[1], &format!("new-{number}"), 20);
    }
    let swept = logs.sweep();
    assert!(swept.stored_bytes <= 6 << 20 && swept.stored_bytes > 5 << 20, "{swept:?}");
    assert_eq!(
        (stored(ACCOUNT).await, stored(OTHERS[0]).await),
        quiet,
        "the flood has its own lines removed"
    );

    // Who has less than the others keeps everything, and those who have most come to have the same.
    fill(OTHERS[0], "more", 60);
    logs.sweep();
    let (one, two) = (stored(OTHERS[0]).await, stored(OTHERS[1]).await);
    assert_eq!(stored(ACCOUNT).await, quiet.0);
    assert!(one.abs_diff(two) <= 512 << 10, "{one} and {two} bytes");
}
