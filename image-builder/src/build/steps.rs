//! Which step of a Dockerfile fails, and why: what the builder's output says.
//!
//! Only two kinds of lines of the builder are known here – the one that begins a step, and the last one, which begins with `Error:` –,
//! in the forms that several releases of buildah give them. Without them, the end of the output is told as it is.
//!
//! A step can write such lines, too. Its author misleads nobody but themselves: what is told here decides nothing.

use std::collections::VecDeque;

use hearth_proto::guest::v1::LogSource;

use super::harmless::harmless;

/// Most bytes of a step's text.
const STEP: usize = 200;
/// Most bytes of one of the last lines.
const LINE: usize = 300;
/// How many of the last lines are kept, and bytes of each; those of the builder itself go again.
const KEPT: usize = 24;
const KEPT_BYTES: usize = 2048;
/// How many of the last lines are told, and their bytes together.
const TOLD: usize = 8;
const TOLD_BYTES: usize = 800;
/// Most bytes of the builder's own error.
const ERROR: usize = 600;
/// The build context, whose name in the builder tells the author of a Dockerfile nothing.
const CONTEXT: &str = "/var/lib/hearth/context/";

/// A step of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Which: `3/5`, or `1/3 of stage 2/2`.
    pub(super) number: String,
    /// What it says, like `RUN make`, without control characters and shortened.
    pub(super) order: String,
}

/// The output of a build so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    step: Option<Step>,
    /// How many steps have begun.
    steps: usize,
    /// As they came: most builds never look at them.
    last: VecDeque<(LogSource, Vec<u8>)>,
    full: bool,
}

/// How a step, or the build before its first step, has failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The step.
    pub(super) step: Option<Step>,
    /// The builder's own error, without what repeats the step. Empty if it says only that a command has failed.
    pub(super) error: String,
    /// The last lines before it.
    pub(super) lines: Vec<String>,
    /// The builder's exit status: that of the step's command, if that has failed.
    pub(super) status: u32,
    /// Whether a disk was full.
    pub(super) full: bool,
}

impl Step {
    /// Parses a line that begins a step: `STEP 3/5: RUN make`, and in builds of several stages `[2/2] STEP 1/3: FROM debian`.
    fn parse(line: &str) -> Option<Self> {
        let (stage, rest) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((stage, rest)) => (Some(stage), rest),
            None => (None, line),
        };
        let (number, order) = rest.strip_prefix("STEP ")?.split_once(':')?;
        let is_number = |text: &str| {
            !text.is_empty()
                && text.len() <= 16
                && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'/')
        };
        if !is_number(number) || !stage.is_none_or(is_number) {
            return None;
        }
        let number = match stage {
            Some(stage) => format!("{number} of stage {stage}"),
            None => number.to_owned(),
        };
        Some(Self { number, order: harmless(order.as_bytes(), STEP) })
    }

    /// Its instruction, like `RUN`.
    pub(super) fn instruction(&self) -> &str {
        self.order.split(' ').next().unwrap_or_default()
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Step {} ({})", self.number, self.order)
    }
}

impl Output {
    /// Takes a line.
    pub(super) fn line(&mut self, source: LogSource, line: &[u8]) {
        let text = String::from_utf8_lossy(line.get(..4096).unwrap_or(line));
        if let Some(step) = Step::parse(&text) {
            self.step = Some(step);
            self.steps += 1;
            self.last.clear();
            self.full = false;
            return;
        }
        self.full = self.full || is_full(&text);
        // Of a line that shows progress, the end is what a terminal shows.
        let ended = line.strip_suffix(b"\r").unwrap_or(line);
        let shown = ended.rsplit(|byte| *byte == b'\r').next().unwrap_or(ended);
        if shown.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back((source, shown.get(..KEPT_BYTES).unwrap_or(shown).to_vec()));
    }

