//! Tests that run on the metal because they cannot run here: tests in code that only aarch64 compiles, and tests that have been
//! skipped on this machine.
//!
//! A test that cannot run on a machine calls `hearth_testing::skip`, which records it in a file. Recorded tests run on the metal,
//! where no test may be skipped; a skipped test that does not run there either fails the run.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::suites::{FOREIGN, SUITES, Suite};
use crate::cache::{Cache, RunFolder};
use crate::command;
use crate::metal::Metal;
use crate::parts::{self, Executable, Parts, words};
use crate::toolchain;

/// Variable with the path of the file in which tests record that they were skipped: program, tab, and test on a line each.
const SKIPPED: &str = "HEARTH_SKIPPED";
/// Name of the script's list of tests that this machine has.
const HERE: &str = "tests-elsewhere";
/// Name of the script's list of tests that were skipped on this machine.
const ALSO: &str = "tests-skipped-elsewhere";
const SCRIPT_NAME: &str = "only-here.sh";
/// Runs those tests of a program that do not run elsewhere. There must be at least one.
const SCRIPT: &str = r#"set -e
tests=$("$1" --list --format terse | sed -n 's/: test$//p' | grep -vxFf "$HEARTH_IN/tests-elsewhere" || true)
tests="$tests $(cat "$HEARTH_IN/tests-skipped-elsewhere")"
[ -n "${tests# }" ] || { echo "no test is only here" >&2; exit 1; }
found=$("$1" --list --format terse --exact $tests | grep -c ': test$' || true)
[ "$found" = "$(echo $tests | wc -w)" ] || { echo "only $found of these are here: $tests" >&2; exit 1; }
exec "$1" --test-threads=1 --exact $tests
"#;

/// Tests that run only on the metal.
#[derive(Debug)]
pub(super) struct Foreign {
    folder: RunFolder,
    /// The program with the library's tests, as it was built for this machine.
    program: PathBuf,
    /// The library's tests that this machine has.
    here: String,
    /// The tests among them that were skipped.
    skipped: BTreeSet<String>,
}

impl Foreign {
    /// Lists the tests that this machine has of the library, whose other tests run on the metal.
    pub(super) fn find(cache: &Cache) -> Result<Self> {
        let suite = foreign_suite()?;
        let mut cargo = toolchain::native(cache)?;
        // The same selection as for running the tests, so that nothing is built twice.
        super::workspace(cargo.arg("test")).args(["--lib", "--no-run"]);
        let program = parts::executable_of(&mut cargo, suite.package, Executable::LibraryTest)?;
        let list = command::capture(Command::new(&program).args(["--list", "--format", "terse"]))?;
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        let here: String = names.map(|name| format!("{name}\n")).collect();
        if here.is_empty() {
            bail!("{} has no tests here", suite.package);
        }
        Ok(Self { folder: cache.run_folder()?, program, here, skipped: BTreeSet::new() })
    }

    /// Runs the library's tests that this machine has, and records which of them were skipped.
    pub(super) fn run_here(self) -> Result<Self> {
        command::run(self.note_skipped(&mut Command::new(&self.program)))?;
        self.with_skipped()
    }

    /// Has the tests of a command record which of them were skipped.
    pub(super) fn note_skipped<'a>(&self, tests: &'a mut Command) -> &'a mut Command {
        tests.env(SKIPPED, self.notes())
    }

    fn notes(&self) -> PathBuf {
        self.folder.path().join("skipped")
    }

    /// Reads the records. A test that was skipped must be one that the metal runs.
    pub(super) fn with_skipped(mut self) -> Result<Self> {
        let notes = match fs::read_to_string(self.notes()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            notes => notes.context("cannot read which tests were skipped")?,
        };
        self.skipped = to_run_on_metal(&notes, &SUITES)?;
        Ok(self)
    }

    /// Adds what [`Self::words`] need on the metal.
    pub(super) fn add(&self, parts: &mut Parts) -> Result<()> {
        parts.add_script(SCRIPT_NAME, SCRIPT)?;
        for (name, text) in [(HERE, self.here.clone()), (ALSO, lines(&self.skipped))] {
            let path = parts.path(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            parts.add(path, name);
        }
        Ok(())
    }

    /// Runs the tests of `program` that do not run here.
    pub(super) fn words(metal: &Metal, program: &str) -> Vec<OsString> {
        let inputs = metal.inputs();
        words(Path::new("sh"), [inputs.join(SCRIPT_NAME), inputs.join(program)])
    }
}

