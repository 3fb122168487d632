//! The app's log.

use hearth_proto::guest::v1::LogSource;

use super::support::{Machine, Metal, shell};

#[test]
fn fifty_thousand_lines_come_in_their_order_over_two_connections() {
    const LINES: u64 = 50_000;
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    guest.start(shell(&format!("seq 1 {LINES}; printf 'no newline'")));
    let mut logs = guest.logs(0);
    let mut stored = 0;
    while stored < LINES / 2 {
        let record = logs.next();
        stored += 1;
        assert_eq!((record.sequence, record.line), (stored, stored.to_string().into_bytes()));
    }
    // The records after this one were sent, but are lost with the connection.
    drop(logs);
    let mut logs = guest.logs(stored);
    while stored < LINES {
        let record = logs.next();
        stored += 1;
        assert_eq!((record.source(), record.continues), (LogSource::Stdout, false));
        assert_eq!((record.sequence, record.line), (stored, stored.to_string().into_bytes()));
        if stored.is_multiple_of(1000) {
            logs.acknowledge(stored);
        }
    }
    assert_eq!(logs.next().line, b"no newline");
    assert_eq!(guest.wait_app().code, 0);
    assert_eq!(guest.status().last_log, LINES + 1);
    guest.power_off();
}

#[test]
fn an_app_that_nobody_listens_to_waits_and_loses_nothing() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    // More bytes than the agent keeps, and a line that is longer than a record.
    let script = "echo begin >&2; head -c 300000 /dev/zero | tr '\\0' x; echo; \
                  i=0; while [ $i -lt 100 ]; do head -c 99999 /dev/zero | tr '\\0' y; echo; i=$((i+1)); done; echo end >&2";
    guest.start(shell(script));
    // The app goes on as long as there is room, and then blocks.
    let mut before = 0;
    loop {
        guest.sh("sleep 1");
        let now = guest.status().last_log;
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    assert!(before < 100, "{before} lines are kept");
    let mut logs = guest.logs(0);
    let (mut long, mut lines) = (Vec::new(), 0);
    let mut errors = Vec::new();
    while lines < 100 || errors.len() < 2 {
        let record = logs.next();
        logs.acknowledge(record.sequence);
        match (record.source(), record.line.first()) {
            (LogSource::Stderr, _) => errors.push(record.line),
            (_, Some(b'x')) => long.push((record.line.len(), record.continues)),
            _ => {
                assert_eq!(record.line, vec![b'y'; 99_999]);
                lines += 1;
            }
        }
    }
    assert_eq!(errors, [b"begin".to_vec(), b"end".to_vec()]);
    assert_eq!(long, [(262_144, true), (37_856, false)]);
    assert_eq!(guest.wait_app().code, 0);
    guest.power_off();
}

#[test]
fn a_process_that_is_killed_for_memory_has_a_line() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    // The last line of what has none is all of it. Nobody else is told of who kills himself.
    guest.start(shell("sh -c 'kill -9 $$'; tail /dev/zero; echo ended with $?"));
    let mut logs = guest.logs(0);
    let (mut killed, mut lines) = (Vec::new(), Vec::new());
    while killed.is_empty() || lines.is_empty() {
        let record = logs.next();
        logs.acknowledge(record.sequence);
        let line = String::from_utf8(record.line.clone()).unwrap();
        match record.source() {
            LogSource::Agent => killed.push((record.killed, line)),
            LogSource::Stdout => lines.push(line),
            _ => println!("{line}"),
        }
    }
    assert_eq!(lines, ["ended with 137"]);
    let line = "hearth: tail was killed: the microVM has no memory left";
    assert_eq!(killed, [("tail".to_owned(), line.to_owned())]);
    guest.wait_app();
    guest.power_off();
}
