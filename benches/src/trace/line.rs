//! Parses a line of a trace, as the kernel prints it (Linux, Documentation/trace/ftrace.rst).
//!
//! ```text
//!           vcpu0-812     [001] d..1.    17.017635: kvm_exit: TRAP: HSR_EC: 0x0024 (DABT_LOW), PC: 0xffff800080014a2c
//! ```
//!
//! The name of the task takes 16 bytes and may contain anything, also parts of other lines, so nothing is searched in it.

use super::fault::Kind;

/// Width of a task's name (`TASK_COMM_LEN`): shorter ones are right-aligned.
const NAME: usize = 16;
/// Class of an exit by an instruction that waits for an interrupt or an event.
const WAITS: &str = "WFx";

/// Content of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// An event.
    Event(Event),
    /// The number of events before this one that were dropped (0: unknown).
    Lost(u64),
    /// How many of all written events are still in the buffer.
    Kept {
        /// Events in the buffer.
        kept: u64,
        /// Events that were written.
        written: u64,
    },
    /// An irrelevant line: an explanation, or another event.
    Other,
    /// A line that the kernel does not print.
    Garbled,
}

/// An event of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Id of the thread.
    pub thread: u32,
    /// Time, in microseconds of the trace's clock.
    pub microseconds: u64,
    /// Kind of the event.
    pub what: EventKind,
}

/// The relevant events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// `kvm_entry`: the guest starts to run.
    Entry,
    /// `kvm_exit`: the guest stops, with the reason: the class of a trap, or another reason of the processor.
    Exit(String),
    /// `kvm_guest_fault`, between exit and entry: an access to this guest-physical address.
    Fault(Kind, u64),
    /// A process has written this text into `trace_marker`.
    Mark(String),
}

impl EventKind {
    /// Whether the guest waits after this exit, so that the time until the next entry is no work.
    #[must_use]
    pub fn is_wait(reason: &str) -> bool {
        reason == WAITS
    }
}

impl Line {
    /// Parses a line, without its newline.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        if line.is_empty() {
            return Self::Other;
        }
        match line.first() {
            Some(b'#') => comment(line),
            Some(b'C') if line.starts_with(b"CPU:") => lost(line).unwrap_or(Self::Garbled),
            _ => event(line).unwrap_or(Self::Garbled),
        }
    }
}

/// `# entries-in-buffer/entries-written: 2112/2112   #P:2`
fn comment(line: &[u8]) -> Line {
    let counts = || -> Option<(u64, u64)> {
        let text = std::str::from_utf8(line).ok()?.strip_prefix("# entries-in-buffer/entries-written: ")?;
        let (kept, written) = text.split_whitespace().next()?.split_once('/')?;
        Some((kept.parse().ok()?, written.parse().ok()?))
    };
    counts().map_or(Line::Other, |(kept, written)| Line::Kept { kept, written })
}

/// `CPU:1 [LOST 12 EVENTS]`, or `CPU:1 [LOST EVENTS]`
fn lost(line: &[u8]) -> Option<Line> {
    let text = std::str::from_utf8(line).ok()?;
    let (processor, said) = text.strip_prefix("CPU:")?.split_once(' ')?;
    processor.parse::<u32>().ok()?;
    let said = said.strip_prefix("[LOST ")?.strip_suffix("EVENTS]")?.trim_end();
    Some(Line::Lost(if said.is_empty() { 0 } else { said.parse().ok()? }))
}

