//! Calls `mmdebstrap`: the part of Debian's packages that gets into a root, and the environment of their scripts.

use std::collections::BTreeSet;
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
        programs::run(&mut command).map(drop).map_err(|error| vanished(error, recipe, sources))
    }
}

/// Names the packages that a mirror does not have, if that is why a call failed.
fn vanished(error: BaseError, recipe: &Recipe, sources: &Sources) -> BaseError {
    let BaseError::Failed { output, .. } = &error else { return error };
    let mut packages = BTreeSet::new();
    for line in output.lines() {
        let unknown = line.split_once("Unable to locate package ");
        let unknown =
            unknown.or_else(|| line.split_once("has no installation candidate").map(|(name, _)| ("", name)));
        let gone = line.split_once("Failed to fetch ").filter(|(_, rest)| rest.contains("404 "));
        let gone = gone.and_then(|(_, rest)| rest.split_whitespace().next()?.rsplit('/').next());
        let unknown =
            unknown.map(|(_, name)| name.trim_start_matches("E: Package ").trim().trim_matches('\''));
        packages.extend(unknown.or(gone).map(str::to_owned));
    }
    if packages.is_empty() {
        return error;
    }
    BaseError::Vanished {
        packages: packages.into_iter().collect::<Vec<_>>().join(", "),
        suite: recipe.suite.clone(),
        mirror: sources.mirror.clone(),
    }
}

/// Sets the environment of packages' scripts: no questions, and a fixed time for generated files.
pub(crate) fn environment(command: &mut Command, recipe: &Recipe) {
    command.env("SOURCE_DATE_EPOCH", recipe.generated_files_date.to_string());
    command.env("DEBIAN_FRONTEND", "noninteractive").env("DEBCONF_NONINTERACTIVE_SEEN", "true");
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn packages_that_a_mirror_has_no_longer_are_named_with_suite_and_mirror() {
        let said = |output: &str| {
            let status = ExitStatus::from_raw(25 << 8);
            let error = BaseError::Failed { program: "mmdebstrap".into(), status, output: output.into() };
            vanished(error, &Recipe::own().unwrap().of_builder(), &Sources::default()).to_string()
        };
        let text = said(
            "E: Unable to locate package nosuch\nE: Package 'runc' has no installation candidate\n\
             E: Failed to fetch http://mirror.test/pool/b/docker.io_28.5_arm64.deb  404  Not Found [IP: ::1 80]\n",
        );
        for part in
            ["nosuch", "runc", "docker.io_28.5_arm64.deb", "forky", &Sources::default().mirror, "snapshot"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(said("E: no space").starts_with("mmdebstrap failed"));
    }
}
