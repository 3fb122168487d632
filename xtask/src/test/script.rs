//! The script that runs several programs with tests on one metal, one after the other, and its report.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::metal::transfer::quote;

/// Name of its report in the folder of outputs: a name, the exit status and the time in seconds on a line for each program.
pub(super) const NOTES: &str = "suites";
/// Runs a program with a time limit. The first failure ends the script: later programs could fail for the same reason, and take
/// minutes. What a program leaves running would disturb the next one: after a moment it is named and killed.
const HEAD: &str = r#"
left() {
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/exe")" in "$HEARTH_IN"/*) echo "$process $(tr '\0' ' ' < "$process/cmdline")" ;; esac
    done
}
now() { cut -d' ' -f1 /proc/uptime; }
run() {
    name=$1 title=$2 limit=$3
    shift 3
    echo "── $title" >&2
    begin=$(now)
    timeout "$limit" "$@"
    status=$?
    tries=0
    while [ -n "$(left)" ] && [ $tries -lt 3 ]; do
        sleep 1
        tries=$((tries + 1))
    done
    left | while read -r process words; do
        echo "a process was left behind: $words" >&2
        kill -9 "${process##*/}"
    done
    echo "$name $status $begin $(now)" >> "$HEARTH_OUT/suites"
    [ $status -eq 0 ] || exit $status
}
: > "$HEARTH_OUT/suites"
"#;

/// A program with tests.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Name in the report: one word.
    pub(super) name: String,
    /// Name for people.
    pub(super) title: String,
    /// The program and its arguments.
    pub(super) words: Vec<OsString>,
}

/// Result of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProgramResult {
    pub(super) name: String,
    pub(super) status: u8,
    pub(super) time: Duration,
}

/// The text of the script; no program may take longer than `limit`.
pub(super) fn text(runs: &[Run], limit: Duration) -> Vec<u8> {
    let mut text = HEAD.as_bytes().to_vec();
    for Run { name, title, words } in runs {
        text.extend_from_slice(b"run");
        let limit = limit.as_secs().to_string();
        for word in [name, title, &limit].map(OsString::from).iter().chain(words) {
            text.push(b' ');
            quote(word, &mut text);
        }
        text.push(b'\n');
    }
    text
}

/// Reads the report; empty if the script was not started.
pub(super) fn read(notes: &Path) -> Result<Vec<ProgramResult>> {
    let text = match fs::read_to_string(notes) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", notes.display()))?,
    };
    let results: Option<Vec<_>> = text.lines().map(line).collect();
    results.with_context(|| format!("{} is not what the script writes", notes.display()))
}

fn line(line: &str) -> Option<ProgramResult> {
    let words: Vec<&str> = line.split(' ').collect();
    let [name, status, begin, end] = words[..] else { return None };
    let (begin, end): (f64, f64) = (begin.parse().ok()?, end.parse().ok()?);
    Some(ProgramResult {
        name: name.to_owned(),
        status: status.parse().ok()?,
        time: Duration::try_from_secs_f64(end - begin).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(name: &str, words: &[&str]) -> Run {
        let words = words.iter().map(OsString::from).collect();
        Run { name: name.into(), title: format!("the {name}'s"), words }
    }

    fn script(runs: &[Run], folder: &Path) -> (Option<i32>, String, Vec<ProgramResult>) {
        let path = folder.join("script");
        fs::write(&path, text(runs, Duration::from_secs(20))).unwrap();
        let mut sh = Command::new("sh");
        let output = sh.arg(&path).env("HEARTH_IN", folder).env("HEARTH_OUT", folder).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said, read(&folder.join(NOTES)).unwrap())
    }

    #[test]
    fn programs_run_one_after_the_other_until_one_fails() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join(NOTES)).unwrap(), []);
        let runs = [
            run("first", &["echo", "it's one"]),
            run("second", &["sh", "-c", "exit 7"]),
            run("third", &["echo", "three"]),
        ];
        let (status, output, results) = script(&runs, folder.path());
        assert_eq!(status, Some(7));
        assert!(
            output.contains("it's one") && output.contains("── the second's") && !output.contains("three")
        );
        let names: Vec<_> = results.iter().map(|result| (result.name.as_str(), result.status)).collect();
        assert_eq!(names, [("first", 0), ("second", 7)]);
        assert_eq!(script(&runs[..1], folder.path()).0, Some(0));
    }

    #[test]
    fn what_is_left_behind_is_named_and_killed() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sleep");
        fs::copy(crate::command::find_program("sleep").unwrap(), &program).unwrap();
        let line =
            format!("{} 30 > /dev/null 2>&1 & echo $! > {}/id", program.display(), folder.path().display());
        let (status, output, _) = script(&[run("leaving", &["sh", "-c", &line])], folder.path());
        let id = fs::read_to_string(folder.path().join("id")).unwrap();
        assert_eq!(status, Some(0));
        assert!(output.contains("left behind") && output.contains("sleep 30"), "{output}");
        let process = Path::new("/proc").join(id.trim()).join("exe");
        assert!(fs::read_link(process).is_err(), "it still runs");
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        fs::write(&path, text(&[run("slow", &["sleep", "30"])], Duration::from_secs(1))).unwrap();
        let mut sh = Command::new("sh");
        let status = sh.arg(&path).env("HEARTH_IN", "/x").env("HEARTH_OUT", folder.path()).status().unwrap();
        assert!(!status.success());
        assert!(read(&folder.path().join(NOTES)).unwrap().iter().all(|result| result.status != 0));
    }
}
