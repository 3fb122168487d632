//! Tests of reading, page by page and following.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _};
use proptest::prelude::*;

use super::*;

/// The messages of all pages, and the number of pages.
async fn all(logs: &Logs, query: Query) -> (Vec<String>, usize) {
    let (mut messages, mut pages, mut query) = (Vec::new(), 0, query);
    loop {
        let page = logs.read(ACCOUNT, GROUP, query.clone()).await.unwrap();
        messages.extend(page.events.into_iter().map(|event| String::from_utf8(event.message).unwrap()));
        pages += 1;
        match page.next {
            // The position as a client holds it: as bytes.
            Some(next) => query.after = Some(Position::from_bytes(next.to_bytes())),
            None => return (messages, pages),
        }
    }
}

fn query(limit: usize) -> Query {
    Query { limit, ..Query::default() }
}

async fn some(
    tail: &mut (impl Stream<Item = Result<LogEvent, LogError>> + Unpin),
    count: usize,
) -> Vec<String> {
    let events = tail.take(count).map(|event| String::from_utf8(event.unwrap().message).unwrap());
    events.collect().await
}

#[tokio::test]
async fn lines_of_all_streams_come_in_order_of_time_page_by_page() {
    let home = Home::new();
    let logs = home.open();
    let start = home.clock.now() - Duration::from_secs(1000);
    let writers = ["a", "b", "c"].map(|stream| logs.writer(ACCOUNT, GROUP, stream).unwrap());
    let mut expected = Vec::new();
    for index in 0..60u64 {
        let message = format!("line {index}");
        let writer = &writers[usize::try_from(index * 7 % 3).unwrap()];
        writer.append(line(0, &message, start + Duration::from_secs(index))).unwrap();
        expected.push(message);
    }
    for limit in [1, 7, 60, 100] {
        let (found, pages) = all(&logs, query(limit)).await;
        assert_eq!(found, expected);
        assert_eq!(pages, 60_usize.div_ceil(limit).max(1), "of {limit}");
    }
    let one = Query { stream: Some("b".into()), ..query(100) };
    let (found, _) = all(&logs, one).await;
    assert_eq!(found.len(), 20);
    let part = Query {
        start: Some(start + Duration::from_secs(10)),
        end: Some(start + Duration::from_secs(20)),
        ..query(3)
    };
    assert_eq!(all(&logs, part).await.0, expected[10..20]);
    let filtered = Query { contains: Some("line 5".into()), ..query(2) };
    assert_eq!(all(&logs, filtered).await.0.len(), 11);
    assert!(all(&logs, Query { contains: Some("line .".into()), ..query(2) }).await.0.is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let home = Home::new();
    let logs = home.open();
    let error = logs.read(ACCOUNT, GROUP, query(1)).await.unwrap_err();
    assert!(matches!(error, LogError::NoGroup(group) if group == GROUP));
    logs.writer(ACCOUNT, GROUP, "s").unwrap();
    let other = Query { stream: Some("other".into()), ..query(1) };
    assert!(matches!(logs.read(ACCOUNT, GROUP, other).await, Err(LogError::NoStream { .. })));
    assert!(matches!(logs.read("000000000002", GROUP, query(1)).await, Err(LogError::NoGroup(_))));
    let long = Query { contains: Some("x".repeat(1025)), ..query(1) };
    assert!(matches!(logs.read(ACCOUNT, GROUP, long).await, Err(LogError::Filter(1024))));
}

#[tokio::test]
async fn times_grow_within_a_stream_whatever_a_guest_says() {
    let home = Home::new();
    let logs = home.open();
    let now = home.clock.now();
    let writer = logs.writer(ACCOUNT, GROUP, "s").unwrap();
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    for (message, at) in
        [("1", SystemTime::UNIX_EPOCH), ("2", now), ("3", now), ("4", far), ("5", SystemTime::UNIX_EPOCH)]
    {
        writer.append(line(0, message, at)).unwrap();
    }
    let page = logs.read(ACCOUNT, GROUP, query(10)).await.unwrap();
    assert_eq!(page.events.iter().map(|event| event.message[0]).collect::<Vec<_>>(), b"12345");
    assert!(page.events.is_sorted_by(|one, next| one.time < next.time));
    assert!(page.events[0].time >= now - Duration::from_secs(24 * 60 * 60));
    let last = page.events[4].time.duration_since(now).unwrap();
    assert!(last < Duration::from_secs(10), "{last:?} ahead"); // the clock of this test advances
}

#[tokio::test]
async fn a_page_has_bounded_bytes_and_long_lines_come_in_parts() {
    let home = Home::new();
    let logs = home.open();
    let now = home.clock.now();
    let writer = logs.writer(ACCOUNT, GROUP, "s").unwrap();
    let long = "x".repeat(700 << 10);
    for sequence in 1..=3 {
        writer.append(line(sequence, &long, now)).unwrap();
    }
    assert_eq!(writer.last_sequence(), 3);
    let page = logs.read(ACCOUNT, GROUP, query(1000)).await.unwrap();
    let bytes: usize = page.events.iter().map(|event| event.message.len()).sum();
    assert!(bytes < (1 << 20) + (256 << 10) && page.next.is_some());
    let (found, _) = all(&logs, query(1000)).await;
    assert_eq!(found.concat().len(), 3 * long.len());
    assert_eq!(found.len(), 9);
}

#[tokio::test]
async fn a_damaged_segment_is_told_in_its_place_and_the_rest_is_read() {
    let home = Home::new();
    let logs = home.open();
    let now = home.clock.now();
    let writer = logs.writer(ACCOUNT, GROUP, "s").unwrap();
    let filling = "x".repeat(200 << 10);
    for index in 0..8 {
        writer.append(line(0, &format!("{index} {filling}"), now)).unwrap();
    }
    let segments = home.segments("s");
    assert_eq!(segments.len(), 4);
    let mut bytes = fs::read(&segments[1]).unwrap();
    let middle = bytes.len() / 2 + 1000;
    bytes[middle] ^= 1; // of the second line
    fs::write(&segments[1], bytes).unwrap();
    fs::write(&segments[2], b"nothing of ours").unwrap();

    for limit in [1, 3, 100] {
        let (found, _) = all(&logs, query(limit)).await;
        let heads: Vec<_> = found.iter().map(|message| &message[..1]).collect();
        assert_eq!(heads, ["0", "1", "2", "[", "[", "6", "7"], "of {limit}");
    }
    let mut tail = Box::pin(logs.tail(ACCOUNT, GROUP, None, None, 4).await.unwrap());
    let heads: Vec<_> = some(&mut tail, 4).await.iter().map(|message| message[..1].to_owned()).collect();
    assert_eq!(heads, ["1", "2", "6", "7"]);
}

#[tokio::test]
async fn pages_go_on_where_they_were_while_lines_come_and_segments_go() {
    let home = Home::new();
    let logs = home.with(LogsConfig { retention_days: 1, ..LogsConfig::default() });
    let now = home.clock.now();
    let writer = logs.writer(ACCOUNT, GROUP, "s").unwrap();
    let other = logs.writer(ACCOUNT, GROUP, "t").unwrap();
    for index in 0..10 {
        writer.append(line(0, &format!("s{index}"), now - Duration::from_secs(100 - index))).unwrap();
    }
    let first = logs.read(ACCOUNT, GROUP, query(4)).await.unwrap();
    other.append(line(0, "t", now)).unwrap();
    writer.append(line(0, "s10", now)).unwrap();
    let (rest, _) = all(&logs, Query { after: first.next, ..query(3) }).await;
    let (s, t): (Vec<_>, Vec<_>) = rest.into_iter().partition(|message| message.starts_with('s'));
    assert_eq!(s, ["s4", "s5", "s6", "s7", "s8", "s9", "s10"]);
    assert_eq!(t, ["t"]);

    // The segment of the position is removed, and the next one is created.
    fs::remove_file(&home.segments("s")[0]).unwrap();
    writer.append(line(0, "s11", now)).unwrap();
    let (rest, _) = all(&logs, Query { stream: Some("s".into()), after: first.next, ..query(3) }).await;
    assert_eq!(rest, ["s11"]);
}

#[tokio::test]
async fn the_last_lines_come_first_and_then_each_new_one_from_new_streams_too() {
    let home = Home::new();
    let logs = home.open();
    let start = home.clock.now() - Duration::from_secs(1000);
    let writers = ["a", "b"].map(|stream| logs.writer(ACCOUNT, GROUP, stream).unwrap());
    for index in 0..20u64 {
        let writer = &writers[usize::try_from(index % 2).unwrap()];
        writer.append(line(0, &format!("old {index}"), start + Duration::from_secs(index))).unwrap();
    }
    let mut tail = Box::pin(logs.tail(ACCOUNT, GROUP, None, None, 3).await.unwrap());
    let mut one = Box::pin(logs.tail(ACCOUNT, GROUP, Some("later"), None, 3).await.unwrap());
    let mut chosen = Box::pin(logs.tail(ACCOUNT, GROUP, None, Some("old 1"), 2).await.unwrap());
    assert_eq!(some(&mut tail, 3).await, ["old 17", "old 18", "old 19"]);
    assert_eq!(some(&mut chosen, 2).await, ["old 18", "old 19"]);

    writers[0].append(line(0, "new", home.clock.now())).unwrap();
    assert_eq!(some(&mut tail, 1).await, ["new"]);
    let later = logs.writer(ACCOUNT, GROUP, "later").unwrap();
    later.append(line(0, "of another stream", home.clock.now())).unwrap();
    later.append(line(0, "old 1 as well", home.clock.now())).unwrap();
    assert_eq!(some(&mut tail, 2).await, ["of another stream", "old 1 as well"]);
    assert_eq!(some(&mut one, 2).await, ["of another stream", "old 1 as well"]);
    assert_eq!(some(&mut chosen, 1).await, ["old 1 as well"]);
}

#[tokio::test]
async fn a_group_can_be_followed_before_it_is_there() {
    let home = Home::new();
    let logs = home.open();
    let mut tail = Box::pin(logs.tail(ACCOUNT, GROUP, None, None, 10).await.unwrap());
    let writer = logs.writer(ACCOUNT, GROUP, "s").unwrap();
    writer.append(line(0, "the first", home.clock.now())).unwrap();
    drop(writer);
    assert_eq!(some(&mut tail, 1).await, ["the first"]);
}

/// Threads write several segments each while a group is followed: every line arrives once, and those of each stream
/// in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_while_it_is_written_and_followed() {
    const LINES: u64 = 3000;
    const STREAMS: u64 = 4;
    let home = Home::new();
    let logs = home.open();
    let begun = logs.writer(ACCOUNT, GROUP, "s0").unwrap();
    let filling = "x".repeat(600);
    begun.append(line(1, &format!("s0 1 {filling}"), home.clock.now())).unwrap();
    let mut writers = Vec::new();
    for stream in 0..STREAMS {
        let (logs, clock, filling) = (logs.clone(), home.clock, filling.clone());
        writers.push(std::thread::spawn(move || {
            for sequence in 1..=LINES {
                // The writer is opened again now and then, as by a daemon that adopts a microVM.
                let writer = logs.writer(ACCOUNT, GROUP, &format!("s{stream}")).unwrap();
                writer
                    .append(line(sequence, &format!("s{stream} {sequence} {filling}"), clock.now()))
                    .unwrap();
            }
        }));
    }
    let tail = Box::pin(logs.tail(ACCOUNT, GROUP, None, None, 10_000).await.unwrap());
    let count = usize::try_from(LINES * STREAMS).unwrap();
    let mut seen = HashSet::new();
    let mut last = std::collections::HashMap::new();
    let mut events = tail.take(count);
    while let Some(event) = events.next().await {
        let event = event.unwrap();
        let message = String::from_utf8(event.message).unwrap();
        let mut words = message.split(' ').skip(1);
        let sequence: u64 = words.next().unwrap().parse().unwrap();
        assert!(seen.insert((event.stream.to_string(), sequence)), "{} {sequence} came twice", event.stream);
        let before = last.insert(event.stream.clone(), sequence).unwrap_or(0);
        assert_eq!(sequence, before + 1, "in {}", event.stream);
    }
    assert_eq!(seen.len(), count);
    assert!(home.segments("s0").len() > 3);
    for writer in writers {
        writer.join().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// For all lines, streams and times: pages of any size together equal one page with everything, in the same
    /// order.
    #[test]
    fn pages_are_the_whole_in_parts(
        lines in prop::collection::vec((0..4usize, 0..50u64), 1..80),
        limit in 1..20usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let home = Home::new();
            let logs = home.open();
            let start = home.clock.now() - Duration::from_secs(100);
            for (index, (stream, second)) in lines.iter().enumerate() {
                let writer = logs.writer(ACCOUNT, GROUP, &format!("s{stream}")).unwrap();
                writer.append(line(0, &format!("{index}"), start + Duration::from_secs(*second))).unwrap();
            }
            let (whole, _) = all(&logs, query(1000)).await;
            let (parts, _) = all(&logs, query(limit)).await;
            assert_eq!(whole, parts);
            assert_eq!(whole.iter().collect::<HashSet<_>>().len(), lines.len());
        });
    }
}
