use std::io::{PipeReader, Read as _, Seek as _, Write as _};

use proptest::prelude::*;

use super::*;
use crate::event_loop::EventLoop;

/// Offsets of the registers that the tests use.
const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const LINE_STATUS: u64 = 5;

struct Console {
    serial: Serial,
    events: EventLoop,
    interrupt: EventFd,
}

impl Console {
    fn new(output: Option<OwnedFd>, input: Option<OwnedFd>, max_bytes: u64) -> Self {
        let events = EventLoop::new().unwrap();
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let config = SerialConfig { output, input, max_bytes };
        let serial = Serial::new(config, interrupt.try_clone().unwrap(), events.poller(0)).unwrap();
        Self { serial, events, interrupt }
    }

    fn prints(&mut self, text: &[u8]) {
        text.iter().for_each(|&byte| self.serial.write(DATA, &[byte]));
    }

    fn register(&mut self, offset: u64) -> u8 {
        let mut value = [0];
        self.serial.read(offset, &mut value);
        value[0]
    }

    fn pump(&mut self, timeout_ms: i32) -> usize {
        let serial = &mut self.serial;
        self.events.wait(timeout_ms, |ready| serial.handle(ready)).unwrap()
    }

    /// Whether events keep coming. The timer of an unfinished line may expire once.
    fn is_busy(&mut self) -> bool {
        (0..3).map(|_| self.pump(0)).sum::<usize>() > 1
    }

    fn counter(&self, name: &str) -> u64 {
        self.serial.counters().iter().find(|(other, _)| *other == name).unwrap().1
    }
}

fn pipe() -> (PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, writer.into())
}

fn read(reader: &mut PipeReader) -> Vec<u8> {
    let mut data = vec![0; 1 << 17];
    let got = reader.read(&mut data).unwrap();
    data.truncate(got);
    data
}

#[test]
fn lines_come_out_at_once_and_prompts_a_moment_later() {
    let (mut reader, writer) = pipe();
    let mut console = Console::new(Some(writer), None, 0);
    console.prints(b"hello\nlogin: ");
    assert_eq!(read(&mut reader), b"hello\n");
    console.pump(-1);
    assert_eq!(read(&mut reader), b"login: ");
    assert_eq!(console.counter("output_bytes"), 13);
}

#[test]
fn what_is_left_comes_out_at_the_end() {
    let (mut reader, writer) = pipe();
    let mut console = Console::new(Some(writer), None, 0);
    console.prints(b"Oops");
    drop(console);
    assert_eq!(read(&mut reader), b"Oops");
}

#[test]
fn a_file_gets_its_budget_and_one_notice() {
    let mut file = tempfile::tempfile().unwrap();
    let mut console = Console::new(Some(file.try_clone().unwrap().into()), None, 10);
    console.prints(b"0123456789abcdef\nxyz\n");
    assert_eq!(console.counter("output_dropped_bytes"), 11);
    drop(console);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let notice = "\r\n[hearth: console output reached its limit of 10 bytes; the rest is dropped]\r\n";
    assert_eq!(text, format!("0123456789{notice}"));
}

#[test]
fn a_full_pipe_never_blocks_and_says_what_was_lost() {
    let (mut reader, writer) = pipe();
    let mut console = Console::new(Some(writer), None, 0);
    let line = [b'x'; 127];
    while console.counter("output_dropped_bytes") == 0 {
        console.prints(&line);
        console.prints(b"\n");
    }
    assert!(!console.is_busy(), "nobody reads: nothing to do");
    let mut seen = 0;
    loop {
        let text = read(&mut reader);
        console.pump(0);
        if let Some(notice) = text.windows(8).position(|window| window == b"[hearth:") {
            let notice = String::from_utf8_lossy(&text[notice..]).into_owned();
            let lost = console.counter("output_dropped_bytes");
            assert!(notice.contains(&format!("{lost} bytes of console output were lost")), "{notice}");
            break;
        }
        seen += text.len();
        assert!(seen < 1 << 20, "the notice must come");
    }
    console.prints(b"on we go\n");
    assert!(read(&mut reader).ends_with(b"on we go\n"));
}

#[test]
fn a_reader_that_is_gone_costs_output_and_nothing_else() {
    let (reader, writer) = pipe();
    let mut console = Console::new(Some(writer), None, 0);
    drop(reader);
    console.prints(b"anybody?\nno\n");
    assert_eq!(console.counter("output_dropped_bytes"), 12);
    assert!(!console.is_busy());
    let mut nowhere = Console::new(None, None, 0);
    nowhere.prints(b"x\n");
    assert_eq!(nowhere.counter("output_dropped_bytes"), 2);
}