    /// How many steps have begun.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// What it says of a builder that ended with this status.
    pub(super) fn failure(self, status: u32) -> Failure {
        let mut lines: Vec<(LogSource, Vec<u8>)> = self.last.into();
        // The builder's own error is the last that it writes to stderr.
        let own = lines.iter().rposition(|(source, _)| *source == LogSource::Stderr);
        let own = own.filter(|at| lines.get(*at).is_some_and(|(_, line)| line.starts_with(b"Error: ")));
        let error = own.map(|at| harmless(&lines.remove(at).1, ERROR)).unwrap_or_default();
        let lines = lines.iter().map(|(_, line)| harmless(line, LINE));
        let lines = lines.filter(|line| !line.is_empty() && !is_noise(line)).collect();
        let error = without_step(error.strip_prefix("Error: ").unwrap_or_default(), self.step.as_ref());
        let error = if is_exit(error) { String::new() } else { error.replace(CONTEXT, "") };
        Failure { step: self.step, error, lines: last_of(lines), status, full: self.full }
    }
}

impl Failure {
    /// The sentence without the last lines: `Step 3/5 (RUN make) ended with exit status 2.`
    pub(super) fn what(&self) -> String {
        let who = match &self.step {
            Some(step) => step.to_string(),
            None => "The build".to_owned(),
        };
        let when = if self.step.is_none() { " before its first step" } else { "" };
        match self.error.as_str() {
            "" => format!("{who} ended with exit status {}{when}.", self.status),
            error => format!("{who} failed{when}: {}.", error.trim_end_matches('.')),
        }
    }

    /// The last lines, to be appended to a sentence.
    pub(super) fn last_lines(&self) -> String {
        match self.lines.as_slice() {
            [] => String::new(),
            [line] => format!(" Its last line: {line}"),
            lines => format!(" Its last lines: {}", lines.join(" | ")),
        }
    }
}

/// Whether a line says that a disk is full.
pub(super) fn is_full(text: &str) -> bool {
    text.to_ascii_lowercase().contains("no space left on device")
}

/// An error of the builder without the name of the step: `building at STEP "RUN make": exit status 2`.
fn without_step<'a>(error: &'a str, step: Option<&Step>) -> &'a str {
    let Some(rest) = error.strip_prefix("building at STEP \"") else { return error };
    let named = step.and_then(|step| rest.strip_prefix(step.order.as_str())?.strip_prefix("\": "));
    named.or_else(|| rest.rsplit_once("\": ").map(|(_, error)| error)).unwrap_or(rest)
}

