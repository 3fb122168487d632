//! Helpers of cargo (cargo-fuzz, cargo-deny), installed into the cache if the machine does not have them.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::command;
use crate::progress;

/// A helper and the version that a run installs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// Name of the crate, and of the program.
    pub(crate) name: &'static str,
    /// Version of the crate.
    pub(crate) version: &'static str,
}

impl Tool {
    /// Path of the program: the machine's own, else one in the cache, which is installed on first use.
    pub(crate) fn program(self, cache: &Cache) -> Result<PathBuf> {
        if let Some(found) = command::find_program(self.name) {
            return Ok(found);
        }
        let folder = cache.artefact("tools", &format!("{}-{}", self.name, self.version), |folder| {
            progress::note(&format!("   installing {} {} (a few minutes, once)", self.name, self.version));
            let mut cargo = command::clean("cargo");
            cargo
                .args(["install", "--quiet", "--locked", "--version", self.version, "--root"])
                .arg(folder)
                .arg(self.name);
            // The workspace's toolchain must not be used for the helper.
            cargo.current_dir(folder).env("CARGO_TARGET_DIR", cache.path("target-tools"));
            command::run_logged(&mut cargo, &folder.join("install.log"), self.name)
                .with_context(|| format!("cannot install {}", self.name))
        })?;
        Ok(folder.join("bin").join(self.name))
    }
}