#[test]
fn input_reaches_the_guest_with_an_interrupt() {
    let (input, mut typist) = std::io::pipe().unwrap();
    let mut console = Console::new(None, Some(input.into()), 0);
    console.serial.write(INTERRUPT_ENABLE, &[1]);
    assert_eq!(console.register(LINE_STATUS) & 1, 0);
    typist.write_all(b"ls").unwrap();
    console.pump(-1);
    assert_eq!(console.interrupt.read().unwrap(), 1);
    assert_eq!(console.register(LINE_STATUS) & 1, 1);
    assert_eq!([console.register(DATA), console.register(DATA)], *b"ls");
    assert_eq!(console.register(LINE_STATUS) & 1, 0);
}

#[test]
fn input_waits_in_its_pipe_while_the_fifo_is_full() {
    let (input, mut typist) = std::io::pipe().unwrap();
    let mut console = Console::new(None, Some(input.into()), 0);
    let text: Vec<u8> = (0..200u8).collect();
    typist.write_all(&text).unwrap();
    drop(typist);
    console.pump(-1);
    assert_eq!(console.serial.push_input(b"!"), 0, "the FIFO is full");
    assert_eq!(console.pump(0), 0, "no busy loop while it is");
    let mut got = Vec::new();
    while got.len() < text.len() {
        while console.register(LINE_STATUS) & 1 == 1 {
            got.push(console.register(DATA));
        }
        console.pump(0);
    }
    assert_eq!(got, text);
    assert_eq!(console.counter("input_bytes"), 200);
    while console.pump(0) > 0 {}
    assert!(console.serial.input.is_none(), "an input at its end is let go");
}

#[test]
fn a_guest_in_loopback_gets_no_input_until_it_leaves() {
    let (input, mut typist) = std::io::pipe().unwrap();
    let mut console = Console::new(None, Some(input.into()), 0);
    console.serial.write(MODEM_CONTROL.into(), &[LOOPBACK]);
    typist.write_all(b"a").unwrap();
    console.pump(-1);
    assert_eq!(console.pump(0), 0);
    console.serial.write(DATA, b"L");
    assert_eq!(console.register(DATA), b'L');
    console.serial.write(MODEM_CONTROL.into(), &[8]);
    console.pump(-1);
    assert_eq!(console.register(DATA), b'a');
}

#[test]
fn an_input_that_cannot_be_waited_for_is_none() {
    let mut console = Console::new(None, Some(tempfile::tempfile().unwrap().into()), 0);
    assert_eq!(console.pump(0), 0);
}

#[test]
fn saved_registers_come_back_with_their_interrupt() {
    let mut console = Console::new(None, None, 0);
    console.serial.write(INTERRUPT_ENABLE, &[1]);
    console.serial.write(7, &[0x5a]);
    console.serial.push_input(b"q");
    let state = console.serial.state();
    let events = EventLoop::new().unwrap();
    let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let config = SerialConfig { output: None, input: None, max_bytes: 0 };
    let line = interrupt.try_clone().unwrap();
    let mut restored = Serial::with_state(config, line, events.poller(0), &state).unwrap();
    assert_eq!(interrupt.read().unwrap(), 1);
    let mut value = [0];
    restored.read(7, &mut value);
    assert_eq!(value, [0x5a]);
    restored.read(DATA, &mut value);
    assert_eq!(value, *b"q");
}

proptest! {
    /// No access of any width or offset harms the console, and accesses outside the registers do nothing.
    #[test]
    fn any_access_is_harmless(accesses in proptest::collection::vec((0..20u64, 0..5usize, any::<u8>(), any::<bool>()), 1..200)) {
        let mut console = Console::new(None, None, 0);
        for (offset, width, value, write) in accesses {
            let before = console.serial.state();
            let mut data = vec![value; width];
            if write {
                console.serial.write(offset, &data);
            } else {
                data.fill(0);
                console.serial.read(offset, &mut data);
            }
            if offset >= REGISTERS || width != 1 {
                prop_assert_eq!(console.serial.state(), before);
            }
        }
    }

    /// Output that is printed in pieces of any size arrives byte for byte in a pipe that is read.
    #[test]
    fn output_is_complete_where_it_is_read(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40)) {
        let (mut reader, writer) = pipe();
        let mut console = Console::new(Some(writer), None, 0);
        for piece in &pieces {
            console.prints(piece);
        }
        prop_assert_eq!(console.counter("output_dropped_bytes"), 0);
        drop(console);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        prop_assert_eq!(text, pieces.concat());
    }
}
