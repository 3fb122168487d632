//! Reads the app's output.

use std::sync::Arc;

use hearth_proto::guest::v1::LogSource;
use tokio::net::unix::pipe;

use super::Ring;
use super::lines::Lines;

/// Bytes that are read at once: the capacity of a pipe.
const STEP: usize = 64 << 10;

/// Reads a pipe to its end into the ring.
pub async fn read(pipe: pipe::Receiver, source: LogSource, ring: Arc<Ring>) {
    let mut lines = Lines::default();
    let mut buffer = Vec::new();
    // A pipe that cannot be read counts as ended. The buffer is kept only while there are bytes to read: an idle guest's memory is in
    // every snapshot.
    while pipe.readable().await.is_ok() {
        buffer.reserve_exact(STEP);
        loop {
            buffer.clear();
            match pipe.try_read_buf(&mut buffer) {
                Ok(0) => {
                    ring.add(source, lines.finish().into_iter().collect()).await;
                    return;
                }
                Ok(_) => ring.add(source, lines.add(&buffer)).await,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write as _};

    use hearth_proto::guest::v1::LogRecord;

    use super::*;
    use hearth_agent_protocol::frame;

    fn started(bound: usize) -> (Arc<Ring>, PipeWriter, tokio::task::JoinHandle<()>) {
        let ring = Arc::new(Ring::new(bound));
        let (reader, writer) = std::io::pipe().unwrap();
        let pipe = pipe::Receiver::from_owned_fd(reader.into()).unwrap();
        let task = tokio::spawn(read(pipe, LogSource::Stdout, Arc::clone(&ring)));
        (ring, writer, task)
    }

    async fn next(ring: &Ring, cursor: &mut u64, limit: usize) -> Vec<LogRecord> {
        let mut bytes = Vec::new();
        ring.next(cursor, &mut bytes, limit).await;
        let mut bytes = bytes.as_slice();
        let mut records = Vec::new();
        while let Some(record) = frame::read(&mut bytes).await.unwrap() {
            records.push(record);
        }
        records
    }

    #[tokio::test]
    async fn all_lines_come_in_their_order_and_the_last_without_a_newline() {
        let (ring, mut writer, task) = started(1 << 20);
        writer.write_all(b"one\ntwo\nlast").unwrap();
        drop(writer);
        task.await.unwrap();
        let records = next(&ring, &mut 0, usize::MAX).await;
        let lines: Vec<_> = records.iter().map(|record| (record.sequence, record.line.as_slice())).collect();
        assert_eq!(lines, [(1, &b"one"[..]), (2, b"two"), (3, b"last")]);
        assert!(records.iter().all(|record| record.source() == LogSource::Stdout && record.timestamp_ns > 0));
    }

    #[tokio::test]
    async fn a_full_ring_makes_the_writer_wait_and_loses_nothing() {
        const LINES: u64 = 50_000;
        let (ring, mut writer, task) = started(10_000);
        let writing = std::thread::spawn(move || {
            for number in 1..=LINES {
                writeln!(writer, "line {number}").unwrap();
            }
        });
        let (mut cursor, mut seen) = (0, 0);
        while seen < LINES {
            let records = next(&ring, &mut cursor, 4_000).await;
            for record in records {
                seen += 1;
                assert_eq!(record.sequence, seen);
                assert_eq!(record.line, format!("line {seen}").as_bytes());
            }
            assert!(ring.sequences().0 - ring.sequences().1 <= 110, "the bound holds");
            ring.acknowledge(cursor);
        }
        writing.join().unwrap();
        task.await.unwrap();
        assert_eq!(ring.sequences(), (LINES, LINES));
    }

    #[tokio::test]
    async fn what_was_not_acknowledged_is_sent_again() {
        let (ring, mut writer, task) = started(1 << 20);
        writer.write_all(b"a\nb\nc\n").unwrap();
        drop(writer);
        task.await.unwrap();
        let mut cursor = 0;
        assert_eq!(next(&ring, &mut cursor, usize::MAX).await.len(), 3);
        ring.acknowledge(2);
        ring.acknowledge(1);
        let again = next(&ring, &mut 0, usize::MAX).await;
        assert_eq!(again.iter().map(|record| record.sequence).collect::<Vec<_>>(), [3]);
        ring.acknowledge(u64::MAX);
        assert_eq!(ring.sequences(), (3, 3), "what was never sent cannot be acknowledged");
    }
}