/// Whether an error says nothing but that a command has ended with some status, or was killed.
fn is_exit(error: &str) -> bool {
    let end = error.rsplit(": ").next().unwrap_or_default();
    let numbered = |prefix: &str| {
        end.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    numbered("exit status ") || numbered("exited with status ") || end.starts_with("signal: ")
}

/// Whether a line is the builder's and says what is said already.
fn is_noise(line: &str) -> bool {
    line.starts_with("time=\"") || is_exit(line.strip_prefix("subprocess ").unwrap_or(line))
}

/// The last of these lines, as many as are told.
fn last_of(mut lines: Vec<String>) -> Vec<String> {
    let mut bytes = 0;
    let fitting = lines.iter().rev().take(TOLD).take_while(|line| {
        bytes += line.len();
        bytes <= TOLD_BYTES
    });
    let first = lines.len() - fitting.count();
    lines.split_off(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: LogSource = LogSource::Stdout;
    const ERR: LogSource = LogSource::Stderr;

    fn failure(lines: &[(LogSource, &str)], status: u32) -> Failure {
        let mut output = Output::default();
        for (source, line) in lines {
            output.line(*source, line.as_bytes());
        }
        output.failure(status)
    }

    fn said(lines: &[(LogSource, &str)], status: u32) -> String {
        let failure = failure(lines, status);
        failure.what() + &failure.last_lines()
    }

    #[test]
    fn a_command_that_fails_is_told_with_its_step_its_status_and_its_last_lines() {
        let step = (OUT, "STEP 3/4: RUN echo doomed && exit 7");
        let lines = [(OUT, "STEP 2/4: RUN echo before"), (OUT, "before"), step, (OUT, "doomed")];
        let told = "Step 3/4 (RUN echo doomed && exit 7) ended with exit status 7. Its last line: doomed";
        // buildah 1.39 with its chroot isolation
        let chroot = [
            (ERR, "subprocess exited with status 7"),
            (ERR, "subprocess exited with status 7"),
            (ERR, "Error: building at STEP \"RUN echo doomed && exit 7\": exit status 7"),
        ];
        assert_eq!(said(&[&lines[..], &chroot].concat(), 7), told);
        // 1.43 with a runtime
        let runtime =
            "Error: building at STEP \"RUN echo doomed && exit 7\": while running runtime: exit status 7";
        assert_eq!(said(&[&lines[..], &[(ERR, runtime)]].concat(), 7), told);
        assert_eq!(said(&lines, 7), told, "without a word of the builder");
    }

    #[test]
    fn what_is_no_commands_fault_is_told_in_the_builders_words() {
        let copy = [
            (OUT, "STEP 2/2: COPY nope /"),
            (
                ERR,
                "Error: building at STEP \"COPY nope /\": checking on sources under \"/var/lib/hearth/context/\": copier: stat: \"/nope\": no such file or directory",
            ),
        ];
        assert_eq!(
            said(&copy, 125),
            "Step 2/2 (COPY nope /) failed: checking on sources under \"\": copier: stat: \"/nope\": no such file or directory."
        );
        let parsed = [(ERR, "Error: dockerfile parse error line 2: unknown instruction: RUNN")];
        assert_eq!(
            said(&parsed, 125),
            "The build failed before its first step: dockerfile parse error line 2: unknown instruction: RUNN."
        );
        assert_eq!(said(&[], 1), "The build ended with exit status 1 before its first step.");
    }

    #[test]
    fn steps_of_several_stages_are_told_apart_and_nothing_else_is_a_step() {
        let step = |line: &str| Step::parse(line).map(|step| step.to_string());
        assert_eq!(step("STEP 1/3: FROM a AS b").as_deref(), Some("Step 1/3 (FROM a AS b)"));
        assert_eq!(step("[2/2] STEP 1/3: FROM a").as_deref(), Some("Step 1/3 of stage 2/2 (FROM a)"));
        assert_eq!(step("STEP 7: RUN x").as_deref(), Some("Step 7 (RUN x)"));
        for line in
            ["STEP x: y", "[tool] STEP 1/2: z", "STEP", "STEP 1", "[1/2]", " STEP 1/2: x", "[] STEP 1: x"]
        {
            assert_eq!(step(line), None, "{line}");
        }
    }

    #[test]
    fn a_commands_own_error_is_not_taken_for_the_builders() {
        let node = [
            (OUT, "STEP 2/2: RUN node x.js"),
            (ERR, "Error: Cannot find module './x.js'"),
            (ERR, "Node.js v22"),
            (ERR, "Error: building at STEP \"RUN node x.js\": exit status 1"),
        ];
        assert_eq!(
            said(&node, 1),
            "Step 2/2 (RUN node x.js) ended with exit status 1. Its last lines: Error: Cannot find module './x.js' | Node.js v22"
        );
    }

    #[test]
    fn a_full_disk_is_that_of_the_step_that_fails() {
        let full = (ERR, "dd: writing to '/x': No space left on device");
        assert!(failure(&[(OUT, "STEP 1/2: RUN dd"), full], 1).full);
        assert!(!failure(&[(OUT, "STEP 1/2: RUN dd || true"), full, (OUT, "STEP 2/2: RUN false")], 1).full);
    }

    #[test]
    fn the_last_lines_are_few_short_and_harmless() {
        let mut output = Output::default();
        output.line(OUT, b"STEP 1/1: RUN \x1b[2Jyes");
        for number in 0..10_000 {
            output.line(OUT, format!("10%\r\x1b[31m{number} {}\x07", "x".repeat(number % 5000)).as_bytes());
        }
        assert!(output.last.len() <= KEPT && output.last.iter().all(|(_, line)| line.len() <= KEPT_BYTES));
        let failure = output.failure(1);
        assert_eq!(failure.what(), "Step 1/1 (RUN yes) ended with exit status 1.");
        let lines = failure.last_lines();
        assert!(lines.len() < 1000 && lines.contains("9999 ") && !lines.contains('\x1b'), "{lines}");
    }
}
