//! `cargo xtask bench proxy`: compares the endpoints with nginx, on this machine.
//!
//! nginx and h2load are Debian's, from the same suite as everything else here, unpacked into the cache with all libraries that
//! they need: the same on every machine, nothing is installed, and no service is started.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::daemon;
use crate::packages;
use crate::parts::{self, Executable};
use crate::private_apt;
use crate::progress::Steps;
use crate::toolchain;

const PACKAGE: &str = "hearth-benches";
const BENCH: &str = "proxy-bench";
/// The feature of [`PACKAGE`] that includes the daemon.
const FEATURE: &str = "hostd";
const PACKAGES: [&str; 2] = ["nginx", "nghttp2-client"];
/// Paths of the programs in these packages.
const NGINX: &str = "usr/sbin/nginx";
const H2LOAD: &str = "usr/bin/h2load";
/// Must change when [`finish`] makes a different tree from the same packages.
const RECIPE: &str = "proxy-bench 1";
/// Path of the dynamic loader in the tree; the path of its libraries follows.
const INTERPRETER: &str = if cfg!(target_arch = "aarch64") {
    "usr/lib/ld-linux-aarch64.so.1"
} else {
    "usr/lib64/ld-linux-x86-64.so.2"
};
const LIBRARIES: &str =
    if cfg!(target_arch = "aarch64") { "usr/lib/aarch64-linux-gnu" } else { "usr/lib/x86_64-linux-gnu" };

/// The endpoints' proxy beside nginx as reverse proxy, on this machine: requests a second, latency that is added, bytes a second.
#[derive(Args, Debug)]
pub(super) struct Proxy {
    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: u32,
    /// For how long requests are counted each time
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    seconds: u32,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Proxy {
    pub(super) fn run(self, cache: &Cache) -> Result<u8> {
        let mut steps = Steps::default();
        let tree = steps.run("nginx and h2load", || {
            private_apt::fetch_tree(cache, packages::own_architecture(), &PACKAGES, RECIPE, finish)
                .context("nginx and h2load are Debian's packages")
        })?;
        let bench = steps.run("build for this machine", || {
            let mut cargo = toolchain::native(cache)?;
            cargo.args(["build", "--profile", daemon::SHIPPED, "--package", PACKAGE]);
            cargo.args(["--features", FEATURE, "--bin", BENCH]);
            parts::executable_of(&mut cargo, PACKAGE, Executable::Binary(BENCH))
        })?;
        steps.run("measure on this machine", || {
            let mut command = Command::new(bench);
            command.arg("--nginx").arg(wrapper(&tree.root, NGINX));
            command.arg("--h2load").arg(wrapper(&tree.root, H2LOAD));
            command.args(["--rounds", &self.rounds.to_string(), "--seconds", &self.seconds.to_string()]);
            if let Some(file) = &self.json {
                command.arg("--json").arg(file);
            }
            let status = command.status().with_context(|| format!("cannot run {BENCH}"))?;
            if !status.success() {
                bail!("{BENCH}: {status}");
            }
            Ok(())
        })?;
        eprint!("{}", steps.table());
        Ok(0)
    }
}

/// Path of the script that runs a program of the tree.
fn wrapper(root: &Path, program: &str) -> PathBuf {
    root.join(Path::new(program).file_name().unwrap_or_default())
}

/// Makes scripts that run the tree's programs with the tree's own libraries instead of this machine's.
fn finish(root: &Path) -> Result<()> {
    for program in [NGINX, H2LOAD] {
        for needed in [program, INTERPRETER] {
            if !root.join(needed).exists() {
                bail!("the packages hold no {needed}");
            }
        }
        let path = wrapper(root, program);
        let script = format!(
            "#!/bin/sh\nroot=$(dirname \"$0\")\n\
             exec \"$root/{INTERPRETER}\" --library-path \"$root/{LIBRARIES}\" \"$root/{program}\" \"$@\"\n"
        );
        fs::write(&path, script)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_run_with_the_libraries_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(finish(root).unwrap_err().to_string().contains(NGINX));
        for path in [NGINX, H2LOAD, INTERPRETER] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "#!/bin/sh\necho \"$@\"\n").unwrap();
            fs::set_permissions(root.join(path), Permissions::from_mode(0o755)).unwrap();
        }
        finish(root).unwrap();
        let said = Command::new(wrapper(root, H2LOAD)).args(["-n", "1 2"]).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let root = root.display();
        assert_eq!(said, format!("--library-path {root}/{LIBRARIES} {root}/{H2LOAD} -n 1 2\n"));
    }
}
