//! `cargo xtask aws-model`: the part of AWS's service model that the daemon's tests compare their tables with, from botocore.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::command;
use crate::packages;
use crate::progress;
use crate::python;
use crate::toolchain;

/// The program that writes it, and where it is kept, in the workspace.
const PROGRAM: &str = "tests/aws/model.py";
const MODEL: &str = "hostd/src/api/aws/rest/model.json";

/// Writes the service model of AWS Lambda MicroVMs that tests compare with, from the botocore of tests/aws/requirements.txt.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Write nothing, and fail if the file is not that of this botocore
    #[arg(long)]
    check: bool,
}

impl Options {
    /// Writes or compares the model.
    pub(crate) fn run(&self, cache: &Cache) -> Result<u8> {
        packages::ensure(cache, &python::NEEDS)?;
        let root = toolchain::repository()?;
        let model = command::capture(command::clean(python::prepare(cache)?).arg(root.join(PROGRAM)))?;
        let path = root.join(MODEL);
        if self.check {
            let written = fs::read_to_string(&path).with_context(|| format!("cannot read {MODEL}"))?;
            if written != model {
                bail!("{MODEL} is not what botocore has; write it with `cargo xtask aws-model`");
            }
            return Ok(0);
        }
        fs::write(&path, model).with_context(|| format!("cannot write {MODEL}"))?;
        progress::note(&format!(
            "{MODEL} is written; `cargo nextest run -p hearth-hostd aws` compares it with the daemon's tables"
        ));
        Ok(0)
    }
}
