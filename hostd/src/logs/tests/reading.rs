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
            Some(next) => query.at = Some(Position::from_bytes(next.to_bytes())),
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
    let one = Query { streams: Streams::Named(vec!["b".into()]), ..query(100) };
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
    let other = Query { streams: Streams::Named(vec!["other".into()]), ..query(1) };
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
    let (rest, _) = all(&logs, Query { at: first.next, ..query(3) }).await;
    let (s, t): (Vec<_>, Vec<_>) = rest.into_iter().partition(|message| message.starts_with('s'));
    assert_eq!(s, ["s4", "s5", "s6", "s7", "s8", "s9", "s10"]);
    assert_eq!(t, ["t"]);

    // The segment of the position is removed, and the next one is created.
    fs::remove_file(&home.segments("s")[0]).unwrap();
    writer.append(line(0, "s11", now)).unwrap();
    let (rest, _) =
        all(&logs, Query { streams: Streams::Named(vec!["s".into()]), at: first.next, ..query(3) }).await;
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

/// The messages of a page.
fn messages(page: &Page) -> Vec<&str> {
    page.events.iter().map(|event| std::str::from_utf8(&event.message).unwrap()).collect()
}

#[tokio::test]
async fn a_group_is_read_backward_and_positions_lead_in_both_directions() {
    let home = Home::new();
    let logs = home.open();
    let start = home.clock.now() - Duration::from_secs(1000);
    let writers = ["a", "b"].map(|stream| logs.writer(ACCOUNT, GROUP, stream).unwrap());
    for index in 0..10u64 {
        let writer = &writers[usize::try_from(index % 2).unwrap()];
        writer.append(line(0, &index.to_string(), start + Duration::from_secs(index))).unwrap();
    }
    let backward = |at| Query { at, backward: true, ..query(4) };
    let read = async |query| logs.read(ACCOUNT, GROUP, query).await.unwrap();
    let last = read(backward(None)).await;
    assert_eq!(messages(&last), ["6", "7", "8", "9"]);
    let middle = read(backward(last.next)).await;
    assert_eq!(messages(&middle), ["2", "3", "4", "5"]);
    let first = read(backward(Some(middle.before))).await;
    assert_eq!((messages(&first), first.next), (vec!["0", "1"], None));
    // Before the first line there is nothing, and the position stays.
    let nothing = read(backward(Some(first.before))).await;
    assert!(nothing.events.is_empty());
    assert_eq!((nothing.before, nothing.after), (first.before, first.before));
    assert_eq!(messages(&read(Query { at: Some(nothing.after), ..query(2) }).await), ["0", "1"]);
    // Forward again, to the end and to what comes later.
    assert_eq!(messages(&read(Query { at: Some(middle.after), ..query(9) }).await), ["6", "7", "8", "9"]);
    let end = read(Query { at: Some(last.after), ..query(9) }).await;
    assert!(end.events.is_empty() && end.after == last.after);
    writers[0].append(line(0, "later", home.clock.now())).unwrap();
    assert_eq!(messages(&read(Query { at: Some(end.after), ..query(9) }).await), ["later"]);
    // Times bound it, too.
    let part = Query {
        start: Some(start + Duration::from_secs(3)),
        end: Some(start + Duration::from_secs(6)),
        backward: true,
        ..query(9)
    };
    assert_eq!(messages(&read(part).await), ["3", "4", "5"]);
}

#[tokio::test]
async fn an_empty_stream_is_followed_from_a_position_in_either_direction() {
    let home = Home::new();
    let logs = home.open();
    let writer = logs.writer(ACCOUNT, GROUP, "s").unwrap();
    for backward in [false, true] {
        let page = logs.read(ACCOUNT, GROUP, Query { backward, ..query(9) }).await.unwrap();
        assert!(page.events.is_empty() && page.next.is_none());
        writer.append(line(0, "first", home.clock.now())).unwrap();
        let later = Query { at: Some(page.after), ..query(9) };
        assert!(messages(&logs.read(ACCOUNT, GROUP, later).await.unwrap()).contains(&"first"));
        fs::remove_file(&home.segments("s")[0]).unwrap();
    }
}

