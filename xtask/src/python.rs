//! A virtual environment of Python with clients of AWS: tests and the demo run them.
//!
//! `tests/aws/requirements.txt` pins each package with the hashes of its files, so that pip installs nothing else.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, content_key};
use crate::command;
use crate::packages::{Need, library, program};
use crate::progress;
use crate::toolchain;

/// The packages, in the workspace.
const REQUIREMENTS: &str = "tests/aws/requirements.txt";
/// Python, with the module that makes virtual environments.
pub(crate) const NEEDS: [Need; 2] = [
    program("python3", "python3", "runs clients of AWS"),
    library("python3-venv", "installs clients of AWS"),
];

/// The interpreter of the environment, which is installed if the cache does not have it.
pub(crate) fn prepare(cache: &Cache) -> Result<PathBuf> {
    let requirements = toolchain::repository()?.join(REQUIREMENTS);
    let text = fs::read(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let version = command::capture(Command::new("python3").arg("--version"))?;
    // Programs of an environment contain its path, so it is made where it stays: the artefact is the mark that it is complete.
    let key = content_key(&[&text, version.as_bytes()]);
    let folder = cache.path("python").join(&key);
    let python = folder.join("bin/python");
    cache.artefact("python-complete", &key, |mark| {
        progress::note("   installing clients of AWS from PyPI (boto3, AWS CLI; once)");
        command::run(command::clean("python3").args(["-m", "venv", "--clear"]).arg(&folder)).context(
            "python3 cannot make a virtual environment; on Debian the package python3-venv lets it",
        )?;
        let mut pip = command::clean(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
        pip.args(["--require-hashes", "--only-binary", ":all:", "--requirement"]).arg(&requirements);
        command::run_logged(&mut pip, &mark.join("install.log"), "pip")
            .context("the clients of AWS cannot be installed; does this machine reach PyPI?")
    })?;
    Ok(python)
}
