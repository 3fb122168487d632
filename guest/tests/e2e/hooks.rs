//! Hooks and streams to an app in the guest. All outcomes are tested beside the code; these tests cover the connection to the app.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use hearth_proto::guest::v1::request::Operation;
use hearth_proto::guest::v1::response::Result as Answer;
use hearth_proto::guest::v1::{CallHook, FailureCode, Hook, HookOutcome, OpenStream, hook_outcome, open};

use super::support::{Guest, Machine, Metal, shell};

fn call(guest: &mut Guest, hook: Hook, timeout_ms: u32) -> HookOutcome {
    let request = CallHook { hook: hook.into(), port: 9000, timeout_ms, ..CallHook::default() };
    match guest.ask(Operation::CallHook(request)) {
        Answer::Hook(outcome) => outcome,
        other => panic!("no outcome: {other:?}"),
    }
}

#[test]
fn hooks_reach_the_app() {
    use hook_outcome::Result::{Refused, Status, TimedOut};
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    // The first two connections get a 503, the others a 200; the first line of each request is printed.
    let serve = "n=$(cat /n); echo $((n+1)) > /n; read first; echo \"$first\" >&2; \
                 while read line && [ ${#line} -gt 1 ]; do :; done; \
                 [ $n -lt 2 ] && s=503 || s=200; printf \"HTTP/1.1 $s X\\r\\nContent-Length: 0\\r\\n\\r\\n\"";
    let app = format!(
        "echo 0 > /n; echo '{serve}' > /serve; echo waiting; \
         while ! [ -e /go ]; do sleep 1; done; while true; do nc -l -p 9000 -e sh /serve; done"
    );
    guest.start(shell(&app));
    let mut logs = guest.logs(0);
    assert_eq!(logs.next().line, b"waiting");
    assert!(matches!(call(&mut guest, Hook::Run, 60_000).result, Some(Refused(_))));
    assert!(matches!(call(&mut guest, Hook::Ready, 300).result, Some(TimedOut(_))));
    guest.sh("touch /go");
    let outcome = call(&mut guest, Hook::Ready, 200_000);
    assert_eq!(outcome.result, Some(Status(200)), "{outcome:?}");
    assert!(outcome.attempts >= 3, "{outcome:?}");
    for _ in 0..3 {
        assert_eq!(logs.next().line, b"POST /aws/lambda-microvms/runtime/v1/ready HTTP/1.1\r");
    }
    guest.power_off();
}

#[test]
fn streams_reach_the_app_and_end_by_halves() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    let connect = |guest: &Guest, port| guest.open(open::Kind::Stream(OpenStream { port, timeout_ms: 0 }));
    guest.start(shell("echo 'sort; echo over' > /serve; while true; do nc -l -p 8080 -e sh /serve; done"));
    // The app listens once a connection succeeds.
    let stream = loop {
        match connect(&guest, 8080) {
            Ok(stream) => break stream,
            Err(failure) => assert_eq!(failure.code(), FailureCode::Refused, "{failure:?}"),
        }
    };
    let mut stream = stream.0;
    stream.write_all(b"b\na\n").unwrap();
    // `sort` writes its output when its input has ended.
    stream.shutdown(Shutdown::Write).unwrap();
    let mut read = String::new();
    stream.read_to_string(&mut read).unwrap();
    assert_eq!(read, "a\nb\nover\n");
    assert_eq!(connect(&guest, 9).err().unwrap().code(), FailureCode::Refused);
    assert_eq!(connect(&guest, 0).err().unwrap().code(), FailureCode::Invalid);
    assert_eq!(connect(&guest, 70_000).err().unwrap().code(), FailureCode::Invalid);
    guest.power_off();
}
