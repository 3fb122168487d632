//! A separate trace, in an instance of the kernel's tracer (Linux, Documentation/trace/ftrace.rst): other traces are not affected.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::line::{Event, EventKind, Line};
use super::profile::Profile;

/// Mount point of the kernel's tracer.
pub const TRACEFS: &str = "/sys/kernel/tracing";
const EVENTS: [&str; 3] = ["kvm_entry", "kvm_exit", "kvm_guest_fault"];
/// Size of the buffer of each processor in KiB: room for about 80,000 events.
const BUFFER_KIB: u32 = 8 << 10;
/// Prefix of the names of marks.
const MARK: &str = "hearth: ";
const BEGIN: &str = "begin";

/// An instance of the tracer. It is removed when this is dropped.
#[derive(Debug)]
pub struct Tracer {
    folder: PathBuf,
    marker: Option<File>,
}

/// The events from begin to end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trace {
    events: Vec<Event>,
    /// Number of lines that could not be parsed.
    pub garbled: u64,
}

impl Tracer {
    /// Makes an instance below `root` ([`TRACEFS`]) that traces nothing yet.
    ///
    /// # Errors
    /// This process lacks privileges, no tracefs is mounted there, or the kernel has no KVM for arm64.
    pub fn open(root: &Path) -> Result<Self> {
        let folder = root.join("instances").join(format!("hearth-bench-{}", std::process::id()));
        let made = fs::create_dir(&folder);
        made.with_context(|| {
            format!("making {} (tracing takes root and a mounted tracefs)", folder.display())
        })?;
        let mut tracer = Self { folder, marker: None };
        tracer.write("tracing_on", "0")?;
        tracer.write("buffer_size_kb", &BUFFER_KIB.to_string())?;
        // One clock for all processors.
        tracer.write("trace_clock", "mono")?;
        for event in EVENTS {
            tracer.write(&format!("events/kvm/{event}/enable"), "1")?;
        }
        let marker = tracer.folder.join("trace_marker");
        let opened = File::options().write(true).open(&marker);
        tracer.marker = Some(opened.with_context(|| format!("opening {}", marker.display()))?);
        Ok(tracer)
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        let path = self.folder.join(name);
        // The file is not created: a missing file shows that this is no tracer.
        let opened = File::options().write(true).truncate(true).open(&path);
        opened
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .with_context(|| format!("writing {value} to {}", path.display()))
    }

    /// Discards earlier events, and starts to trace.
    ///
    /// # Errors
    /// The kernel refused a write.
    pub fn begin(&self) -> Result<()> {
        self.write("trace", "")?;
        self.write("tracing_on", "1")?;
        self.mark(BEGIN)
    }

    /// Ends a step with this name, which began at the last mark.
    ///
    /// # Errors
    /// The kernel refused a write.
    pub fn mark(&self, step: &str) -> Result<()> {
        let mut marker = self.marker.as_ref().context("there is no marker")?;
        // One write is one mark.
        marker.write_all(format!("{MARK}{step}").as_bytes()).context("writing a mark")
    }

    /// Stops tracing, and returns the events. The last step must have its mark.
    ///
    /// # Errors
    /// The kernel refused an access, or events were lost.
    pub fn end(&self) -> Result<Trace> {
        self.write("tracing_on", "0")?;
        let path = self.folder.join("trace");
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Trace::read(BufReader::new(file)).with_context(|| format!("reading {}", path.display()))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        drop(self.marker.take());
        let _ = fs::remove_dir(&self.folder); // if this fails, an instance stays that traces nothing
    }
}

