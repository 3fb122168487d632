//! Which step of a Dockerfile fails, and why: what BuildKit's plain progress says (`docker buildx build --progress plain`).
//!
//! ```text
//! #5 [2/4] RUN make                      a vertex begins; again, when its lines go on after another's
//! #5 0.161 cc -o app app.c               a line of its output, with the seconds since it began
//! #5 DONE 0.2s                           or `CACHED`, `CANCELED`, `ERROR: …`
//! ------                                 then what has failed, again
//!    3 | >>> RUN make                    with the lines of the Dockerfile
//! ERROR: failed to build: failed to solve: process "/bin/sh -c make" did not complete successfully: exit code: 2
//! ```
//!
//! Each line that a step writes has the vertex's number before it, so that no step can pretend to be another.

use std::collections::{BTreeMap, VecDeque};

use hearth_model::text::harmless;

/// Most bytes of a step's text.
const STEP: usize = 200;
/// Most bytes of one of the last lines.
const LINE: usize = 300;
/// How many of the last lines are kept of a vertex, and bytes of each.
const KEPT: usize = 16;
const KEPT_BYTES: usize = 2048;
/// Most vertices that are under way at once and remembered.
const VERTICES: usize = 64;
/// How many of the last lines are told, and their bytes together.
const TOLD: usize = 8;
const TOLD_BYTES: usize = 800;
/// How many that fail at the same time are remembered.
const FAILED: usize = 8;
/// Most bytes of the builder's own error, which repeats a whole command, that are looked at; and that are told.
const ERROR_BYTES: usize = 16 << 10;
const ERROR: usize = 600;
/// The build context, whose name in the builder tells the author of a Dockerfile nothing.
const CONTEXT: &str = "/var/lib/hearth/context/";

/// A step of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Which: `Step 3/5`, `Step 1/3 of stage base`, or `Line 3`.
    place: String,
    /// What it says, like `RUN make`, without control characters and shortened.
    pub(super) order: String,
}

/// Something that BuildKit does.
#[derive(Debug, Default)]
struct Vertex {
    /// The step of the Dockerfile that it is.
    step: Option<Step>,
    /// How many steps had begun, with it.
    begun: usize,
    /// Its last lines as they came: most builds never look at them.
    last: VecDeque<Vec<u8>>,
    full: bool,
}

/// The output of a build so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    under_way: BTreeMap<u32, Vertex>,
    /// The newest vertex that has begun.
    newest: u32,
    steps: usize,
    /// Those that have failed, with their errors.
    failed: Vec<(Vec<u8>, Vertex)>,
    /// The marked lines of the Dockerfile.
    marked: Option<Step>,
    /// The last line that begins with `ERROR: `.
    error: Vec<u8>,
    /// The last lines that belong to no vertex.
    rest: VecDeque<Vec<u8>>,
}

/// How a step, or the build before its first step, has failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The step.
    pub(super) step: Option<Step>,
    /// The builder's own error. Empty if it says only that a command has failed.
    pub(super) error: String,
    /// The step's last lines.
    pub(super) lines: Vec<String>,
    /// Exit status of the step's command, or else of the builder.
    pub(super) status: u32,
    /// Whether a disk was full.
    pub(super) full: bool,
    /// How many steps had begun when this one did, with it.
    pub(super) begun: usize,
}

impl Step {
    /// Parses a vertex's name: `[2/5] RUN make`, or `[base 2/5] RUN make` in builds of several stages.
    fn parse(name: &str) -> Option<Self> {
        let (place, order) = name.strip_prefix('[')?.split_once("] ")?;
        let (stage, number) = place.rsplit_once(' ').unwrap_or(("", place));
        let (index, count) = number.split_once('/')?;
        if [index, count].iter().any(|part| part.parse::<u32>().is_err()) {
            return None;
        }
        let place = match stage.trim() {
            "" => format!("Step {number}"),
            stage => format!("Step {number} of stage {}", harmless(stage.as_bytes(), STEP)),
        };
        Some(Self { place, order: harmless(order.as_bytes(), STEP) })
    }

    /// Its instruction, like `RUN`.
    pub(super) fn instruction(&self) -> &str {
        self.order.split(' ').next().unwrap_or_default()
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.place, self.order)
    }
}

