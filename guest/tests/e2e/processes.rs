//! Processes beside the app.

use hearth_proto::guest::v1::exec_input::Event as Input;
use hearth_proto::guest::v1::{Exited, FailureCode, OpenExec, WindowSize, open, open_exec};

use super::support::{Guest, Machine, Metal, process, shell};

fn idle() -> Option<Guest> {
    let mut guest = Machine::new(&Metal::find()?).boot();
    guest.start_idle();
    Some(guest)
}

#[test]
fn streams_and_statuses_come_apart() {
    let Some(guest) = idle() else { return };
    let finished = guest.run(shell("echo out; echo err >&2; exit 9"));
    assert_eq!((finished.stdout, finished.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(finished.result, Ok(Exited { code: 9, signal: 0 }));
    let finished = guest.run(shell("kill -KILL $$"));
    assert_eq!(finished.result, Ok(Exited { code: 137, signal: 9 }));
    let finished = guest.run(process(&["no-such-program"]));
    assert_eq!(finished.result.unwrap_err().code(), FailureCode::NotFound);

    let mut count = guest.exec(shell("tr -d y | wc -c"), None, false);
    count.send_all(&b"xy".repeat(1_500_000));
    assert_eq!(count.finish().success("wc"), "1500000\n");
    let large = guest.run(shell("head -c 5000000 /dev/zero"));
    assert_eq!(large.success("head").len(), 5_000_000);
    guest.power_off();
}

#[test]
fn a_program_that_cannot_be_executed_is_named_with_what_is_wrong() {
    let Some(guest) = idle() else { return };
    // The head of a program for x86-64, and of one for arm64 with a loader that is not there.
    let elf = |machine: &str, rest: &str| {
        format!("printf '\\177ELF\\2\\1\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\2\\0\\{machine}\\0{rest}' > /x/app")
    };
    let script = |line: &str| format!("printf '{line}\\n' > /x/app");
    for (make, mode, code, expected) in [
        (
            elf("76", ""),
            755,
            FailureCode::Invalid,
            "Exec format error: /x/app is built for x86-64, microVMs are arm64",
        ),
        (
            script("echo hi"),
            755,
            FailureCode::Invalid,
            "Exec format error: /x/app is a script without \"#!\" in its first line",
        ),
        (script("#!/bin/bash"), 755, FailureCode::NotFound, "no such file: interpreter /bin/bash of /x/app"),
        (
            script("#!/bin/sh\\r"),
            755,
            FailureCode::NotFound,
            "no such file: interpreter /bin/sh\\r of /x/app (its first line ends with a carriage return",
        ),
        (
            script("#!/bin/sh"),
            644,
            FailureCode::Invalid,
            "permission denied: /x/app is not executable (mode 0644)",
        ),
        ("mkdir /x/app".to_owned(), 755, FailureCode::Invalid, "permission denied: /x/app is a folder"),
        (
            "ln -s nowhere /x/link; touch /x/app".to_owned(),
            755,
            FailureCode::Invalid,
            "Exec format error: /x/app is empty",
        ),
    ] {
        guest.sh(&format!("rm -rf /x; mkdir /x; {make}; chmod {mode} /x/app"));
        let failure = guest.run(process(&["/x/app"])).result.unwrap_err();
        assert!(failure.message.starts_with(expected), "{}", failure.message);
        assert_eq!(failure.code(), code, "{}", failure.message);
    }
    let failure = guest.run(process(&["/x/link"])).result.unwrap_err();
    assert_eq!(failure.message, "no such file: /x/link (a link whose target does not exist)");
    let failure = guest.run(process(&["no-such-program"])).result.unwrap_err();
    assert!(
        failure.message.starts_with("no such program: no-such-program is in no folder of PATH (/"),
        "{}",
        failure.message
    );
    guest.power_off();
}

#[test]
fn signals_reach_the_whole_group() {
    let Some(guest) = idle() else { return };
    let mut script = guest.exec(shell("sleep 1234567 & echo started; wait"), None, false);
    script.wait_for("started");
    script.send(Input::Signal(15));
    assert_eq!(script.finish().result, Ok(Exited { code: 143, signal: 15 }));
    guest.sh("while ps -o args | grep -q '[1]234567'; do :; done");
    guest.power_off();
}

#[test]
fn a_process_whose_connection_ends_is_killed_with_its_group() {
    let Some(guest) = idle() else { return };
    let mut script = guest.exec(shell("sleep 7654321 & echo started; wait"), None, false);
    script.wait_for("started");
    drop(script);
    guest.sh("while ps -o args | grep -q '[7]654321'; do :; done");
    guest.power_off();
}

#[test]
fn a_terminal_is_one() {
    let Some(guest) = idle() else { return };
    let size = |rows, columns| WindowSize { rows, columns };
    let script = "tty; stty size; stty -echo; read line; echo got $line; stty size; cat; echo end of file";
    let mut terminal = guest.exec(shell(script), Some(size(24, 80)), false);
    let seen = terminal.wait_for("24 80\r\n");
    assert!(seen.starts_with("/dev/pts/0\r\n"), "{seen:?}");
    terminal.send(Input::Resize(size(50, 132)));
    terminal.send(Input::Stdin(b"hello\r".to_vec()));
    let seen = terminal.wait_for("50 132\r\n");
    assert!(seen.contains("got hello\r\n"), "{seen:?}");
    terminal.send(Input::StdinClosed(true));
    terminal.wait_for("end of file");
    assert_eq!(terminal.finish().result, Ok(Exited { code: 0, signal: 0 }));

    // Ctrl-C reaches the foreground process of the controlling terminal.
    let mut terminal = guest.exec(shell("echo started; sleep 1000000"), Some(size(24, 80)), false);
    terminal.wait_for("started");
    terminal.send(Input::Stdin(vec![3]));
    assert_eq!(terminal.finish().result, Ok(Exited { code: 130, signal: 2 }));
    guest.power_off();
}

#[test]
fn without_an_app_there_are_no_processes() {
    let Some(metal) = Metal::find() else { return };
    let mut guest = Machine::new(&metal).boot();
    let what = Some(open_exec::What::Process(process(&["true"])));
    let open = open::Kind::Exec(OpenExec { what, ..OpenExec::default() });
    assert_eq!(guest.open(open.clone()).err().unwrap().code(), FailureCode::Invalid);
    guest.start(process(&["true"]));
    guest.wait_app();
    assert_eq!(guest.open(open).err().unwrap().code(), FailureCode::Invalid);
    guest.power_off();
}
