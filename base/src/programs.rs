//! Runs other programs so that none of them outlives this process.

use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::BaseError;

/// Number of last lines of a failed program's output that are kept.
const TAIL_LINES: usize = 30;

/// A required program, and the Debian package that contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

impl Program {
    pub(crate) const fn new(name: &'static str, package: &'static str) -> Self {
        Self { name, package }
    }
}

/// Checks that all of these are installed.
pub(crate) fn require(programs: &[Program]) -> Result<(), BaseError> {
    let missing: Vec<_> = programs.iter().filter(|program| find(program.name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|program| program.package).collect();
    packages.dedup();
    let programs: Vec<_> = missing.iter().map(|program| program.name).collect();
    Err(BaseError::Missing { programs: programs.join(", "), packages: packages.join(" ") })
}

/// Checks that this process runs as root.
pub(crate) fn require_root(what: &'static str) -> Result<(), BaseError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(BaseError::NotRoot(what)) }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = search_path();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The user's search path with root's folders, which contain `depmod` and the like.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

/// A command that is killed when the thread that starts it ends, prints English messages, and has an empty stdin.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path()).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    hearth_sys::die_with_starter(&mut command);
    command
}

/// A command in mount and process namespaces of its own: its mounts and daemons disappear when it ends, also when this process is
/// killed.
pub(crate) fn isolated(program: &str) -> Command {
    let mut command = command("unshare");
    command.args([
        "--mount",
        "--propagation=private",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
        "--",
    ]);
    command.arg(program);
    command
}

/// Runs a command until it ends, and returns its stdout.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>, BaseError> {
    let program = match command.get_program().to_string_lossy() {
        name if name == "unshare" => isolated_name(command),
        name => name.into_owned(),
    };
    let output =
        command.output().map_err(|source| BaseError::NotStarted { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut text = output.stdout;
    text.extend_from_slice(&output.stderr);
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(TAIL_LINES);
    let tail = lines.get(start..).unwrap_or_default().join("\n");
    Err(BaseError::Failed { program, status: output.status, output: tail })
}

/// The program that an isolated command runs.
fn isolated_name(command: &Command) -> String {
    let mut words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    words.by_ref().find(|word| word == "--");
    words.next().unwrap_or_else(|| "unshare".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_with_their_packages() {
        let error = require(&[Program::new("sh", "dash"), Program::new("no-such-program", "some-package")]);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("no-such-program") && text.contains("install some-package"), "{text}");
        assert!(!text.contains("dash"));
    }

    #[test]
    fn a_failure_tells_what_the_program_said() {
        let text = run(command("sh").args(["-c", "echo no luck; exit 3"])).unwrap_err().to_string();
        assert!(text.starts_with("sh failed") && text.ends_with("no luck"), "{text}");
        assert_eq!(run(command("echo").arg("yes")).unwrap(), b"yes\n");
    }

    #[test]
    fn an_isolated_command_is_named_by_its_program() {
        assert_eq!(isolated_name(&isolated("mmdebstrap")), "mmdebstrap");
    }
}