fn event(line: &[u8]) -> Option<Line> {
    // Only the name can contain other characters than ASCII.
    let text = std::str::from_utf8(line.get(NAME..)?).ok()?;
    let (thread, text) = text.strip_prefix('-')?.split_once(' ')?;
    let (processor, text) = text.trim_start().strip_prefix('[')?.split_once("] ")?;
    processor.parse::<u32>().ok()?;
    // Flags, time, name of the event, and its fields.
    let (_, text) = text.split_once(' ')?;
    let (time, text) = text.trim_start().split_once(": ")?;
    let (seconds, fraction) = time.split_once('.')?;
    if fraction.len() != 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let microseconds = seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?;
    let microseconds = microseconds.checked_add(fraction.parse().ok()?)?;
    let (name, fields) = text.split_once(": ").unwrap_or((text, ""));
    let what = match name {
        "kvm_entry" => EventKind::Entry,
        "kvm_exit" => EventKind::Exit(exit(fields)?),
        "kvm_guest_fault" => fault(fields)?,
        "tracing_mark_write" => EventKind::Mark(fields.to_owned()),
        _ => return Some(Line::Other),
    };
    Some(Line::Event(Event { thread: thread.parse().ok()?, microseconds, what }))
}

/// `TRAP: HSR_EC: 0x0024 (DABT_LOW), PC: 0xffff800080014a2c`
fn exit(fields: &str) -> Option<String> {
    let (why, rest) = fields.split_once(": HSR_EC: ")?;
    let (class, rest) = rest.split_once(" (")?;
    let (name, counter) = rest.split_once("), PC: ")?;
    hexadecimal(class)?;
    hexadecimal(counter)?;
    let reason = if why == "TRAP" { name } else { why };
    // Names of the kernel's tables, or a number where they have none.
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (!reason.is_empty() && reason.len() <= NAME && plain(reason)).then(|| reason.to_owned())
}

/// `ipa 0x80a4d000, hsr 0x92000007, hxfar 0xffff800080a4d0c0, pc 0xffff800080014a2c`
fn fault(fields: &str) -> Option<EventKind> {
    let mut numbers = [0; 4];
    let mut words = fields.split(", ");
    for (number, name) in numbers.iter_mut().zip(["ipa ", "hsr ", "hxfar ", "pc "]) {
        *number = hexadecimal(words.next()?.strip_prefix(name)?)?;
    }
    let [ipa, esr, ..] = numbers;
    words.next().is_none().then(|| EventKind::Fault(Kind::of(esr, ipa), ipa))
}

fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").or((text == "0").then_some("0"))?;
    // `from_str_radix` would accept a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: &str = "           vcpu0-812     [001] d..1.    17.017635: kvm_exit: TRAP: HSR_EC: 0x0024 (DABT_LOW), PC: 0xffff800080014a2c";
    const FAULT: &str = "           vcpu0-812     [001] .....    17.017640: kvm_guest_fault: ipa 0x80a4d000, hsr 0x92000007, hxfar 0xffff800080a4d0c0, pc 0xffff800080014a2c";

    fn what(line: &str) -> EventKind {
        match Line::parse(line.as_bytes()) {
            Line::Event(event) => event.what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_are_understood() {
        let event = Event { thread: 812, microseconds: 17_017_635, what: EventKind::Exit("DABT_LOW".into()) };
        assert_eq!(Line::parse(EXIT.as_bytes()), Line::Event(event));
        assert_eq!(what(FAULT), EventKind::Fault(Kind::Read, 0x80a4_d000));
        assert_eq!(
            what("           <...>-1000000 [000] d..1. 99999.000001: kvm_entry: PC: 0x0"),
            EventKind::Entry
        );
        let irq = EXIT.replace("TRAP: HSR_EC: 0x0024 (DABT_LOW)", "IRQ: HSR_EC: 0x0000 (UNKNOWN)");
        assert_eq!(what(&irq), EventKind::Exit("IRQ".into()));
        let unknown = EXIT.replace("(DABT_LOW)", "(0x2d)");
        assert_eq!(what(&unknown), EventKind::Exit("0x2d".into()));
        let mark = "    launch-bench-99      [000] .....     1.000000: tracing_mark_write: hearth: end";
        assert_eq!(what(mark), EventKind::Mark("hearth: end".into()));
    }

    #[test]
    fn what_the_kernel_says_of_the_trace_itself_is_understood() {
        let header = "# entries-in-buffer/entries-written: 2112/3000   #P:2";
        assert_eq!(Line::parse(header.as_bytes()), Line::Kept { kept: 2112, written: 3000 });
        assert_eq!(Line::parse(b"CPU:1 [LOST 12 EVENTS]"), Line::Lost(12));
        assert_eq!(Line::parse(b"CPU:1 [LOST EVENTS]"), Line::Lost(0));
        for other in ["", "#", "# tracer: nop", "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION"] {
            assert_eq!(Line::parse(other.as_bytes()), Line::Other, "{other}");
        }
        let other = EXIT.replace("kvm_exit", "kvm_hvc_arm64");
        assert_eq!(Line::parse(other.as_bytes()), Line::Other);
    }

    #[test]
    fn a_tasks_name_can_be_anything() {
        for name in [*b"[0] . 1.0: kvm_e", *b"a-1 [000] .....:", *b"\xff\xfe\xc3 - -\x1b[2J     "] {
            let mut line = name.to_vec();
            line.extend_from_slice(&EXIT.as_bytes()[NAME..]);
            assert!(matches!(Line::parse(&line), Line::Event(Event { thread: 812, .. })), "{name:?}");
        }
        // A name with a newline in it makes two lines, neither of which is an event.
        for half in ["       kvm_exit:", "-812     [001] d..1.    17.017635: kvm_entry: PC: 0x0"] {
            assert_eq!(Line::parse(half.as_bytes()), Line::Garbled, "{half}");
        }
    }

    #[test]
    fn garbled_lines_are_no_events() {
        for (from, to) in [
            ("-812 ", " 812 "),
            ("-812 ", "--812 "),
            ("-812 ", "-99999999999 "),
            ("[001]", "001"),
            ("[001]", "[one]"),
            ("17.017635", "17017635"),
            ("17.017635", "17.01763"),
            ("17.017635", "17.+17635"),
            ("17.017635", "18446744073709551615.000000"),
            ("17.017635", "-1.000000"),
            ("0x0024", "24"),
            ("0x0024", "0x+24"),
            ("0xffff800080014a2c", "0xffff800080014a2c0"),
            ("0xffff800080014a2c", "0x"),
            ("(DABT_LOW)", "DABT_LOW"),
            ("(DABT_LOW)", "()"),
            ("(DABT_LOW)", "(\x1b[31m)"),
            ("(DABT_LOW)", "(AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA)"),
            ("TRAP: ", ""),
        ] {
            let line = EXIT.replacen(from, to, 1);
            assert_ne!(line, EXIT);
            assert_eq!(Line::parse(line.as_bytes()), Line::Garbled, "{line}");
        }
        for (from, to) in [
            ("ipa ", ""),
            ("hsr", "esr"),
            ("0x80a4d000", "80a4d000"),
            ("0x80a4d000", "0x180a4d000000000000"),
            ("0x92000007", "0xzz"),
            (", pc ", ""),
            ("4a2c", "4a2c, more 0x1"),
        ] {
            let line = FAULT.replacen(from, to, 1);
            assert_ne!(line, FAULT);
            assert_eq!(Line::parse(line.as_bytes()), Line::Garbled, "{line}");
        }
    }

    #[test]
    fn lines_that_end_early_or_hold_any_bytes_are_no_events() {
        for line in [EXIT, FAULT] {
            let complete = Line::parse(line.as_bytes());
            for end in 0..line.len() {
                let parsed = Line::parse(&line.as_bytes()[..end]);
                // The program counter is not evaluated, so a part of it is enough.
                let counts = |byte: u8| byte.is_ascii_hexdigit() || byte == b'x';
                assert!(parsed != complete || line[end..].bytes().all(counts), "{end}");
            }
            for at in NAME..line.len() {
                let mut bytes = line.as_bytes().to_vec();
                bytes[at] = 0xff;
                assert_eq!(Line::parse(&bytes), Line::Garbled, "{at}");
            }
        }
        for text in ["CPU:", "CPU:1 [LOST -1 EVENTS]", "CPU:x [LOST EVENTS]", "\0", "x", "\u{1f980}"] {
            assert_eq!(Line::parse(text.as_bytes()), Line::Garbled, "{text:?}");
        }
    }
}
