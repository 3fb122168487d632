//! What the tests of CloudWatch Logs in `tests/aws` read.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::builds::tests::double::ACCOUNT;
use crate::clock::Clock;
use crate::logs::{Line, Logs, Source};

const GROUP: &str = "/aws/lambda-microvms/lines";
const LIVE: &str = "/aws/lambda-microvms/live";

/// Writes `line 0` to `line 59` to two streams in turn, a second apart, and a line of JSON to a third; then, for ever, a
/// line every 20 ms to another group.
pub(super) fn write(logs: &Logs, clock: Clock) -> JoinHandle<()> {
    let now = clock.now();
    let append = |stream: &str, seconds: u64, message: &str| {
        let timestamp = now - Duration::from_secs(seconds);
        let line = Line { timestamp, source: Source::Stdout, sequence: 0, message: message.as_bytes() };
        logs.writer(ACCOUNT, GROUP, stream).unwrap().append(line).unwrap();
    };
    for number in 0..60_u64 {
        let stream = if number % 2 == 0 { "2026/11/29[1.0]a" } else { "2026/11/29[1.0]b" };
        append(stream, 100 - number, &format!("line {number}"));
    }
    append("json", 1, r#"{"level": "error", "ms": 700}"#);
    let writer = logs.writer(ACCOUNT, LIVE, "s").unwrap();
    tokio::spawn(async move {
        for number in 0_u64.. {
            let message = format!("live {number}");
            let line = Line {
                timestamp: clock.now(),
                source: Source::Stdout,
                sequence: 0,
                message: message.as_bytes(),
            };
            writer.append(line).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}