impl Trace {
    /// Parses the kernel's output.
    ///
    /// # Errors
    /// The output cannot be read, or events were lost.
    pub fn read(mut from: impl BufRead) -> Result<Self> {
        let mut trace = Self::default();
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line)? > 0 {
            match Line::parse(line.trim_ascii_end()) {
                Line::Event(event) => trace.events.push(event),
                Line::Lost(0) => bail!("events were lost: the buffer is too small"),
                Line::Lost(count) => bail!("{count} events were lost: the buffer is too small"),
                Line::Kept { kept, written } if kept < written => {
                    bail!("{} of {written} events were lost: the buffer is too small", written - kept)
                }
                Line::Kept { .. } | Line::Other => {}
                Line::Garbled => trace.garbled += 1,
            }
            line.clear();
        }
        Ok(trace)
    }

    /// The steps between the marks, in their order. Events before the begin and after the last mark belong to no step.
    #[must_use]
    pub fn steps(&self) -> Vec<(&str, Profile)> {
        let marks = self.events.iter().enumerate().filter_map(|(index, event)| match &event.what {
            EventKind::Mark(text) => Some((index, text.strip_prefix(MARK)?)),
            _ => None,
        });
        let mut steps = Vec::new();
        let mut from = None;
        for (index, name) in marks {
            // A step includes the marks around it, which are its start and its end.
            if let (Some(from), false) = (from, name == BEGIN) {
                steps.push((name, Profile::of(self.events.get(from..=index).unwrap_or_default())));
            }
            from = Some(index);
        }
        steps
    }

    /// The profile of the whole trace, from the begin to the last mark.
    #[must_use]
    pub fn whole(&self) -> Profile {
        let is_mark = |event: &Event| matches!(&event.what, EventKind::Mark(text) if text.starts_with(MARK));
        let first = self.events.iter().position(is_mark);
        let last = self.events.iter().rposition(is_mark);
        let events = first.zip(last).and_then(|(first, last)| self.events.get(first..=last));
        Profile::of(events.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
#
# entries-in-buffer/entries-written: 9/9   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
           vcpu0-812     [001] d..1.     0.500000: kvm_entry: PC: 0x0
    launch-bench-99      [000] .....     1.000000: tracing_mark_write: hearth: begin
           vcpu0-812     [001] d..1.     1.001000: kvm_entry: PC: 0xffff800080014a2c
           vcpu0-812     [001] d..1.     1.001500: kvm_exit: TRAP: HSR_EC: 0x0024 (DABT_LOW), PC: 0xffff800080014a2c
           vcpu0-812     [001] .....     1.001502: kvm_guest_fault: ipa 0x80a4d000, hsr 0x92000007, hxfar 0xffff800080a4d0c0, pc 0xffff800080014a2c
           vcpu0-812     [001] d..1.     1.001507: kvm_entry: PC: 0xffff800080014a2c
              sh-77      [000] .....     1.001600: tracing_mark_write: another's
this is no line
    launch-bench-99      [000] .....     1.002000: tracing_mark_write: hearth: agent
           vcpu0-812     [001] d..1.     1.002500: kvm_exit: IRQ: HSR_EC: 0x0000 (UNKNOWN), PC: 0x0
    launch-bench-99      [000] .....     1.003000: tracing_mark_write: hearth: hook
           vcpu0-812     [001] d..1.     1.004000: kvm_entry: PC: 0x0
";

    #[test]
    fn a_trace_is_split_into_the_steps_that_were_marked() {
        let trace = Trace::read(TRACE.as_bytes()).unwrap();
        assert_eq!(trace.garbled, 1);
        let steps = trace.steps();
        let [("agent", agent), ("hook", hook)] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!(
            (agent.microseconds, agent.first_entry, agent.memory_faults().count),
            (2000, Some(1000), 1)
        );
        assert_eq!((hook.microseconds, hook.exits.len(), hook.memory_faults().count), (1000, 1, 0));
        let whole = trace.whole();
        assert_eq!((whole.microseconds, whole.exits.len(), whole.memory_faults().count), (3000, 2, 1));
        assert_eq!(Trace::default().whole(), Profile::default());
    }

    #[test]
    fn a_trace_with_gaps_is_refused() {
        for (from, to) in [
            ("9/9", "9/12"),
            ("this is no line", "CPU:0 [LOST 4 EVENTS]"),
            ("this is no line", "CPU:0 [LOST EVENTS]"),
        ] {
            let error = Trace::read(TRACE.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.to_string().contains("lost"), "{error}");
        }
    }

    #[test]
    fn any_bytes_are_a_trace_without_events() {
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let trace = Trace::read(bytes.as_slice()).unwrap();
        assert!(trace.events.is_empty() && trace.garbled > 0 && trace.steps().is_empty());
    }

    #[test]
    fn an_instance_is_set_up_and_traces_from_begin_to_end() {
        let root = tempfile::tempdir().unwrap();
        let error = Tracer::open(root.path()).unwrap_err();
        assert!(format!("{error:#}").contains("mounted tracefs"), "{error:#}");
        // A folder that the kernel has not filled is no tracer's instance.
        fs::create_dir(root.path().join("instances")).unwrap();
        let error = Tracer::open(root.path()).unwrap_err();
        assert!(format!("{error:#}").contains("tracing_on"), "{error:#}");
        assert_eq!(fs::read_dir(root.path().join("instances")).unwrap().count(), 0, "nothing is left");

        let folder = root.path().join("instance");
        for event in EVENTS {
            fs::create_dir_all(folder.join("events/kvm").join(event)).unwrap();
        }
        for file in ["tracing_on", "trace", "trace_marker"] {
            fs::write(folder.join(file), "").unwrap();
        }
        let marker = File::options().append(true).open(folder.join("trace_marker")).unwrap();
        let tracer = Tracer { folder: folder.clone(), marker: Some(marker) };
        tracer.begin().unwrap();
        tracer.mark("agent").unwrap();
        assert_eq!(fs::read_to_string(folder.join("tracing_on")).unwrap(), "1");
        assert_eq!(fs::read_to_string(folder.join("trace_marker")).unwrap(), "hearth: beginhearth: agent");
        fs::write(folder.join("trace"), TRACE).unwrap();
        assert_eq!(tracer.end().unwrap().steps().len(), 2);
        assert_eq!(fs::read_to_string(folder.join("tracing_on")).unwrap(), "0");
    }
}
