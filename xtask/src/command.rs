//! Runs other programs, with errors that contain the program's name, its arguments and its output.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, io};

use anyhow::{Context, Result, bail};

use crate::progress;

/// Interval at which a long step reports that it still runs.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Variables that `cargo run` adds to the environment. Children must not inherit them, because they would affect another cargo or compiler.
const CARGO_LEFTOVERS: [&str; 4] = ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "LD_LIBRARY_PATH"];

/// A command with the user's environment, without the variables that `cargo run` has added.
pub(crate) fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in CARGO_LEFTOVERS {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
}

/// The command line as a user would type it (for messages only).
pub(crate) fn line(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        let argument = argument.to_string_lossy();
        if argument.is_empty() || argument.contains(|c: char| c.is_whitespace() || "'\"$\\".contains(c)) {
            text.push_str(&format!("'{argument}'"));
        } else {
            text.push_str(&argument);
        }
    }
    text
}

/// Runs a command with this process's stdout and stderr; any exit status but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| not_started(command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command and returns its stdout; if it fails, its stderr is part of the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| not_started(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", line(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a long command with its output in `log` and a report every 30 s; a failure shows the end of the log.
pub(crate) fn run_logged(command: &mut Command, log: &Path, what: &str) -> Result<()> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().with_context(|| not_started(command))?;
    let start = Instant::now();
    let mut next = HEARTBEAT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() >= next {
            next += HEARTBEAT;
            progress::note(&format!("   {what}: {} so far", progress::clock(start.elapsed())));
        }
        thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        bail!(
            "`{}` failed ({status}); the end of its output:\n{}\nall of it is in {}",
            line(command),
            tail(log, 25),
            log.display()
        );
    }
    Ok(())
}

/// Runs a command silently with a time limit; `Ok(false)` if it failed or was killed at the limit.
pub(crate) fn succeeds_within(command: &mut Command, limit: Duration) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| not_started(command))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The last lines of a file, indented; empty when it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().map(str::trim_end).collect();
    let start = all.len().saturating_sub(lines);
    all.iter().skip(start).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// How many tasks this machine can run at once.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(2, usize::from)
}

/// Path of a program on the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate).unwrap_or(false))
}

fn is_executable(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let meta = fs::metadata(path)?;
    Ok(meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn not_started(command: &Command) -> String {
    format!("cannot run `{}`; is it installed?", command.get_program().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_run_and_what_it_said() {
        let error = capture(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no luck"), "{text}");
        assert_eq!(capture(Command::new("echo").arg("yes")).unwrap(), "yes\n");
    }

    #[test]
    fn a_time_limit_ends_a_command() {
        let start = Instant::now();
        assert!(!succeeds_within(Command::new("sleep").arg("20"), Duration::from_millis(100)).unwrap());
        assert!(succeeds_within(&mut Command::new("true"), Duration::from_secs(10)).unwrap());
        assert!(start.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn tails_are_short() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&log, 2), "    b\n    c");
        assert_eq!(tail(Path::new("nowhere"), 2), "");
    }
}