#[tokio::test]
async fn lines_are_chosen_by_streams_and_by_patterns() {
    let home = Home::new();
    let logs = home.open();
    for (stream, message) in [("a/1", r#"{"n": 1}"#), ("a/2", r#"{"n": 2}"#), ("b/1", "n 3")] {
        logs.writer(ACCOUNT, GROUP, stream).unwrap().append(line(0, message, home.clock.now())).unwrap();
    }
    let count = async |streams, pattern: &str| {
        let query = Query { streams, pattern: Some(pattern.into()), ..query(9) };
        logs.read(ACCOUNT, GROUP, query).await.map(|page| page.events.len())
    };
    let named = |names: &[&str]| Streams::Named(names.iter().map(|&name| name.into()).collect());
    assert_eq!(count(Streams::All, "").await.unwrap(), 3);
    assert_eq!(count(Streams::All, "{ $.n > 1 }").await.unwrap(), 1);
    assert_eq!(count(Streams::All, "[n, number]").await.unwrap(), 3);
    assert_eq!(count(Streams::All, "n 3").await.unwrap(), 1);
    assert_eq!(count(Streams::Prefix("a/".into()), "").await.unwrap(), 2);
    assert_eq!(count(Streams::Prefix("c".into()), "").await.unwrap(), 0);
    assert_eq!(count(named(&["a/1", "b/1", "a/1"]), "").await.unwrap(), 2);
    assert!(
        matches!(count(named(&["a/1", "c"]), "").await, Err(LogError::NoStream { stream, .. }) if stream == "c")
    );
    assert!(matches!(count(Streams::All, "{").await, Err(LogError::Pattern(_))));
}

#[tokio::test]
async fn a_page_is_bounded_by_what_it_takes_as_json() {
    let home = Home::new();
    let logs = home.open();
    let writer = logs.writer(ACCOUNT, GROUP, "s").unwrap();
    let message = "\u{1}".repeat(50_000);
    for _ in 0..8 {
        writer.append(line(0, &message, home.clock.now())).unwrap();
    }
    for backward in [false, true] {
        let page = logs.read(ACCOUNT, GROUP, Query { backward, ..query(100) }).await.unwrap();
        assert_eq!(page.events.len(), 3, "300,000 bytes each");
        assert!(page.next.is_some());
    }
    let (found, pages) = all(&logs, query(100)).await;
    assert_eq!((found.len(), pages), (8, 3));
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
            // Backward, the pages are the same in the opposite order.
            let mut back = Vec::new();
            let mut at = None;
            loop {
                let page = Query { backward: true, at, ..query(limit) };
                let page = logs.read(ACCOUNT, GROUP, page).await.unwrap();
                let texts = messages(&page).into_iter().rev().map(str::to_owned);
                back.extend(texts);
                at = page.next;
                if at.is_none() {
                    break;
                }
            }
            back.reverse();
            assert_eq!(whole, back);
            assert_eq!(whole.iter().collect::<HashSet<_>>().len(), lines.len());
        });
    }
}

#[tokio::test]
async fn reads_of_one_account_delay_no_other_and_are_bounded() {
    const OTHER: &str = "000000000002";
    let home = Home::new();
    let logs = home.open();
    let writer = logs.writer(OTHER, GROUP, "a").unwrap();
    writer.append(line(0, "other's", home.clock.now())).unwrap();
    drop(logs.writer(ACCOUNT, GROUP, "a").unwrap());
    // The account has all turns that it may have, and as many that wait.
    let turns = &logs.shared.turns;
    let mut held: Vec<_> = (0..Limits::FILES.per_account).map(|_| turns.queue(ACCOUNT)).collect();
    held.extend((0..Limits::FILES.waiting).map(|_| turns.queue(ACCOUNT)));
    let busy = logs.read(ACCOUNT, GROUP, query(1)).await;
    assert!(matches!(busy, Err(LogError::Busy(_))), "{busy:?}");
    let found = logs.read(OTHER, GROUP, query(1)).await.unwrap();
    assert_eq!(found.events.len(), 1);
    drop(held);
    logs.list_groups(ACCOUNT, "", "", None, 1).await.unwrap();
}