impl Output {
    /// Takes a line.
    pub(super) fn line(&mut self, line: &[u8]) {
        let Some((number, rest)) = vertex(line) else {
            self.outside(line);
            return;
        };
        if number > self.newest {
            self.newest = number;
            let step = Step::parse(&String::from_utf8_lossy(rest.get(..KEPT_BYTES).unwrap_or(rest)));
            self.steps += usize::from(step.is_some());
            if self.under_way.len() == VERTICES {
                self.under_way.pop_first();
            }
            self.under_way.insert(number, Vertex { step, begun: self.steps, ..Vertex::default() });
        } else if rest.starts_with(b"DONE ") || rest == b"CACHED" || rest == b"CANCELED" {
            self.under_way.remove(&number);
        } else if let Some(error) = rest.strip_prefix(b"ERROR: ") {
            let vertex = self.under_way.remove(&number).unwrap_or_default();
            if self.failed.len() < FAILED {
                self.failed.push((error.to_vec(), vertex));
            }
        } else if let Some(vertex) = self.under_way.get_mut(&number)
            && let Some(output) = output(rest)
        {
            vertex.full |= is_full(output);
            keep(&mut vertex.last, output);
        }
    }

    fn outside(&mut self, line: &[u8]) {
        if line.starts_with(b"ERROR: ") {
            self.error = line.get(..ERROR_BYTES).unwrap_or(line).to_vec();
        } else if let Some((number, text)) = marked(line) {
            match &mut self.marked {
                Some(step) => {
                    step.order = harmless(format!("{} {text}", step.order).as_bytes(), STEP);
                }
                none => {
                    *none = Some(Step {
                        place: format!("Line {number}"),
                        order: harmless(text.as_bytes(), STEP),
                    });
                }
            }
        } else {
            keep(&mut self.rest, line);
        }
    }

    /// How many steps have begun.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// What it says of a builder that ended with this status.
    pub(super) fn failure(self, status: u32) -> Failure {
        let full = is_full(&self.error);
        let whole = harmless(&self.error, ERROR_BYTES);
        let error = without_prefixes(&whole).replace(CONTEXT, "");
        let (error, status) = match exit_code(&error) {
            Some(code) => (String::new(), code),
            None => (harmless(error.as_bytes(), ERROR), status),
        };
        // Of several that fail at the same time, the last line tells the error of one.
        let told = self.failed.iter().position(|(error, _)| self.error.ends_with(error)).unwrap_or_default();
        let failed = self.failed.into_iter().nth(told).map(|(_, vertex)| vertex).unwrap_or_default();
        let lines = if self.error.is_empty() { self.rest } else { failed.last };
        let lines = lines.iter().map(|line| harmless(line, LINE)).filter(|line| !line.is_empty());
        Failure {
            step: failed.step.or(self.marked),
            error,
            lines: last_of(lines.collect()),
            status,
            full: full || failed.full,
            begun: failed.begun.min(self.steps),
        }
    }
}

impl Failure {
    /// The sentence without the last lines: `Step 3/5 (RUN make) ended with exit status 2.`
    pub(super) fn what(&self) -> String {
        let who = self.step.as_ref().map_or_else(|| "The build".to_owned(), ToString::to_string);
        let when = if self.step.is_none() && self.begun == 0 { " before its first step" } else { "" };
        if self.error.is_empty() {
            return format!("{who} ended with exit status {}{when}.", self.status);
        }
        let hint = hint(&self.error).map(|hint| format!(" {hint}")).unwrap_or_default();
        format!("{who} failed{when}: {}.{hint}", self.error.trim_end_matches('.'))
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

/// What to write instead of what an error is about.
fn hint(error: &str) -> Option<&'static str> {
    if error.contains("unknown flag: --parents") {
        return Some("Write a COPY for each folder, with the folder in its target.");
    }
    if error.contains("unknown flag: --security") || error.contains("security.insecure") {
        return Some("A RUN has Docker's capabilities and no more: leave the flag out.");
    }
    if error.starts_with("secret ") && error.ends_with(": not found") {
        return Some("A build here is given no secrets: leave `required` out, and do without it.");
    }
    error
        .contains("unset ssh forward key")
        .then_some("A build here is given no SSH keys: leave `required` out, and fetch over HTTPS.")
}

/// A line's vertex, and what comes behind its number.
fn vertex(line: &[u8]) -> Option<(u32, &[u8])> {
    let rest = line.strip_prefix(b"#")?;
    let end = rest.iter().position(|byte| *byte == b' ')?;
    let (number, rest) = rest.split_at_checked(end)?;
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some((number, rest.get(1..)?))
}

/// What a command has written: a vertex's line without the time before it.
fn output(rest: &[u8]) -> Option<&[u8]> {
    let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
    let (time, written) = rest.split_at_checked(end)?;
    let is_time = time.contains(&b'.') && time.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    is_time.then(|| written.get(1..).unwrap_or_default())
}

/// A line of the Dockerfile that an error is about: its number and text.
fn marked(line: &[u8]) -> Option<(u32, String)> {
    let line = String::from_utf8_lossy(line.get(..KEPT_BYTES).unwrap_or(line));
    let (number, text) = line.split_once(" | >>>")?;
    Some((number.trim().parse().ok()?, text.trim().to_owned()))
}

fn keep(lines: &mut VecDeque<Vec<u8>>, line: &[u8]) {
    // Of a line that shows progress, the end is what a terminal shows.
    let ended = line.strip_suffix(b"\r").unwrap_or(line);
    let shown = ended.rsplit(|byte| *byte == b'\r').next().unwrap_or(ended);
    if shown.iter().all(u8::is_ascii_whitespace) {
        return;
    }
    if lines.len() == KEPT {
        lines.pop_front();
    }
    lines.push_back(shown.get(..KEPT_BYTES).unwrap_or(shown).to_vec());
}

/// Whether a text says that a disk is full.
pub(super) fn is_full(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).to_ascii_lowercase().contains("no space left on device")
}

