//! Container bases: configured Debian roots, as small as slim images are, with a working `apt-get`.

use std::path::Path;

use super::debian::{self, Package, State};
use super::oci::Image;
use super::recipe::{ContainerRecipe, Recipe, Sources};
use super::twins::Twins;
use super::{BaseError, Progress, files};

/// Configuration of a base's own apt and dpkg, as in other slim images.
const FILES: [(&str, u32, &str); 2] = [
    (
        "etc/apt/apt.conf.d/90slim",
        0o644,
        "APT::AutoRemove::SuggestsImportant \"false\";\nAPT::Keep-Downloaded-Packages \"false\";\n\
         Acquire::GzipIndexes \"true\";\nAcquire::Languages \"none\";\n\
         Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n",
    ),
    // No package may start services in a container.
    ("usr/sbin/policy-rc.d", 0o755, "#!/bin/sh\nexit 101\n"),
];

/// A container base.
#[derive(Debug, Clone)]
pub(crate) struct ContainerBase {
    /// The OCI image of the base.
    pub(crate) image: Image,
    /// The packages in the base.
    pub(crate) packages: Vec<Package>,
    /// Time of the newest file in the base, in seconds since 1970.
    pub(crate) newest: u64,
}

/// Makes a container base; its files are left in `root`.
pub(crate) fn make(
    root: &Path,
    container: &ContainerRecipe,
    twins: Option<&Twins>,
    (recipe, sources): (&Recipe, &Sources),
    progress: Progress<'_>,
) -> Result<ContainerBase, BaseError> {
    let packages = install(root, container, twins, (recipe, sources), progress)?;
    let newest = files::newest(root)?;
    Ok(ContainerBase { image: Image::of(root, container)?, packages, newest })
}

/// Makes the files of one container as those of a container base, in the folder `root`, which does not exist yet; its parent is for temporary
/// files. For whoever makes another kind of image of them. Returns the packages in it.
///
/// # Errors
///
/// Programs, packages or privileges are missing.
pub fn make_files(
    root: &Path,
    container: &ContainerRecipe,
    (recipe, sources): (&Recipe, &Sources),
    progress: Progress<'_>,
) -> Result<Vec<Package>, BaseError> {
    let alone = Recipe { containers: vec![container.clone()], ..recipe.clone() };
    let work = root.with_extension("twins");
    let place = work.join("root");
    files::create_folder(&work)?;
    let twins = Twins::make(&place, (&alone, sources), progress)?;
    let packages = install(root, container, twins.as_ref(), (&alone, sources), progress)?;
    files::remove(&work)?;
    Ok(packages)
}

fn install(
    root: &Path,
    container: &ContainerRecipe,
    twins: Option<&Twins>,
    (recipe, sources): (&Recipe, &Sources),
    progress: Progress<'_>,
) -> Result<Vec<Package>, BaseError> {
    let name = container.reference();
    progress(&format!("{name}: installing packages"));
    let made =
        debian::make_root(root, &container.packages, State::Configured(twins), (recipe, sources), progress)?;
    tidy(root, recipe)?;
    debian::date_generated_files(root, made.started, recipe.generated_files_date)?;
    Ok(made.packages)
}

/// Adapts a root to a container, which has its own devices and names, and adds Debian's own sources.
fn tidy(root: &Path, recipe: &Recipe) -> Result<(), BaseError> {
    for path in ["dev", "etc/hosts", "etc/apt/sources.list"] {
        files::remove(&root.join(path))?;
    }
    files::create_folder(&root.join("dev"))?;
    for (path, mode, content) in FILES {
        files::write_with_mode(&root.join(path), mode, content)?;
    }
    files::write(&root.join("etc/apt/sources.list.d/debian.sources"), sources_file(&recipe.suite))
}

fn sources_file(suite: &str) -> String {
    let keyring = "/usr/share/keyrings/debian-archive-keyring.pgp";
    format!(
        "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {suite} {suite}-updates\nComponents: main\n\
         Signed-By: {keyring}\n\nTypes: deb\nURIs: http://deb.debian.org/debian-security\n\
         Suites: {suite}-security\nComponents: main\nSigned-By: {keyring}\n"
    )
}
