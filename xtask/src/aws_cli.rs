//! Version 2 of the AWS CLI, which tests run beside version 1 ([`crate::python`]): PyPI does not have it, so it is the package of
//! Debian's testing suite. It is unpacked with the Python that it needs, and nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::Cache;
use crate::command;
use crate::private_apt::{self, Source};
use crate::progress;
use crate::unpacked::Script;

/// Debian's name of it; trixie's is 2.23.6, which does not know Lambda MicroVMs.
const PACKAGE: &str = "awscli";
/// Must change when [`finish`] makes a different tree from the same packages.
const RECIPE: &str = "awscli 1";
/// The script that runs it, in the tree.
const NAME: &str = "aws";
/// The script that runs its Python.
const PYTHON: &str = "python";
/// Has Python read the tree's modules only, and leave the tree as it is.
const ENVIRONMENT: &str =
    "export PYTHONHOME=\"$root/usr\" PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1\nunset PYTHONPATH\n";

/// Path of the program, which is unpacked if the cache does not have it.
pub(crate) fn prepare(cache: &Cache) -> Result<PathBuf> {
    let tree = private_apt::fetch_tree(cache, Source::testing(), &[PACKAGE], RECIPE, finish)
        .context("version 2 of the AWS CLI, which tests run, is a package of Debian's testing suite")?;
    Ok(tree.root.join(NAME))
}

/// Makes the script, and compiles the modules, which takes most of a call's time otherwise.
fn finish(root: &Path) -> Result<()> {
    let python = Script { program: "usr/bin/python3", file: None, before: ENVIRONMENT };
    python.write(root, PYTHON)?;
    Script { file: Some("usr/bin/aws"), ..python }.write(root, NAME)?;
    let version = command::capture(Command::new(root.join(NAME)).arg("--version"))?;
    if !version.starts_with("aws-cli/2.") {
        bail!("the package {PACKAGE} is not of version 2, but {}", version.trim());
    }
    progress::note(&format!("   compiling the modules of {}", version.trim()));
    let mut compile = Command::new(root.join(PYTHON));
    compile.args(["-m", "compileall", "-q"]);
    for entry in fs::read_dir(root.join("usr/lib"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("python3") {
            compile.arg(entry.path());
        }
    }
    command::capture(&mut compile).map(drop)
}