/// An error without the words that each has, and without names of BuildKit's own.
fn without_prefixes(error: &str) -> &str {
    let mut error = error;
    for prefix in ["ERROR: ", "failed to build: ", "failed to solve: ", "failed to compute cache key: "] {
        error = error.strip_prefix(prefix).unwrap_or(error);
    }
    let checksum = error.strip_prefix("failed to calculate checksum of ref ");
    checksum.and_then(|rest| rest.split_once(": ")).map_or(error, |(_, rest)| rest)
}

/// The exit code, if an error says nothing but that a command has ended with it.
fn exit_code(error: &str) -> Option<u32> {
    let (_, code) =
        error.strip_prefix("process \"")?.rsplit_once("\" did not complete successfully: exit code: ")?;
    let end = code.find(|c: char| !c.is_ascii_digit()).unwrap_or(code.len());
    code.get(..end)?.parse().ok()
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

    fn failure(lines: &str) -> Failure {
        let mut output = Output::default();
        lines.lines().for_each(|line| output.line(line.as_bytes()));
        output.failure(1)
    }

    fn said(lines: &str) -> String {
        let failure = failure(lines);
        failure.what() + &failure.last_lines()
    }

    /// As `dockerd` 28.5.2 writes it.
    const DOOMED: &str = "\
#0 building with \"default\" instance using docker driver

#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 98B done
#1 DONE 0.0s

#2 [internal] load metadata for docker.io/hearth/debian:13
#2 DONE 0.0s

#4 [1/3] FROM docker.io/hearth/debian:13
#4 CACHED

#5 [2/3] RUN echo before; echo '#7 [9/9] RUN other'
#5 0.098 before
#5 0.098 #7 [9/9] RUN other
#5 DONE 0.1s

#6 [3/3] RUN echo doomed && exit 7
#6 0.116 doomed
#6 ERROR: process \"/bin/sh -c echo doomed && exit 7\" did not complete successfully: exit code: 7
------
 > [3/3] RUN echo doomed && exit 7:
0.116 doomed
------
Dockerfile:3
--------------------
   2 |     RUN echo before; echo '#7 [9/9] RUN other'
   3 | >>> RUN echo doomed && exit 7
   4 |     
--------------------
ERROR: failed to build: failed to solve: process \"/bin/sh -c echo doomed && exit 7\" did not complete successfully: exit code: 7
";

    #[test]
    fn the_step_its_status_and_its_last_lines_are_told() {
        assert_eq!(
            said(DOOMED),
            "Step 3/3 (RUN echo doomed && exit 7) ended with exit status 7. Its last line: doomed"
        );
        assert_eq!(failure(DOOMED).begun, 3);
    }

    #[test]
    fn of_steps_at_the_same_time_the_one_that_fails_is_told() {
        let lines = "\
#7 [a 2/2] RUN sleep 1; echo no; exit 3
#7 0.100 from a
#7 ...

#8 [b  2/12] RUN yes
#8 0.090 from b
#8 ...

#7 [a 2/2] RUN sleep 1; echo no; exit 3
#7 1.101 no
#7 ERROR: process \"/bin/sh -c sleep 1; echo no; exit 3\" did not complete successfully: exit code: 3

#8 [b  2/12] RUN yes
#8 CANCELED
ERROR: failed to build: failed to solve: process \"/bin/sh -c sleep 1; echo no; exit 3\" did not complete successfully: exit code: 3
";
        assert_eq!(
            said(lines),
            "Step 2/2 of stage a (RUN sleep 1; echo no; exit 3) ended with exit status 3. Its last lines: from a | no"
        );
        assert_eq!(failure(lines).begun, 1, "the second one began later");
    }

    #[test]
    fn of_those_that_fail_at_the_same_time_the_one_that_the_end_tells_is_told() {
        let lines = "\
#37 [a 2/2] RUN false
#38 [stage-1 2/3] COPY --from=b /done /x
#37 ERROR: process \"/bin/sh -c false\" did not complete successfully: exit code: 1
#38 ERROR: failed to calculate checksum of ref 3::5: \"/done\": not found
ERROR: failed to build: failed to solve: failed to compute cache key: failed to calculate checksum of ref 3::5: \"/done\": not found";
        assert_eq!(
            said(lines),
            "Step 2/3 of stage stage-1 (COPY --from=b /done /x) failed: \"/done\": not found."
        );
    }

    #[test]
    fn what_is_no_commands_fault_is_told_in_the_builders_words() {
        let copy = "\
#6 [2/2] COPY nothere /x
#6 ERROR: failed to calculate checksum of ref edb28348-3f0c::xh8cx1: \"/nothere\": not found
------
 > [2/2] COPY nothere /x:
------
Dockerfile:2
--------------------
   1 |     FROM hearth/debian:13
   2 | >>> COPY nothere /x
   3 |     
--------------------
ERROR: failed to build: failed to solve: failed to compute cache key: failed to calculate checksum of ref edb28348-3f0c::xh8cx1: \"/nothere\": not found";
        assert_eq!(said(copy), "Step 2/2 (COPY nothere /x) failed: \"/nothere\": not found.");
        let parsed = "\
#1 [internal] load build definition from Dockerfile
#1 DONE 0.1s
Dockerfile:2
--------------------
   2 | >>> RUN --security=insecure true
--------------------
ERROR: failed to build: failed to solve: dockerfile parse error on line 2: unknown flag: --security";
        assert_eq!(
            said(parsed),
            "Line 2 (RUN --security=insecure true) failed: dockerfile parse error on line 2: unknown flag: --security. A RUN has \
             Docker's capabilities and no more: leave the flag out."
        );
        let secret = "\
#5 [stage-0 2/2] RUN --mount=type=secret,id=tok,required=true cat /run/secrets/tok
#5 ERROR: secret tok: not found
ERROR: failed to build: failed to solve: secret tok: not found";
        assert!(said(secret).ends_with("failed: secret tok: not found. A build here is given no secrets: leave `required` out, and do without it."));
        assert_eq!(said(""), "The build ended with exit status 1 before its first step.");
        assert_eq!(
            said("tar: short read"),
            "The build ended with exit status 1 before its first step. Its last line: tar: short read"
        );
    }

    #[test]
    fn a_full_disk_is_that_of_the_step_that_fails() {
        let full = "#5 [1/2] RUN dd\n#5 0.1 dd: writing to '/x': No space left on device\n";
        let ends = |number: u32| {
            format!(
                "#{number} ERROR: process \"x\" did not complete successfully: exit code: 1\nERROR: failed to solve: process \"x\" did not complete successfully: exit code: 1"
            )
        };
        assert!(failure(&format!("{full}{}", ends(5))).full);
        assert!(!failure(&format!("{full}#5 DONE 1s\n#6 [2/2] RUN false\n{}", ends(6))).full);
        assert!(failure("#7 exporting to image\n#7 ERROR: write /x: no space left on device\nERROR: failed to solve: write /x: no space left on device").full);
    }

    #[test]
    fn the_last_lines_are_few_short_and_harmless() {
        let mut output = Output::default();
        output.line(b"#5 [1/1] RUN \x1b[2Jyes");
        for number in 0..10_000 {
            output.line(format!("#5 0.1 10%\r\x1b[31m{number} {}\x07", "x".repeat(number % 5000)).as_bytes());
        }
        let kept = &output.under_way[&5].last;
        assert!(kept.len() <= KEPT && kept.iter().all(|line| line.len() <= KEPT_BYTES));
        for number in 6..1000 {
            output.line(format!("#{number} [1/1] RUN x").as_bytes());
        }
        assert!(output.under_way.len() <= VERTICES);
        let mut output = Output::default();
        output.line(b"#5 [1/1] RUN \x1b[2Jyes");
        output.line(format!("#5 0.1 9999 {}\x1b[31m", "x".repeat(400)).as_bytes());
        output.line(b"#5 ERROR: process \"yes\" did not complete successfully: exit code: 1");
        output.line(b"ERROR: failed to solve: process \"yes\" did not complete successfully: exit code: 1");
        let failure = output.failure(1);
        assert_eq!(failure.what(), "Step 1/1 (RUN yes) ended with exit status 1.");
        let lines = failure.last_lines();
        assert!(lines.len() < 1000 && lines.contains("9999 ") && !lines.contains('\x1b'), "{lines}");
    }
}
