//! Cargo's own helpers (cargo-fuzz, cargo-deny), installed into the cache where the machine does not have them.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::command;
use crate::progress;

/// A helper at the version that a run installs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// The crate, which is also the program's name.
    pub(crate) name: &'static str,
    /// Its version.
    pub(crate) version: &'static str,
}

impl Tool {
    /// The program: the machine's own, else one in the cache, installed on first use.
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
            // Whatever toolchain the workspace asks for is not the helper's.
            cargo.current_dir(folder).env("CARGO_TARGET_DIR", cache.path("target-tools"));
            command::run_logged(&mut cargo, &folder.join("install.log"), self.name)
                .with_context(|| format!("cannot install {}", self.name))
        })?;
        Ok(folder.join("bin").join(self.name))
    }
}