fn foreign_suite() -> Result<Suite> {
    SUITES.into_iter().find(|suite| suite.name == FOREIGN).context("no suite has the monitor's library")
}

fn lines(names: &BTreeSet<String>) -> String {
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// The names of the library's tests among those that were skipped.
fn to_run_on_metal(notes: &str, suites: &[Suite]) -> Result<BTreeSet<String>> {
    let (mut library, mut nowhere) = (BTreeSet::new(), BTreeSet::new());
    for (program, test) in notes.lines().filter_map(|line| line.split_once('\t')) {
        let of_program = |suite: &&Suite| match suite.executable {
            Executable::Test(name) => suite.natively && name == program,
            Executable::LibraryTest => suite.package.replace('-', "_") == program,
            Executable::Binary(_) | Executable::OnlyBinary => false,
        };
        match suites.iter().find(of_program) {
            Some(Suite { executable: Executable::LibraryTest, .. }) => {
                library.insert(test.to_owned());
            }
            // All tests of this program run on the metal.
            Some(_) => {}
            None => {
                nowhere.insert(format!("{program} {test}"));
            }
        }
    }
    if !nowhere.is_empty() {
        bail!(
            "these tests cannot run on this machine, and run nowhere else; each has printed what it lacks (most often root):\n{}",
            lines(&nowhere)
        );
    }
    Ok(library)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_script_runs_what_is_nowhere_else_and_what_was_skipped_there() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("script", SCRIPT);
        write(
            "program",
            "#!/bin/sh\nif [ \"$1\" != --list ]; then echo \"$@\"; exit; fi\n\
             for test in a::x a::xy c::z; do case \"$* \" in\n\
             *--exact*\" $test \"*) echo $test: test ;; *--exact*) ;; *) echo $test: test ;; esac; done\n\
             echo b: benchmark\n",
        );
        fs::set_permissions(folder.path().join("program"), Permissions::from_mode(0o755)).unwrap();
        let run = |elsewhere: &str, skipped: &str| {
            write(HERE, elsewhere);
            write(ALSO, skipped);
            let mut sh = Command::new("sh");
            sh.arg(folder.path().join("script")).arg(folder.path().join("program"));
            command::capture(sh.env("HEARTH_IN", folder.path()))
        };
        assert_eq!(run("a::x\nc::z\n", "").unwrap(), "--test-threads=1 --exact a::xy\n");
        assert_eq!(run("a::x\na::xy\n", "a::x\n").unwrap(), "--test-threads=1 --exact c::z a::x\n");
        let error = run("a::x\na::xy\n", "gone\n").unwrap_err().to_string();
        assert!(error.contains("only 1 of these"), "{error}");
        let error = run("a::x\na::xy\nc::z\n", "").unwrap_err().to_string();
        assert!(error.contains("no test is only here"), "{error}");
    }

    #[test]
    fn what_is_skipped_here_runs_on_the_metal_or_fails_the_run() {
        let notes =
            "hearth_vmm\tsnapshot::pages::tests::a\nhearth_vmm\tsnapshot::pages::tests::a\njail\twalls::b\n";
        let names = to_run_on_metal(notes, &SUITES).unwrap();
        assert_eq!(lines(&names), "snapshot::pages::tests::a\n");
        let error = to_run_on_metal("hearth_guest\tnet::c\n", &SUITES).unwrap_err().to_string();
        assert!(error.contains("hearth_guest net::c"), "{error}");
    }
}
