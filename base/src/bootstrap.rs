//! Calls `mmdebstrap`: the part of Debian's packages that gets into a root, and the environment of their scripts.

use std::path::Path;
use std::process::Command;

use super::recipe::{Recipe, Sources};
use super::{BaseError, programs};

/// Paths that are left out of roots: documentation and translations, as in other slim images. dpkg in the root applies this, too.
const LEFT_OUT: [&str; 10] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/groff/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/bash-completion/completions/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
];

/// A call of `mmdebstrap`.
#[derive(Debug)]
pub(crate) struct Bootstrap<'a> {
    /// The folder to make. Its parent is used for temporary files.
    pub(crate) root: &'a Path,
    /// Debian's name of the architecture.
    pub(crate) architecture: &'a str,
    /// mmdebstrap's variant: which packages are added to the named ones, and whether they are configured.
    pub(crate) variant: &'a str,
    /// The named packages, or apt's patterns for them.
    pub(crate) packages: &'a [String],
    /// A hook that runs when all archives are unpacked and not yet deleted.
    pub(crate) hook: Option<&'a str>,
}

impl Bootstrap<'_> {
    /// Makes the root.
    pub(crate) fn run(&self, (recipe, sources): (&Recipe, &Sources)) -> Result<(), BaseError> {
        let mut command = programs::isolated("mmdebstrap");
        command.args(["--mode=root", "--format=directory", "--quiet"]);
        command.arg(format!("--arch={}", self.architecture)).arg(format!("--variant={}", self.variant));
        // Each pattern gets an option of its own, because apt's patterns may contain commas.
        command.args(self.packages.iter().map(|package| format!("--include={package}")));
        command.args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""]);
        command.args(["--aptopt=Acquire::Retries \"3\"", "--aptopt=APT::Sandbox::User \"root\""]);
        command.args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")));
        command.args(self.hook.map(|hook| format!("--extract-hook={hook}")));
        command.arg(&recipe.suite).arg(self.root).args(sources.lines(&recipe.suite));
        environment(&mut command, recipe);
        command.env("TMPDIR", self.root.parent().unwrap_or(self.root));
        programs::run(&mut command).map(drop)
    }
}

/// Sets the environment of packages' scripts: no questions, and a fixed time for generated files.
pub(crate) fn environment(command: &mut Command, recipe: &Recipe) {
    command.env("SOURCE_DATE_EPOCH", recipe.generated_files_date.to_string());
    command.env("DEBIAN_FRONTEND", "noninteractive").env("DEBCONF_NONINTERACTIVE_SEEN", "true");
}
